"""`deepwell bench siege`: attacks on a keyed server, one after another and five at once, beside a well-behaved client."""

from __future__ import annotations

import fnmatch
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.worker import Worker
from deepwell_bench.suites.security.besieged import Besieged, Seen, Victim, besieged, victim_of
from deepwell_bench.workloads.attacks import ATTACKS, Attack

__all__ = ["FIVE", "Verdict", "bench_siege", "groups_of"]

FIVE = 5
TIMES_HARMLESS = 5.0  # the bar of the victim's p99
RSS_MB, RSS_SETTLED_S = 50.0, 30.0
LOG_BYTES = 1 << 20  # that one attack may add
_HARMLESS_S = 20.0  # of each load, before and after
_FILLING = 16  # prompts of 900 tokens, more than the cache of 8,192 holds
_AGAIN_S = 8.0  # of an attack that broke the bar of p99: a hundred requests of the client
_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of one attack, or of several at once. `why` is empty where everything held."""

    name: str
    why: str
    p99_ms: float
    times_harmless: float
    rss_mb: float  # growth that is left half a minute after it, at most
    errors: int
    seconds: float
    cpu_share: float

    def row(self) -> list[Any]:
        """Returns its row of the table."""
        return [
            self.name,
            rounded(self.p99_ms, 3),
            rounded(self.times_harmless, 2),
            rounded(self.rss_mb, 3),
            self.why or "held",
        ]


def groups_of(attacks: Sequence[Attack]) -> list[list[str]]:
    """Returns the attacks in groups of five of different kinds, as far as there are kinds; each attack is in one."""
    kinds: dict[str, list[str]] = {}
    for attack in attacks:
        kinds.setdefault(attack.kind, []).append(attack.name)
    turns = [
        names[turn]
        for turn in range(max(map(len, kinds.values())))
        for names in kinds.values()
        if turn < len(names)
    ]
    return [turns[start : start + FIVE] for start in range(0, len(turns), FIVE)]


@dataclass(slots=True)
class _Siege:
    """One server under siege, with the figures that verdicts are made of."""

    server: Besieged
    victim: Victim
    attacker: Worker
    seconds: float
    start_mb: float = 0.0
    harmless: dict[str, list[Seen]] = field(default_factory=dict[str, list[Seen]])
    dead: set[int] = field(default_factory=set[int])

    def harmless_p99(self, loads: Sequence[str]) -> float:
        """Returns the victim's p99 beside the heaviest of the harmless loads."""
        return max(p99(self.harmless[load]) for load in loads)

    def load(self, kind: str, seconds: float) -> None:
        """Sends a harmless load, and keeps what the victim saw beside it."""
        begin = time.monotonic()
        self.attacker.call("load", kind=kind, seconds=seconds)
        end = time.monotonic()
        self.victim.wait_past(end)
        self.harmless.setdefault(kind, []).extend(self.victim.since(begin, end))

    def settle(self, before_mb: float) -> float:
        """Waits until the memory is back, for half a minute at most; returns by how much it is above `before_mb`."""
        until = time.monotonic() + RSS_SETTLED_S
        while (grown := self.server.rss_mb() - before_mb) > RSS_MB and time.monotonic() < until:
            time.sleep(_EVERY_S)
        return grown

    def attack(self, names: Sequence[str]) -> Verdict:
        """Makes attacks at the same time and judges them.

        If p99 alone breaks the bar, they are made once more for longer, which decides: p99 of a second is its slowest request.
        """
        first = self._attack(names, self.seconds)
        return self._attack(names, max(self.seconds, _AGAIN_S)) if first.why.startswith("p99") else first

    def _attack(self, names: Sequence[str], seconds: float) -> Verdict:
        server, begin = self.server, time.monotonic()
        tracebacks, log_bytes, before = server.tracebacks(), server.log_bytes(), server.processes()
        # An attack answers for its own growth, and not for what one before it has left.
        before_mb = max(self.start_mb, server.rss_mb())
        done = self.attacker.call("attack", names=list(names), seconds=seconds, patience=300.0)
        end = time.monotonic()
        whys = [f"{name}: {why}" if len(names) > 1 else why for name, why in done["broken"].items()]
        try:
            self.victim.wait_past(end)
        except PeerError as error:
            whys.append(str(error))
        seen = self.victim.since(begin, end)
        errors = [one.error for one in seen if one.error]
        if gone := before - server.processes():
            self.dead |= gone
            whys.append(f"{len(gone)} of the server's processes died")
        if errors:
            whys.append(f"{len(errors)} errors for the client: {errors[0][:160]}")
        if server.tracebacks() > tracebacks:
            whys.append("a traceback in the log")
        if server.log_bytes() - log_bytes > LOG_BYTES:
            whys.append(f"the log grew by {(server.log_bytes() - log_bytes) >> 20} MB")
        grown = self.settle(before_mb)
        if grown > RSS_MB:
            whys.append(f"memory stays {grown:.0f} MB higher")
        times = p99(seen) / self.harmless_p99(sorted({ATTACKS[name].beside for name in names}))
        if times > TIMES_HARMLESS:
            whys.append(f"p99 of the first token is {times:.1f} x that beside a harmless load")
        name = names[0] if len(names) == 1 else " + ".join(names)
        return Verdict(
            name, "; ".join(whys), p99(seen), times, grown, len(errors), end - begin, done["cpu_share"]
        )


def p99(seen: Sequence[Seen]) -> float:
    """Returns the p99 of the first token in milliseconds."""
    return percentile([one.first_ms() for one in seen], 0.99)


def bench_siege(
    report: Report,
    model: Path,
    *,
    workers: int = 1,
    only: str = "*",
    kinds: str = "*",
    seconds: float = 2.5,
    alone: bool = True,
    together: bool = True,
) -> dict[str, Any]:
    """Attacks `deepwell serve`, keyed, with two tenants, one attack after another and five at once.

    Each attack is judged by its own claim, by processes that died, errors and p99 of the client, the log, and the memory half a
    minute later. The client's p99 is compared with its p99 beside an equal harmless load of the same tenant at the same bound
    of CPU, measured before. An attack whose p99 alone breaks the bar is made once more for longer, which decides.

    Args:
        only: patterns of the attacks' names, as for files, with commas between.
        kinds: patterns of their kinds, likewise.
        seconds: least length of each attack.
        alone: makes them one after another.
        together: makes them five at a time.

    Raises:
        PeerError: the server does not start, or no attack has such a name.
    """
    chosen = [one for one in ATTACKS.values() if _matches(one.name, only) and _matches(one.kind, kinds)]
    if not chosen:
        known = ", ".join(dict.fromkeys(f"{one.kind}: {one.name}" for one in ATTACKS.values()))
        raise PeerError(f"no attack is called {only!r} of a kind {kinds!r}", fix=f"use one of {known}")
    rounds = [[attack.name] for attack in chosen] if alone else []
    rounds += groups_of(chosen) if together and len(chosen) > 1 else []
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        siege = _open(stack, report, model, workers, seconds)
        with report.console.status("attacks") as status:
            for number, names in enumerate(rounds, 1):
                status.update(f"attack {number} of {len(rounds)}: {' + '.join(names)}")
                verdicts.append(siege.attack(names))
                report.note(" | ".join(map(str, verdicts[-1].row())))
                if not siege.server.processes():
                    report.note(f"the server ended: {siege.server.last_words()}")
                    break
        end_mb = siege.settle(siege.start_mb) if siege.server.processes() else 0.0
        made = {name for names in rounds[: len(verdicts)] for name in names}
        return _judged(report, siege, verdicts, len(made)) | {"rss_above_start_mb": rounded(end_mb, 3)}


def _matches(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split(","))


def _open(stack: ExitStack, report: Report, model: Path, workers: int, seconds: float) -> _Siege:
    """Starts the server, its client and the attacker, and measures the harmless loads."""
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    server = stack.enter_context(besieged(model, workers=workers))
    victim = stack.enter_context(victim_of(server))
    command = [sys.executable, "-m", "deepwell_bench.workers.attacker"]
    attacker = Worker("attacker", command, {}, logs / "attacker")
    stack.callback(attacker.close)
    attacker.call("open", **server.whom())
    siege = _Siege(server, victim, attacker, seconds)
    siege.load("light", 2.0)  # code paths warm
    _use_planned_memory(server)
    siege.harmless.clear()
    for kind in ("light", "heavy"):
        siege.load(kind, _HARMLESS_S)
        seen = siege.harmless[kind]
        report.note(f"beside the harmless load {kind!r}: p99 {p99(seen):.0f} ms of {len(seen)} requests")
    siege.start_mb = server.rss_mb()
    return siege


def _use_planned_memory(server: Besieged) -> None:
    """Writes to every page of the KV cache and compiles a grammar, so that growth is measured from the planned memory.

    Raises:
        PeerError: a request fails.
    """
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    bodies: list[dict[str, Any]] = [
        {"prompt": f"{number} " + "one more word " * 300, "max_tokens": 1} for number in range(_FILLING)
    ]
    chat = {
        "messages": [{"role": "user", "content": "Yes or no?"}],
        "max_tokens": 16,
        "response_format": form,
    }
    for body in (*bodies, chat):
        path = "/v1/chat/completions" if body is chat else "/v1/completions"
        status, answer = server.request("guest", "POST", path, {"model": server.model, **body})
        if status != 200:
            raise PeerError(f"{path} answered {status}: {answer}")


def _judged(report: Report, siege: _Siege, verdicts: Sequence[Verdict], attacks: int) -> dict[str, Any]:
    report.table(
        "Attacks, one after another and five at once",
        ["attack", "victim p99 ms", "x harmless", "MB more", "verdict"],
        [verdict.row() for verdict in verdicts],
    )
    worst = max(verdicts, key=lambda verdict: verdict.times_harmless)
    broken = {verdict.name: verdict.why for verdict in verdicts if verdict.why}
    return {
        "attacks": attacks,
        "rounds": len(verdicts),
        "broken": len(broken),
        "processes_killed": len(siege.dead),
        "client_requests": len(siege.victim.seen),
        "client_errors": sum(1 for one in siege.victim.seen if one.error),
        "p99_times_harmless": rounded(worst.times_harmless, 3),
        "slowest": worst.name,
        "rss_left_by_one_mb": rounded(max(verdict.rss_mb for verdict in verdicts), 3),
        "tracebacks": siege.server.tracebacks(),
        "harmless_p99_ms": {kind: rounded(p99(seen), 3) for kind, seen in siege.harmless.items()},
        "attacker_cpu_share": rounded(max(verdict.cpu_share for verdict in verdicts), 2),
        "broken_attacks": broken,
    }
