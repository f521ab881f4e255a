"""The example of `examples/prompts`: what it asks, and that its folder is the packs that come along."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from deepwell.dialogue.prompts.pack import read_packs
from deepwell.dialogue.prompts.shipped import PACKS
from deepwell.errors import InvalidRequest

FOLDER = Path(__file__).parents[2] / "examples" / "prompts"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prompts_example", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_holds_the_packs_that_come_along() -> None:
    assert (FOLDER / "packs").resolve() == PACKS


def test_every_pack_is_asked_what_its_example_asks(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    packs = program.chosen([])
    said = program.run(packs, lambda asked, _choice: asked[-1]["content"][:5], None, {})
    assert said == [one.content.example.input[:5] for one in packs]
    printed = capsys.readouterr().out
    for pack in packs:
        assert f"{pack.id} {pack.version}: {pack.content.purpose}" in printed


def test_answers_that_are_one_of_a_list_are_bound_to_it(program: ModuleType) -> None:
    seen: dict[str, tuple[str, ...]] = {}
    for pack in program.chosen([]):
        program.run([pack], lambda _asked, choice, id=pack.id: str(seen.setdefault(id, choice)), None, {})
    assert "confidentiality" in seen["law-clause-en"] and "呼吸" in seen["medicine-chapter-zh"]
    assert seen["finance-loan-zh"] == ()


def test_an_own_text_takes_the_place_of_the_example(program: ModuleType) -> None:
    pack = program.chosen([])[0]
    conversation = program.asked(pack, "mine", {})
    assert conversation[-1] == {"role": "user", "content": "mine"}
    assert conversation[0]["role"] == "system"
    assert all("{{" not in one["content"] for one in conversation)


def test_an_unknown_pack_is_named_with_those_that_there_are(program: ModuleType) -> None:
    with pytest.raises(InvalidRequest, match="there is no pack nothing") as caught:
        program.chosen(["nothing"])
    assert all(one.id in caught.value.fix for one in read_packs(PACKS))


def test_the_readmes_list_every_pack() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert [one.id for one in read_packs(PACKS) if f"`{one.id}`" not in text] == []
