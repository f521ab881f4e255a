"""The coding assistant of `examples/medical`: what it shows, and what it declines, on a classification of three codes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deepwell.knowledge.index.lexical import TantivyIndex
from deepwell_bench.workloads.knowledge.icd import icd_passages, read_icd

ROOT = Path(__file__).parents[2]
TABULAR = b"""<ICD10CM.tabular><chapter><name>9</name><desc>Diseases of the circulatory system (I00-I99)</desc>
<section id="I10-I1A"><desc>Hypertensive diseases (I10-I1A)</desc>
<diag><name>I10</name><desc>Essential (primary) hypertension</desc><includes><note>high blood pressure</note></includes></diag>
<diag><name>I12</name><desc>Hypertensive chronic kidney disease</desc>
<excludes1><note>renovascular hypertension (I15.0)</note></excludes1>
<diag><name>I12.9</name><desc>Hypertensive chronic kidney disease, stage unspecified</desc></diag></diag>
</section></chapter></ICD10CM.tabular>"""


@pytest.fixture(scope="module")
def program() -> ModuleType:
    path = ROOT / "examples" / "medical" / "run.py"
    spec = importlib.util.spec_from_file_location("medical_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def classification(program: ModuleType) -> object:
    found = program.Classification.__new__(program.Classification)
    found.chapters = read_icd(TABULAR)
    found.entries = {one.code: one for chapter in found.chapters for one in chapter.walk()}
    found.passages = icd_passages(found.chapters)
    found._index = TantivyIndex()
    found._index.add(
        np.arange(1, len(found.passages) + 1, dtype=np.int64), [one.text for one in found.passages]
    )
    return found


@pytest.mark.parametrize(
    ("question", "state", "code"),
    [
        ("essential hypertension", "found", "I10"),
        ("i12.9", "found", "I12.9"),
        ("Z99.9", "unknown", None),
        ("quantum flux capacitor", "unknown", None),
        ("What medicine should I take for high blood pressure?", "declined", None),
        ("高血压吃什么药", "declined", None),
    ],
    ids=["words", "code", "no-such-code", "no-such-thing", "advice", "advice-zh"],
)
def test_answers(
    program: ModuleType, classification: object, question: str, state: str, code: str | None
) -> None:
    result = program.answer(question, classification, None, 3)
    assert result["state"] == state
    assert ([one["code"] for one in result["entries"]] or [None])[0] == code


def test_notes_are_quoted(program: ModuleType, classification: object) -> None:
    result = program.answer("renovascular hypertension", classification, None, 1)
    assert result["entries"][0]["excludes1"] == ["renovascular hypertension (I15.0)"]
