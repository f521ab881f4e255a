"""A small tabular list becomes entries and passages; titles are found word by word."""

import pytest

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.knowledge.control_questions import control_questions
from deepwell_bench.workloads.knowledge.icd import icd_passages, read_icd
from deepwell_bench.workloads.knowledge.icd_questions import TitleFinder

TABULAR = b"""<ICD10CM.tabular><chapter><name>9</name><desc>Circulatory (I00-I99)</desc>
<section id="I10-I16"><desc>Pressure (I10-I16)</desc>
<diag><name>I12</name><desc>Kidney disease</desc><includes><note>nephrosclerosis</note></includes>
<excludes1><note>renovascular (I15.0)</note></excludes1>
<diag><name>I12.0</name><desc>Stage 5</desc></diag></diag></section></chapter></ICD10CM.tabular>"""


def test_entries_and_passages_hold_titles_and_notes():
    chapters = read_icd(TABULAR)
    entries = {entry.code: entry for entry in chapters[0].walk()}
    assert entries["I12"].includes == ("nephrosclerosis",)
    assert entries["I12.0"].path == ("Circulatory", "Pressure", "Kidney disease")
    texts = "\n".join(one.text for one in icd_passages(chapters))
    for part in (
        "I12 includes: nephrosclerosis",
        "I12 does not include: renovascular (I15.0)",
        "I12.0 Stage 5",
    ):
        assert part in texts


def test_a_list_with_entities_is_refused():
    with pytest.raises(DeepwellError, match="entities"):
        read_icd(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')


def test_titles_are_found_as_whole_words():
    has_title = TitleFinder(["Kidney disease", "Fever"])
    assert has_title("chronic kidney  disease, NOS")
    assert not has_title("kidney diseases")
    assert not has_title("feverish")


def test_controls_have_their_answer_among_distinct_choices():
    questions = control_questions()
    assert len(questions) >= 100
    for one in questions:
        assert one.answer in one.choices
        assert len(set(one.choices)) == len(one.choices)
