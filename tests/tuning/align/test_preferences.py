"""Files of preferences: what is read, and what is said of lines that hold none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.config import DpoConfig, KtoConfig
from deepwell.tuning.align.preferences import (
    Judged,
    Pair,
    read_judged,
    read_pairs,
    votes_as_judged,
    votes_as_pairs,
    write_judged,
    write_pairs,
)
from deepwell.tuning.data.records import BadRecord
from deepwell.tuning.train.config import parse_config_as

ASKED = {"role": "user", "content": "hi"}
GOOD = {"role": "assistant", "content": "hello"}
BAD = {"role": "assistant", "content": "go away"}
PAIR = {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]}


@dataclass(frozen=True)
class Vote:
    prompt: tuple[dict[str, Any], ...]
    answer: str
    desirable: bool
    correction: str | None = None


def lines(path: Path, *values: Any) -> list[Path]:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in values))
    return [path]


def problem(found: Any) -> str:
    assert isinstance(found, BadRecord)
    return f"{found.field}: {found.problem}"


def test_pairs_and_judged_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    tools = ({"type": "function", "function": {"name": "look"}},)
    pairs = [Pair((ASKED,), GOOD, BAD), Pair((ASKED, GOOD, ASKED), BAD, GOOD, tools)]
    path = tmp_path / "pairs.jsonl"
    assert write_pairs(path, pairs) == 2
    found = list(read_pairs([path]))
    expected = [
        Pair(one.prompt, one.preferred, one.rejected, one.tools, number + 1, str(path))
        for number, one in enumerate(pairs)
    ]
    assert found == expected
    judged = [Judged((ASKED,), GOOD, True), Judged((ASKED,), BAD, False, tools)]
    path = tmp_path / "judged.jsonl"
    assert write_judged(path, judged) == 2
    assert [
        (one.answer, one.desirable, one.tools) for one in read_judged([path]) if isinstance(one, Judged)
    ] == [(one.answer, one.desirable, one.tools) for one in judged]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        (7, "should be an object"),
        ({**PAIR, "input": None}, "input: is missing"),
        ({**PAIR, "input": "hi"}, "input: is no object"),
        ({**PAIR, "input": {"messages": []}}, "messages: is empty"),
        ({**PAIR, "input": {"messages": [{"role": "me", "content": "x"}]}}, "input.messages[0].role"),
        ({**PAIR, "preferred_output": [GOOD, GOOD]}, "preferred_output: is not one message"),
        ({**PAIR, "non_preferred_output": [ASKED]}, "non_preferred_output: is not one message"),
        ('{"input": ' + "[" * 2000 + "]" * 2000 + "}", "nested too deeply"),
    ],
)
def test_a_line_without_a_pair_is_named(line: Any, said: str, tmp_path: Path) -> None:
    bad, good = read_pairs(lines(tmp_path / "pairs.jsonl", line, PAIR))
    assert said in problem(bad) and bad.line == 1
    assert isinstance(good, Pair) and good.line == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"messages": [ASKED, GOOD]}, "label: is missing"),
        ({"messages": [ASKED, GOOD], "label": 0.5}, "label: is neither"),
        ({"messages": [ASKED, GOOD], "label": {}}, "label: is neither"),
        ({"messages": [ASKED, GOOD], "label": True, "weight": 0}, "weight: is no number above 0"),
        ({"messages": [ASKED, GOOD], "label": True, "weight": True}, "weight: is no number above 0"),
        ({"messages": [ASKED, GOOD], "label": True, "weight": 1001}, "weight: is no number above 0"),
        ({"messages": [GOOD], "label": True}, "messages[0]: is not the answer"),
        ({"messages": [GOOD, ASKED], "label": True}, "messages[1]: is not the answer"),
        ({"label": True}, "messages: is missing"),
    ],
)
def test_a_line_without_a_judged_answer_is_named(line: Any, said: str, tmp_path: Path) -> None:
    (bad,) = read_judged(lines(tmp_path / "judged.jsonl", line))
    assert said in problem(bad)


def test_a_correction_is_a_good_answer_and_preferred_to_the_one_it_corrects() -> None:
    votes = [
        Vote((ASKED,), "go away", False, "hello"),
        Vote((ASKED,), "hello", True),
        Vote((), "x", True, "x"),
    ]
    judged = votes_as_judged(votes)
    assert [(one.answer["content"], one.desirable) for one in judged] == [
        ("go away", False),
        ("hello", True),
        ("hello", True),
        ("x", True),
        ("x", True),
    ]
    assert votes_as_pairs(votes) == [Pair((ASKED,), GOOD, BAD)]


def test_configurations_have_their_section_and_name_the_right_key() -> None:
    run = parse_config_as(DpoConfig, {"data": "x.jsonl", "dpo": {"beta": 0.3}, "lora": {"r": 4}})
    assert (run.dpo.beta, run.lora.r, run.lora.dropout, run.algorithm) == (0.3, 4, 0.0, "dpo")
    for kind, values, said in (
        (DpoConfig, {"dpo": {"betta": 1}}, "beta"),
        (KtoConfig, {"dpo": {"beta": 1}}, "kto"),
        (KtoConfig, {"beta": 1}, "kto.beta"),
        (KtoConfig, {"method": "full"}, "method"),
        (KtoConfig, {"train": {"strategy": "ddp"}}, "one process"),
        (DpoConfig, {"dpo": {"beta": 0}}, "dpo.beta"),
    ):
        with pytest.raises(InvalidRequest) as error:
            parse_config_as(kind, {"data": "x.jsonl", **values})
        assert said in f"{error.value.message} {error.value.fix}"
