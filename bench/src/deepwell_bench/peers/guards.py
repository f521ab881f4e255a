"""Guards that Deepwell's first layer is compared with: their environments, and their worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rich.console import Console

from deepwell_bench.harness.assets import WORKERS, bench_cache
from deepwell_bench.harness.environments import Environment, Install, environment_python
from deepwell_bench.harness.worker import Worker

__all__ = ["GUARDS", "Guard", "GuardName", "Reading", "Span", "open_guard"]

GuardName = Literal["presidio", "nemo", "guardian"]
_PATIENCE_S: Final = 900.0
_PART: Final = 200
"""Texts of one request to a worker."""

GUARDS: Final[Mapping[GuardName, Environment]] = {
    "presidio": Environment(
        name="presidio",
        variable="DEEPWELL_PRESIDIO_PYTHON",
        installs=(Install(("presidio-analyzer==2.2.366", "faker==40.54.0")),),
        check="import presidio_analyzer, faker",
        download_mb=90,
        disk_mb=400,
        minutes=2,
    ),
    "nemo": Environment(
        name="nemo-guardrails",
        variable="DEEPWELL_NEMO_PYTHON",
        installs=(Install(("nemoguardrails==0.24.1", "yara-python==4.5.4")),),
        check="import nemoguardrails.library.injection_detection.actions, yara",
        download_mb=120,
        disk_mb=400,
        minutes=3,
    ),
    "guardian": Environment(
        name="securevector-guardian",
        variable="DEEPWELL_GUARDIAN_PYTHON",
        installs=(Install(("securevector-guardian-model==1.4.0",)),),
        check="import svguardian",
        download_mb=2,
        disk_mb=30,
        minutes=0.5,
    ),
}
"""Recipes of the environments. The one of Presidio also has faker, which makes up personal data."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text that a guard found: characters, score from 0 to 1, and what it calls it."""

    start: int
    end: int
    score: float
    kind: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer of a guard to one text, and the milliseconds it took."""

    spans: Sequence[Span]
    ms: float


class Guard:
    """A guard in a process of its own. `about` holds `version` and `recognisers`."""

    def __init__(self, name: GuardName, worker: Worker, about: Mapping[str, Any]) -> None:
        self.name = name
        self.version = str(about["version"])
        self.recognisers: Sequence[str] = about["recognisers"]
        self._worker = worker

    def scan(self, texts: Sequence[str]) -> list[Reading]:
        """Reads texts one after another.

        Raises:
            PeerError: the guard failed on a text.
        """
        found: list[Reading] = []
        for at in range(0, len(texts), _PART):
            answer = self._worker.call("scan", patience=_PATIENCE_S, texts=list(texts[at : at + _PART]))
            found += [
                Reading([Span(*span) for span in spans], ms)
                for spans, ms in zip(answer["found"], answer["ms"], strict=True)
            ]
        return found

    def personal(self, *, each: int, seed: int) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Returns values of personal data that faker makes up, by language and kind; of the environment of Presidio alone."""
        return self._worker.call("personal", each=each, seed=seed)

    def close(self) -> None:
        """Ends the process."""
        self._worker.close()


def open_guard(name: GuardName, console: Console) -> Guard:
    """Starts a guard in its own environment, built on first use.

    Raises:
        PeerError: the environment cannot be built, or the guard does not start.
    """
    python = environment_python(GUARDS[name], console)
    logs = bench_cache() / "safety"
    logs.mkdir(exist_ok=True)
    worker = Worker(
        name,
        [str(python), str(WORKERS / "safety" / "guards_worker.py")],
        # The worker imports what all workers share; and no guard may look for models or report its use.
        {"PYTHONPATH": str(WORKERS), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"},
        logs / f"{name}.log",
    )
    try:
        return Guard(name, worker, worker.call("open", name=name))
    except BaseException:
        worker.close()
        raise
