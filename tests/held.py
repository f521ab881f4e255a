"""`hold`: a child that never answers, although its parent lets it run for each call."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from deepwell.process.calls import CallProcess


def hold(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """Stops the child of a process id at the beginning of every call. Later children answer."""
    exchange: Callable[..., bytes] = getattr(CallProcess, "_exchange")  # noqa: B009 - behind the parent's signal

    def stopped(calls: CallProcess, request: bytes, processor_s: float, file: int | None = None) -> bytes:
        if calls.pid == pid:
            os.kill(pid, signal.SIGSTOP)
        return exchange(calls, request, processor_s, file)

    monkeypatch.setattr(CallProcess, "_exchange", stopped)
