"""Roll-outs: writers that are killed at random moments, and canaries that users' votes end."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.judge import Arms, Plan, decide
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.fleet.promotion.sequential import Counts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.chain import Head
from deepwell_bench.workers.fleet.rollout_writer import ALIAS

__all__ = ["bench_rollout_kills"]

_WRITER = "deepwell_bench.workers.fleet.rollout_writer"
_LOOK = 5  # votes between two looks at them


def bench_rollout_kills(
    report: Report, *, kills: int = 10, canaries: int = 10, simulated: int = 200, seed: int = 20
) -> dict[str, Any]:
    """Kills a process that rolls versions out, at random moments, and lets canaries be judged by votes.

    Canaries that regress (60 % of the users approve, after 85 %) are judged through the stores. The error of the test is
    counted over simulated ones that are as good as the current model: they may be rolled back as worse in 5 % of the cases.
    """
    chosen = random.Random(seed)  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="bench-rollouts-") as folder:
        value = _kills(Path(folder), kills, chosen)
    users = [asyncio.run(_regressing(chosen)) for _ in range(canaries)]
    wrong, promoted = _equal(simulated, chosen)
    value |= {
        "canaries_that_regress": canaries,
        "rolled_back": sum(one is not None for one in users),
        "median_users": sorted(one or 10**9 for one in users)[len(users) // 2],
        "equal_canaries": simulated,
        "equal_rolled_back_as_worse": wrong / simulated,
        "equal_promoted": promoted / simulated,
    }
    report.table("roll-outs", ("figure", "value"), [(key, str(one)) for key, one in value.items()])
    return value


def _kills(folder: Path, kills: int, chosen: random.Random) -> dict[str, Any]:
    path, anchors = folder / "deepwell.db", folder / "anchors"
    acknowledged: list[Head] = []
    inconsistent = made = 0
    for _ in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-m", _WRITER, str(path), str(anchors)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(chosen.randint(1, 12))]
        time.sleep(chosen.random() / 20)
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines()
        acknowledged += [
            Head(int(one.split(":")[0]), one.split(":")[1].strip()) for one in lines if one.strip()
        ]
        database = Database.open(path)
        try:
            inconsistent += not check_ledger(database, Anchors(anchors), acknowledged).holds
            story = asyncio.run(Rollouts(database).registry.story(ALIAS))
        finally:
            database.close()
        made = len(story.rollouts)
        open_ones = sum(one.state == "canary" for one in story.rollouts.values())
        state = story.aliases.get(ALIAS)
        inconsistent += open_ones != int(state is not None and state.candidate is not None)
    return {
        "kills": kills,
        "changes_acknowledged": len(acknowledged),
        "roll_outs": made,
        "inconsistent_states": inconsistent,
    }


async def _regressing(chosen: random.Random) -> int | None:
    """Returns the users who voted until a canary that regresses was rolled back; None: it was not."""
    database = Database.temporary()
    try:
        rollouts, feedback = Rollouts(database), FeedbackStore(database)
        await AliasStore(database).set(ALIAS, "base", "bench")
        version = await rollouts.register(ALIAS, NewVersion("worse"), "bench")
        rollout = await rollouts.start(version.id, "bench", share=0.3, ungated="to be rolled back")
        for number in range(1500):
            user, tenant = f"user-{number}", Tenant(("a", "b")[number % 2])
            side = takes_candidate(rollout.id, rollout.share, tenant, identity_of(user, ""))
            rating = "up" if chosen.random() < (0.6 if side else 0.85) else "down"
            given = StoredFeedback(
                f"fb_{number}",
                f"resp_{number}",
                rating,
                int(time.time()),
                model=ALIAS,
                end_user=user,
                verified=True,
                key_id=f"key of {user}",
            )
            await feedback.put(tenant, given)
            if number % _LOOK == 0 and (done := await rollouts.judge(ALIAS)).rollout.state != "canary":
                means = (await AliasStore(database).names()).models[ALIAS]
                return number + 1 if done.rollout.state == "rolled_back" and means == "base" else None
        return None
    finally:
        database.close()


def _equal(count: int, chosen: random.Random) -> tuple[int, int]:
    """Returns how many of `count` canaries that are as good were rolled back as worse, and how many promoted."""
    plan = Plan(margin=0.1)
    wrong = promoted = 0
    for _ in range(count):
        users, good = [0, 0], [0, 0]
        for number in range(3000):
            side = chosen.random() < 0.3
            users[side] += 1
            good[side] += chosen.random() < 0.8
            if number % _LOOK:
                continue
            verdict = decide(Arms(Counts(users[0], good[0]), Counts(users[1], good[1])), plan, 0)
            if verdict.action != "wait":
                wrong += verdict.action == "roll_back"
                promoted += verdict.action == "promote"
                break
    return wrong, promoted
