"""A round of improvement with real parts on a tiny model: votes, a training process, the engine's measures, the registry."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deepwell.errors import DeepwellError
from deepwell.fleet.improve.loop import Improver, ImproveTerms
from deepwell.fleet.improve.measure import EngineMeasure, Judges, Terms
from deepwell.fleet.improve.parts import Parts
from deepwell.fleet.improve.rehearsal import write_rehearsal
from deepwell.fleet.improve.sets import read_sets
from deepwell.fleet.improve.state import State, StateFile
from deepwell.fleet.improve.training import train_adapter
from deepwell.fleet.promotion.gates import GATES
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.tuning.align.votes import Vote

pytestmark = pytest.mark.parity

PROD = "tiny@prod"
SETTINGS = {"steps": 40, "batch_tokens": 512, "learning_rate": 1e-2, "precision": "fp32", "threads": 1}


def votes(count: int) -> list[Vote]:
    """Users like answers that greet, and dislike those that count."""
    return [
        Vote(
            ({"role": "user", "content": f"{'hello ' * (number % 4)}{number * 37}?"},),
            f"hello {number * 53}" if number % 2 else f"{number * 53} {number} world {number * 11}",
            bool(number % 2),
            f"user-{number % 20}",
            source=f"fb-{number}",
        )
        for number in range(count)
    ]


async def test_a_round_measures_every_gate_of_a_real_adapter(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train": SETTINGS, "lora": {"r": 4, "alpha": 8}}
    monkeypatch.setattr("deepwell.fleet.improve.loop.settings_of", lambda votes: settings if votes else {})
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    (frozen / "texts.txt").write_text("hello world 1 2 3\n\nhello 4 5")
    for name in ("harmful", "harmless"):
        (frozen / f"{name}.txt").write_text("\n".join(f"hello {name} {number}" for number in range(20)))
    question = {"question": "hello?", "choices": ["hello", "world"], "answer": 0}
    (frozen / "choices.jsonl").write_text("\n".join([json.dumps(question)] * 20))
    found: list[dict[str, Any]] = []

    # Votes that no template renders, and one that no context holds: they must not keep the others from being measured
    lost = [
        Vote(one, f"hello {user * 59}", True, f"user-{user}", source=f"lost-{user}")
        for user in range(20)
        for one in (
            ({"role": "user", "content": f"{user * 43} hello {user * 97} " * 2000},),
            (
                {"role": "user", "content": f"{user * 83}?"},
                {"role": "tool", "content": "1", "tool_call_id": "2"},
            ),
        )
    ]

    async def collect() -> list[Vote]:
        return votes(200) + lost

    async def publish(name: str, folder: Path) -> None:
        raise DeepwellError("a tiny model has no server", fix="-")

    measure = EngineMeasure(
        read_sets(frozen), Judges(lambda request, answer: "world" in answer), terms=Terms(tokens=8, rounds=5)
    )
    database = Database.open(tmp_path / "deepwell.db")
    try:
        await AliasStore(database).set(PROD, tiny.name, "cli")
        StateFile(tmp_path / "loop").folder.mkdir()
        StateFile(tmp_path / "loop").write(State(salt="0"))
        terms = ImproveTerms(PROD, str(tiny))
        material = tmp_path / "material"
        material.mkdir()
        (material / "requests.txt").write_text("hello?\n\n1 2 3?\n")
        (material / "openings.txt").write_text("hello world\n")
        (material / "harmful.txt").write_text("hello world world?\n")
        (material / "refusals.txt").write_text("I can't help with that.\n")
        (material / "apologies.txt").write_text("I'm sorry, I can't.\n")
        rehearsal = partial(write_rehearsal, material=material)
        parts = Parts(collect, train_adapter, measure, publish, rehearsal)
        improver = Improver(terms, tmp_path / "loop", database, Rollouts(database), parts)
        with suppress(DeepwellError):  # nobody serves a candidate that its gates let pass
            await improver.run(found.append)
        state = StateFile(tmp_path / "loop").read()
        story = await Rollouts(database).registry.story(PROD)
    finally:
        database.close()
    assert state is not None and state.round is not None
    lines = (tmp_path / "loop" / "0001" / "replay.jsonl").read_text().splitlines()
    texts = [one["text"] for one in map(json.loads, lines) if "text" in one]
    assert len(texts) == 1 and texts[0].startswith("hello world") and len(lines) <= 3
    judged = [
        json.loads(one) for one in (tmp_path / "loop" / "0001" / "judged.jsonl").read_text().splitlines()
    ]
    assert judged[0]["label"] and judged[0]["messages"][-1]["content"] == "I can't help with that."
    assert not any(one["label"] for one in judged[1:])
    version = story.versions[state.round.version]
    assert version.gates is not None and version.data and version.metrics["votes_train"] > 100
    gates = {one["name"]: one for one in version.gates["gates"]}
    assert [*gates] == [*GATES] and not any("not measured" in one["reason"] for one in gates.values())
    assert (
        gates["approval"]["numbers"]["low"] > 0
    )  # held-out answers that greet became likelier than those that count
    assert gates["approval"]["numbers"]["second_auc"] > 0.9
    assert gates["approval"]["numbers"]["left_out"] > 0
    assert state.round.outcome == (None if version.passed else "refused")
    assert any(one["event"] == "training" and one["part"] == "step" for one in found)
