"""Costs of a piece of work in this process: processor time, and energy where the kernel lets it be read.

Energy is that of whole processor packages, by the counters of RAPL under `/sys/class/powercap`: whatever else the machine
does meanwhile is in it. Virtual machines rarely have the counters, and since Linux 5.10 only root reads them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["POWERCAP", "Cost", "EnergyMeter", "measured_cost"]

POWERCAP: Final = Path("/sys/class/powercap")


@dataclass
class Cost:
    """Costs of a piece of work.

    Attributes:
        cpu_seconds: processor time of this process, all threads, user and kernel together.
        joules: energy of all packages; None: it cannot be read.
        reason: why it cannot be read.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    joules: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Package:
    counter: Path
    range_uj: int  # where the counter begins again at 0

    def read(self) -> int:
        """Returns the counter.

        Raises:
            ValueError: it holds no number from 0 to its range.
        """
        value = int(self.counter.read_text())
        if not 0 <= value <= self.range_uj:
            raise ValueError(f"{self.counter} holds {value}, beyond its range")
        return value


class EnergyMeter:
    """Counters of all packages of the machine.

    Attributes:
        packages: number of counters that can be read; with 0, `reason` says why.
        fix: what makes them readable; empty where nothing does.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages: list[_Package] = []
        self.reason: str | None = None
        self.fix = ""
        try:
            zones = sorted(one for one in root.iterdir() if one.name.startswith("intel-rapl:"))
        except OSError:
            self.reason = f"this machine has no {root}"
            return
        for zone in zones:
            try:
                if not (zone / "name").read_text().startswith("package"):
                    continue
                package = _Package(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
                package.read()
            # A part of the machine's energy would look like all of it.
            except PermissionError:
                self._packages, self.reason = [], f"{zone}/energy_uj may be read by root alone"
                self.fix = (
                    f"sudo chmod a+r {root}/intel-rapl:*/energy_uj, which lasts until the next start of the machine;"
                    " every user can then watch its power"
                )
                return
            except (OSError, ValueError):
                self._packages, self.reason = [], f"{zone} has no counter that can be read"
                return
            self._packages.append(package)
        if not self._packages:
            self.reason = f"{root} has no counter of a processor package"

    @property
    def packages(self) -> int:
        """Number of packages whose counters are read."""
        return len(self._packages)

    def read(self) -> tuple[int, ...] | None:
        """Returns the counters in microjoules, or None where they cannot be read."""
        try:
            return tuple(one.read() for one in self._packages) or None
        except (OSError, ValueError):
            return None

    def joules(self, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> float | None:
        """Returns the energy between two readings. A counter may have begun again once between them, but no more."""
        if before is None or after is None:
            return None
        parts = zip(self._packages, before, after, strict=True)
        # The counter takes every value from 0 to its range.
        return sum((late - early) % (one.range_uj + 1) for one, early, late in parts) / 1e6


@contextmanager
def measured_cost(meter: EnergyMeter) -> Iterator[Cost]:
    """Yields a `Cost` that is filled in when the block ends."""
    cost = Cost(reason=meter.reason)
    before, begin, cpu = meter.read(), time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.cpu_seconds = time.process_time() - cpu
        cost.seconds = time.perf_counter() - begin
        cost.joules = meter.joules(before, meter.read())
        if cost.joules is None and cost.reason is None:
            cost.reason = "a counter could not be read"
