"""The whole loop without a person: thumbs through the SDK, a promoted adapter that serves, and a worse one that is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openai import OpenAI

from deepwell.cli.bench.report import Report, rounded
from deepwell.tuning.evaluate.statistics import Difference, difference, mean_of
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served_process
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.tuning.votes import RULES, Rule, frozen_prompts

__all__ = ["bench_improve_loop"]

_ALIAS: Final = "smollm2@prod"
_RULE: Final = "addresses_reader"
_USERS: Final = 48
_NOISY: Final = 10  # one vote in so many says the opposite
_SPAM: Final = 200  # votes of one user
# Curation keeps a share of the spam, which may be less than a round waits for by itself.
_SECOND: Final = ("--held-out", "0.25", "--least-new", "20")
_TOKENS: Final = 28
_CANARIES: Final = 60  # users who vote between two looks
_LOOKS: Final = 12
_AT_ONCE: Final = 8
_SEEN_S: Final = 3.0  # a server sees what was done to an alias within two seconds


def bench_improve_loop(report: Report, model: Path) -> dict[str, Any]:
    """Lets simulated users vote through the SDK, improves the alias by their votes, and lets one user spam the next round.

    Users like answers that address the reader, and one vote in ten is turned round. Approval is measured at the end, by the
    rule itself, on answers that the server gives to the frozen held-out prompts before and after.

    Raises:
        PeerError: this environment has no torch, or a command failed.
    """
    need_torch("improve-loop")
    rule = next(one for one in RULES if one.name == _RULE)
    asked, held_out = frozen_prompts()
    with tempfile.TemporaryDirectory(prefix="bench-improve-") as name:
        folder = Path(name)
        env = {
            "DEEPWELL_DATA_DIR": str(folder / "data"),
            "DEEPWELL_STATE_DIR": str(folder / "state"),
            "DEEPWELL_ADAPTER_DIR": str(folder / "adapters"),
            "DEEPWELL_CONTEXT": "512",
        }
        (folder / "adapters").mkdir()
        with served_process(serve_command(model), env=env, log=folder / "log") as (port, _):
            client = OpenAI(
                base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=10, timeout=600
            )
            base = client.models.list().data[0].id
            _command(env, "models", "alias", "set", _ALIAS, base)
            world = _World(client, rule, env, model, f"http://127.0.0.1:{port}")
            time.sleep(_SEEN_S)
            before = world.liked(held_out)
            votes = world.vote(asked * 2, _USERS)
            first = world.improve("--held-out", "0.35", "--share", "0.5")
            looks = 0
            while first["waiting"] and first["round"] and looks < _LOOKS:
                world.canary(held_out, looks)
                looks += 1
                first = world.improve()
            after = world.liked(held_out)
            spam = world.spam(asked)
            second = world.improve(*_SECOND) if first["round"] else first
            served = world.meaning()
            log = _command(env, "models", "log", _ALIAS)
        change = difference(mean_of("approval", before, share=True), mean_of("approval", after, share=True))
    return _value(report, first, second, change, log, votes + spam, looks, served)


def _value(
    report: Report,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    change: Difference,
    log: Mapping[str, Any],
    votes: int,
    looks: int,
    served: str,
) -> dict[str, Any]:
    gates = [one["report"]["gates"] for one in map(_flat, log["entries"]) if one["event"] == "gates"]
    for number, found in enumerate(gates, 1):
        report.table(
            f"Gates of candidate {number}",
            ("gate", "result", "reason"),
            [(one["name"], "passed" if one["passed"] else "refused", one["reason"]) for one in found],
        )
    report.table(
        "Approval of held-out answers, by the hidden rule",
        ("before", "after", "change", "95 % interval"),
        [
            (
                f"{change.first:.1%}",
                f"{change.second:.1%}",
                f"{change.value:+.1%}",
                f"{change.low:+.1%} to {change.high:+.1%}",
            )
        ],
    )
    one, two = first["round"] or {}, second["round"] or {}
    return {
        "votes": votes,
        "first": one.get("outcome") or one.get("stage") or first["waiting"],
        "second": two.get("outcome") if two.get("number") == 2 else "none",
        "serves_the_first": bool(one) and served == one["model"],
        "looks": looks,
        "entries": len(log["entries"]),
        "ledger_holds": log["holds"],
        "approval_before": rounded(change.first),
        "approval_after": rounded(change.second),
        "approval_low": rounded(change.low),
        "first_refused_by": _refusing(gates[:1]),
        "refused_by": _refusing(gates[1:2]),
    }


def _refusing(reports: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Returns the gates that refuse in some reports, with their reasons."""
    return {gate["name"]: gate["reason"] for gates in reports for gate in gates if not gate["passed"]}


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an entry with what its event tells beside its own fields."""
    return {**entry, **entry.get("fields", {})}


@dataclass(frozen=True, slots=True)
class _World:
    """A server, its users, and the commands of whoever runs it."""

    client: OpenAI
    rule: Rule
    env: Mapping[str, str]
    model: Path
    url: str

    def answer(self, prompt: str, user: str, seed: int) -> tuple[str, str]:
        """Returns the id and the text of an answer of the alias."""
        given = self.client.chat.completions.create(
            model=_ALIAS,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=_TOKENS,
            temperature=0.7,
            seed=seed,
            safety_identifier=user,
            store=True,  # votes for answers that are kept decide
        )
        return given.id, given.choices[0].message.content or ""

    def rate(self, prompt: str, user: str, seed: int, *, honest: bool = True, consent: bool = True) -> None:
        """Lets a user ask, read and vote."""
        target, text = self.answer(prompt, user, seed)
        liked = self.rule.likes(text) == honest
        body: dict[str, Any] = {
            "target_id": target,
            "rating": "up" if liked else "down",
            "model": _ALIAS,
            "safety_identifier": user,
            "consent": consent,
            "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": text or "-"}],
        }
        self.client.post("/feedback", body=body, cast_to=dict[str, Any])

    def vote(self, prompts: Sequence[str], users: int) -> int:
        """Lets every user vote on some prompts; a user who sees a prompt twice is the same one."""
        distinct = len({*prompts})
        _each(
            lambda place: self.rate(
                prompts[place],
                f"user-{place % distinct % users}",
                1000 + place,
                honest=place % _NOISY != 0,
            ),
            len(prompts),
        )
        return len(prompts)

    def spam(self, prompts: Sequence[str]) -> int:
        """Lets one user turn every opinion round."""
        _each(
            lambda place: self.rate(
                f"{prompts[place % len(prompts)]} ({place})", "spammer", 9000 + place, honest=False
            ),
            _SPAM,
        )
        return _SPAM

    def canary(self, prompts: Sequence[str], look: int) -> None:
        """Lets new users vote on what they are served. They do not agree that their votes are trained on."""
        _each(
            lambda place: self.rate(
                prompts[(look * _CANARIES + place) % len(prompts)],
                f"visitor-{look}-{place}",
                20_000 + look * _CANARIES + place,
                consent=False,
            ),
            _CANARIES,
        )

    def liked(self, prompts: Sequence[str]) -> list[float]:
        """Returns whether the rule likes the answer to each prompt."""
        return _each(
            lambda place: float(self.rule.likes(self.answer(prompts[place], f"reader-{place}", place)[1])),
            len(prompts),
        )

    def improve(self, *options: str) -> dict[str, Any]:
        """Runs the loop until it has ended a round or waits, and returns where it is."""
        found = _command(
            self.env, "improve", "run", _ALIAS, "--model", str(self.model), "--server", self.url, *options
        )
        time.sleep(_SEEN_S)
        return found

    def meaning(self) -> str:
        """Returns what the alias means now."""
        listed = _command(self.env, "models", "alias", "list")
        aliases = listed if isinstance(listed, list) else listed.get("data", listed.get("aliases", []))
        return next(str(one["model"]) for one in aliases if one["name"] == _ALIAS)


def _each(call: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(call, range(count)))


def _command(env: Mapping[str, str], *arguments: str) -> Any:
    words = [sys.executable, "-m", "deepwell", *arguments, "--json"]
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{' '.join(arguments)}: {(done.stdout + done.stderr)[-600:]}")
    try:
        return json.loads(done.stdout)
    except ValueError:  # events, a line each
        return json.loads(done.stdout.strip().splitlines()[-1])
