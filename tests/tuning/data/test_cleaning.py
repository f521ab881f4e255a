"""Checking, decontamination, deduplication and splits account for every record, and what is dropped has its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.messages import Note
from deepwell.tuning.data.check import Check, CheckOptions, Rendered
from deepwell.tuning.data.decontamination import EvaluationSet, read_evaluation_set
from deepwell.tuning.data.dedup import Deduplication, DedupOptions, compared_text
from deepwell.tuning.data.records import BadRecord, Record
from deepwell.tuning.data.split import parse_fractions, split_records

LONG = "The parcel left our warehouse in Bergen on Tuesday morning and it will reach your house tomorrow before noon"
OTHER = (
    "Every library of the city opens at nine and lends up to twenty books for a month to whoever has a card"
)
CHINESE = "我们的包裹星期二早上离开了卑尔根的仓库预计明天中午之前送到你家里"


def chat(question: str, reply: str, line: int = 1, **fields: Any) -> Record:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": reply})
    return Record(messages, line=line, source="a.jsonl", **fields)


def text(content: str, line: int = 1, **fields: Any) -> Record:
    messages = ({"role": "user", "content": content},)
    return Record(messages, line=line, source="a.jsonl", format="text", **fields)


def bad(line: int = 1) -> BadRecord:
    return BadRecord(line, "messages", Note("data_empty"), "a.jsonl")


def found_by(
    options: DedupOptions, records: Sequence[Record | BadRecord]
) -> tuple[Deduplication, list[Record]]:
    found = Deduplication(options)
    found.read(records, lambda _: None)
    found.find(lambda _: None, lambda _: None)
    return found, list(found.kept(records))


# Decontamination


def runs(*texts: str) -> EvaluationSet:
    return EvaluationSet([("eval.jsonl", number, [one]) for number, one in enumerate(texts, 1)])


@pytest.mark.parametrize(
    ("evaluation", "training", "overlaps"),
    [
        (LONG, f"Hello. {LONG.upper()}! Bye.", True),
        (LONG, " ".join(LONG.split()[3:16]), True),
        (LONG, " ".join(LONG.split()[3:15]), False),
        (CHINESE, f"你好，{CHINESE[:13]}。", True),
        (CHINESE, f"你好，{CHINESE[:12]}。", False),
        ("What is the capital of France?", "what is the capital of FRANCE", True),
        ("What is the capital of France?", "Tell me what is the capital of France now", False),
        ("Yes, thank you.", "Yes, thank you.", False),
    ],
)
def test_runs_of_13_words_or_characters_are_contamination(
    evaluation: str, training: str, overlaps: bool
) -> None:
    (found,) = runs(OTHER, evaluation).overlaps([[training]])
    assert (found is not None) is overlaps
    if found is not None:
        assert (found.source, found.line) == ("eval.jsonl", 2) and found.text == evaluation[:80]


def test_a_run_does_not_span_messages_and_templates_tell_nothing() -> None:
    words = LONG.split()
    assert runs(LONG).overlaps([[" ".join(words[:10]), " ".join(words[10:])]]) == [None]
    template = "Read the following review with care and say whether it is positive or negative in one word"
    evaluation = runs(*(f"{template}: {number}" for number in range(20)))
    assert evaluation.templates > 0 and evaluation.overlaps([[template]]) == [None]
    assert EvaluationSet([]).overlaps([[LONG], []]) == [None, None]


def test_evaluation_sets_of_any_shape_are_read(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    lines = [
        json.dumps({"question": OTHER, "choices": [{"text": LONG}], "answer": 0}),
        json.dumps({"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "x"}]}),
        "{",
    ]
    path.write_text("\n".join(lines))
    found, unreadable = read_evaluation_set([path])
    assert (found.texts, found.too_short, unreadable) == (3, 1, 1)
    (overlap,) = found.overlaps([["", LONG]])
    assert overlap is not None and overlap.line == 1


# Check


def test_a_check_accounts_for_every_record() -> None:
    records = [
        chat(LONG, OTHER),
        bad(2),
        chat("Hi", "Yo", 3),
        chat(LONG, "Thank you, that is what I wanted to know", 4),
    ]

    def render(record: Record) -> Rendered:
        if record.line == 3:
            raise InvalidRequest("no")
        return Rendered(len(record.text.split()), record.text)

    options = CheckOptions(
        renderer=render, max_tokens=30, languages={"en"}, against=runs(OTHER), drop={"contaminated", "short"}
    )
    check = Check(options)
    assert [one.line for one in check.kept(records)] == [4]
    account = check.to_json()
    assert account["dropped_by_reason"] == {"contaminated": 1, "unreadable": 1, "short": 1}
    assert (account["read"], account["kept"], account["cut_by_reason"]) == (4, 1, {})
    assert account["tokens"]["greatest"] == 41 and check.sample == records[0].text
    kept = Check(CheckOptions(renderer=render, max_tokens=30, languages={"fr"}))
    assert len(list(kept.kept(records))) == 3
    assert kept.report.cut == {"tokens": 1} and kept.report.warned["template"] == 1
    assert kept.report.warned["language"] == kept.languages["en"] == 2


# Deduplication


def test_each_dropped_record_has_its_twin_and_its_reason() -> None:
    records: list[Record | BadRecord] = [
        chat(LONG, OTHER, 1, label="a"),
        bad(2),
        chat(LONG, OTHER, 3, label="b"),
        chat(LONG.upper() + "!", OTHER, 4),
        chat(OTHER, LONG, 5),
        chat("Where is my parcel now?", "It is here.", 6),
    ]
    found, kept = found_by(DedupOptions(), records)
    assert [one.line for one in kept] == [1, 5, 6]
    assert {index: one.reason for index, one in found.removals.items()} == {
        1: "unreadable",
        2: "exact",
        3: "near",
    }
    assert found.removals[3].twin == 0 and found.removals[3].similarity == 1.0
    account = found.to_json()
    assert account["read"] == account["kept"] + account["dropped"] == 6
    assert account["warned_by_reason"] == {"label_conflict": 1} and account["largest_clusters"] == [2]
    told: list[str] = []
    list(found.kept(records, told.append))
    assert [json.loads(one)["line"] for one in told] == [2, 3, 4]
    assert json.loads(told[2])["twin"] == {"source": "a.jsonl", "line": 1}
    assert len(found_by(DedupOptions(near=False), records)[1]) == 4


def test_system_messages_do_not_make_records_alike_and_calls_make_them_differ() -> None:
    system = {"role": "system", "content": f"{LONG} {OTHER}"}
    records = [
        Record((system, *chat(question, "Yes.", line).messages), line=line)
        for line, question in enumerate(("Do you deliver to Norway in winter?", "May I send a book back?"), 1)
    ]
    assert len(found_by(DedupOptions(), records)[1]) == 2
    calls = [
        Record(
            (
                {"role": "user", "content": "Go"},
                {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": "{}"}}]},
            )
        )
        for name in ("start", "stop")
    ]
    assert len(found_by(DedupOptions(), calls)[1]) == 2
    assert compared_text(chat("q", "a"), "prompt") == "q" and compared_text(chat("q", "a"), "answer") == "a"
    same_prompt = [chat(LONG, "Yes.", 1), chat(LONG, "No.", 2)]
    assert len(found_by(DedupOptions(compared="prompt"), same_prompt)[1]) == 1


def test_records_of_like_meaning_go_where_an_embedder_says_so() -> None:
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1, 0] if "book" in one else [0, 1] for one in texts], np.float32)

    records = [
        text("A book of poems"),
        text("Something else", 2),
        text("One more book, quite another", 3),
        text("", 4),
    ]
    found, kept = found_by(DedupOptions(embedder=embed), records)
    assert [one.line for one in kept] == [1, 2, 4] and found.removals[2].reason == "semantic"
    assert found.to_json()["dropped_by_reason"] == {"semantic": 1}


@pytest.mark.parametrize("change", ["fewer", "more", "other", "none"])
def test_files_that_change_between_the_passes_are_refused(change: str) -> None:
    records: list[Record | BadRecord] = [text(LONG, 1), text(OTHER, 2)]
    found, _ = found_by(DedupOptions(), records)
    changed = {
        "fewer": records[:1],
        "more": [*records, text("x", 3)],
        "other": [records[0], bad(2)],
        "none": [],
    }
    with pytest.raises(InvalidRequest, match="changed"):
        list(found.kept(changed[change]))


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([LONG, OTHER, LONG.upper(), LONG + " x", "a", "", CHINESE, None]), max_size=12)
)
def test_deduplication_adds_up_and_a_second_time_changes_nothing(contents: list[str | None]) -> None:
    records = [bad(line) if one is None else text(one, line) for line, one in enumerate(contents, 1)]
    found, kept = found_by(DedupOptions(), records)
    assert len(kept) + len(found.removals) == len(records) == found.report.read
    for removal in found.removals.values():
        assert removal.twin is None or removal.twin not in found.removals
    assert found_by(DedupOptions(), kept)[1] == kept


# Split


def test_what_belongs_together_stays_together_and_labels_have_equal_shares() -> None:
    unique = [
        text(
            f"number{n} " + " ".join(f"w{(n * 31 + at * 7) % 997}" for at in range(20)),
            label="ab"[n % 4 == 0],
        )
        for n in range(400)
    ]
    copies = [text(one.text + " indeed", label=one.label) for one in unique[:40]]
    users = [text(f"question {n} about {n * n}", label="a", extra={"user": f"u{n % 5}"}) for n in range(50)]
    records = [*unique, *copies, *users]
    split = split_records(records, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed=3)
    assert sum(split.counts.values()) == len(records) and set(split.parts) == {"train", "validation", "test"}
    assert all(split.parts[n] == split.parts[400 + n] for n in range(40))
    for user in range(5):
        assert len({split.parts[440 + n] for n in range(50) if n % 5 == user}) == 1
    totals = Counter(one.label for one in records)
    for part, share in split.fractions.items():
        assert split.counts[part] == pytest.approx(share * len(records), abs=12)
        for label, count in split.labels[part].items():
            assert count == pytest.approx(share * totals[label], abs=12)
    again = split_records(records, {"train": 0.8, "validation": 0.1, "test": 0.1}, seed=3)
    assert again.parts == split.parts
    assert split_records(records, {"train": 0.8, "validation": 0.2}, seed=4).parts != split.parts


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3), st.sampled_from("ab")), min_size=3, max_size=40),
    st.integers(0, 5),
)
def test_no_group_ever_straddles(rows: list[tuple[int, int, str]], seed: int) -> None:
    records = [text(f"text {one}", label=label, extra={"user": user or None}) for one, user, label in rows]
    try:
        split = split_records(records, {"train": 0.7, "test": 0.3}, seed=seed)
    except InvalidRequest:
        return
    parts: dict[Any, set[str]] = {}
    for (one, user, _), part in zip(rows, split.parts, strict=True):
        parts.setdefault(("text", one), set()).add(part)
        if user:
            parts.setdefault(("user", user), set()).add(part)
    assert all(len(where) == 1 for where in parts.values())
    assert all(split.counts.values()) and sum(split.counts.values()) == len(records)


def test_too_few_groups_and_wrong_fractions_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="1 groups"):
        split_records([text(LONG), text(LONG, 2)], {"train": 0.5, "test": 0.5})
    assert parse_fractions("train=0.9, held-out=0.1") == {"train": 0.9, "held-out": 0.1}
    for wrong in (
        "",
        "train",
        "train=x",
        "train=0.9",
        "train=1.5",
        "a=0.5,a=0.5",
        "../a=1",
        "train=0,b=1",
        "a=nan",
    ):
        with pytest.raises(InvalidRequest):
            parse_fractions(wrong)
