"""The examples of the guide on the Python API run as they stand, on the real model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepwell import LLM

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDES / page).read_text(encoding="utf-8"), re.DOTALL)


EXAMPLES = examples("python-api.md")


@pytest.mark.parametrize("code", EXAMPLES, ids=[f"{number}" for number in range(len(EXAMPLES))])
def test_every_example_runs(
    code: str,
    llm: LLM,
    adapter: Path,
    smollm2_path: Path,
    minilm_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "pirate").symlink_to(adapter)
    monkeypatch.chdir(tmp_path)
    for name, path in (("smollm2", smollm2_path), ("minilm", minilm_path)):
        code = code.replace(f'LLM("{name}")', f"LLM({str(path)!r})")
    names = {"llm": llm, "__name__": "__main__"}
    exec(compile(code, "guide", "exec", dont_inherit=True), names)
    assert capsys.readouterr().out.strip()
    if names["llm"] is not llm:
        names["llm"].close()


def test_both_languages_show_the_same_examples() -> None:
    assert examples("python-api.zh-CN.md") == EXAMPLES
    assert len(EXAMPLES) >= 12
