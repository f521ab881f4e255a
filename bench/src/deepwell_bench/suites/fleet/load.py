"""The machine's own load while a benchmark runs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Busy"]


class Busy:
    """Share of the machine's processor time that is used, from its making on."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[int, int]:
        line = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
        fields = [int(one) for one in line.split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    def share(self) -> float:
        """Returns the share so far, from 0 to 1."""
        total, idle = (after - before for after, before in zip(self._read(), self._before, strict=True))
        return 1 - idle / max(total, 1)
