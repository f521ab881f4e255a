"""The example notebooks: whole in both languages, and every cell runs against a server of the real model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service

from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine

NOTEBOOKS = Path(str(files("deepwell.cli.up"))) / "notebooks"
ENGLISH = ("01-first-chat", "02-knowledge", "03-safety")
NAMES = [f"{name}{tail}" for name in ENGLISH for tail in (".ipynb", ".zh-CN.ipynb")]
HANZI = re.compile(r"[\u4e00-\u9fff]")
KEY = "key-of-one-user-0001"


def cells(name: str, kind: str) -> list[str]:
    """Texts of the cells of a kind."""
    whole = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in whole["cells"] if cell["cell_type"] == kind]


def run(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Runs the code of a notebook, and returns what each cell printed."""
    monkeypatch.setenv("DEEPWELL_URL", url)
    state: dict[str, Any] = {}
    printed: list[str] = []
    for code in cells(name, "code"):
        exec(compile(code, name, "exec"), state)
        printed.append(capsys.readouterr().out)
    return printed


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[Live]:
    engine: Any = open_engine(smollm2_path, quiet=True)
    running = start(make_service(engine, Codec.load(smollm2_path), model="smollm2"), engine)
    yield running
    running.stop()
    engine.close()


def test_there_are_three_with_a_twin_each() -> None:
    assert sorted(one.name for one in NOTEBOOKS.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_short_saved_without_outputs_and_linked_with_its_twin(name: str) -> None:
    whole = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    assert (whole["nbformat"], whole["nbformat_minor"]) == (4, 5)
    assert len(whole["cells"]) <= 12 and len({cell["id"] for cell in whole["cells"]}) == len(whole["cells"])
    for cell in whole["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
    prose = "\n".join(cells(name, "markdown"))
    chinese = name.endswith(".zh-CN.ipynb")
    assert all(bool(HANZI.search(text.replace("[中文]", ""))) == chinese for text in cells(name, "markdown"))
    twin = name.replace(".zh-CN", "") if chinese else name.replace(".ipynb", ".zh-CN.ipynb")
    assert f"]({twin})" in prose
    assert set(re.findall(r"\]\(([^)]+)\)", prose)) <= set(NAMES)


@pytest.mark.parametrize("name", [one for one in NAMES if one.startswith("01")])
def test_the_first_chat(
    name: str, server: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(name, server.url, monkeypatch, capsys)
    assert printed[0] == "smollm2\n" and "Paris" in printed[1] and len(printed[2]) > 20
    assert printed[3].startswith("True\n") and len(printed[3]) > 20


@pytest.mark.parametrize(
    ("name", "first"), [("02-knowledge.ipynb", "returns.md |"), ("02-knowledge.zh-CN.ipynb", "清洁.md |")]
)
def test_knowledge(
    name: str,
    first: str,
    e5_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert e5_path.exists()  # the server's own embedder
    # Its words are no sentences about the passages, so the best passage is quoted, as for a model that says too little.
    engine = FakeEngine(max_model_len=4096)
    running = start(make_service(engine, make_codec(tmp_path), model="toy"), engine)
    try:
        printed = run(name, running.url, monkeypatch, capsys)
    finally:
        running.stop()
    assert printed[1] == "completed 3\n" and printed[2].startswith(first)
    known, unknown = printed[3].split("\n   ")[:2], printed[3].splitlines()[-1]
    assert "[1]" in known[0] and ".md" in known[1] and unknown.strip() == "-"


@pytest.mark.parametrize("name", [one for one in NAMES if one.startswith("03")])
def test_safety(
    name: str, server: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = run(name, server.url, monkeypatch, capsys)
    harmless, threat = printed[1].splitlines()
    assert harmless.startswith("False []") and threat.startswith("True ['") and "', '" in threat
    assert printed[2].count(" | ") == 2


def test_a_server_with_keys_is_asked_with_the_key_that_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    service = make_service(engine, make_codec(tmp_path), model="toy", api_keys=[SecretStr(KEY)])
    running = start(service, engine)
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda text: asked.append(text) or KEY)
    monkeypatch.setenv("DEEPWELL_URL", running.url)
    try:
        exec(compile(cells("01-first-chat.ipynb", "code")[0], "cell", "exec"), {})
    finally:
        running.stop()
    assert capsys.readouterr().out == "toy\n" and asked == ["API key: "]
