"""An evaluation whose answers and scores come piece by piece has the same measures and samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepwell.fleet.pieces import asking
from deepwell.fleet.pieces.asking import AskModel, SpreadLLM
from deepwell.fleet.pieces.kept import KeptPieces
from deepwell.fleet.pieces.local import LocalExecutor
from deepwell.tuning.evaluate.likelihood import Scorer
from deepwell.tuning.evaluate.run import Plan, evaluate, read_prompts, work_of
from deepwell.tuning.evaluate.subjects import open_subjects, parse_subject
from deepwell.tuning.evaluate.tasks import Prompt


def test_the_evaluation_is_the_same(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_ITEMS", 2)
    (tmp_path / "prompts.txt").write_text("Name a colour.\nName a river.\nName a town.\n")
    (tmp_path / "text.txt").write_text("The river runs through the town. " * 100)
    plan = Plan(texts=(tmp_path / "text.txt",), prompts=read_prompts(tmp_path / "prompts.txt"), max_tokens=6)
    name = parse_subject(str(smollm2_path))
    choices = [
        Prompt(0, (), "The sky is", ("blue", "loud"), 0, " "),
        Prompt(1, (), "Fire is", ("hot", "wet"), 0, " "),
    ]
    with open_subjects([name], {"threads": 1, "context": 512}) as (subject,):
        executor = LocalExecutor()
        recipe = AskModel(str(smollm2_path), context=512, threads=1)
        far: Any = SpreadLLM(subject.llm, executor, recipe, KeptPieces(tmp_path / "pieces"))
        spread = replace(subject, llm=far, at_once=100)
        here, there = evaluate(subject, work_of(plan)), evaluate(spread, work_of(plan))
        assert here.samples == there.samples
        assert [(key, one.value) for key, one in here.measures.items()] == [
            (key, one.value) for key, one in there.measures.items()
        ]
        both = [Scorer(one).choices(choices, lambda _: None) for one in (subject, spread)]
        targets = [Prompt(0, (), "The sky is", (), "blue", " ")]
        assert both[0] == both[1]
        drawn = [Scorer(one).continuations(targets, lambda _: None) for one in (subject, spread)]
        assert drawn[0] == drawn[1]
        executor.close()
    assert far.tally.pieces > 4
