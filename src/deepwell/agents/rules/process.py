"""`RuleProcess`: reads and runs rules in a child process that can neither write, nor reach the network, nor take what it likes.

`python -m deepwell.agents.rules.process FD` is the child. It stays for the next call. Programs may be strangers': grounding and
solving have no bound of their own, so the kernel ends the child at its limits of memory and processor time.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any, Final

import msgspec

from deepwell.agents.rules.logic.wire import Examine, Examined, ModelCheck, Solve, Solved, TableRun, TableRuns
from deepwell.errors import DeepwellError, EngineUnavailable, InvalidFile, MissingDependency
from deepwell.process.calls import (
    SINGLE_TENANT,
    CallEnded,
    CallProcess,
    answer_calls,
    limit_memory,
    limited,
    trim_memory,
    twice_if_lost,
)
from deepwell.process.frames import Failure, error_of, failure_of

__all__ = ["CALL_S", "MEMORY_BYTES", "RuleProcess", "check_installed"]

MEMORY_BYTES: Final = 512 << 20
"""Memory for data that reading and running rules may take."""

CALL_S: Final = 10.0
"""Processor time that one call may take."""

_START_S: Final = 10.0
_PACKAGES: Final = ("clingo", "zen")


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    memory_bytes: int
    call_s: float


class _Started(msgspec.Struct, tag=20, array_like=True, frozen=True):
    pass


_encode = msgspec.msgpack.Encoder().encode
_requests = msgspec.msgpack.Decoder(Examine | Solve | TableRun | ModelCheck)
_answers = msgspec.msgpack.Decoder(_Started | Examined | Solved | TableRuns | Failure)


def check_installed() -> None:
    """Checks that what rules need is installed, without importing it.

    Raises:
        MissingDependency: it is not.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingDependency.of("rules_extra_missing", package=package)


class RuleProcess:
    """The parent's end. The child starts with the first call. Calls of several threads wait for each other.

    Args:
        memory_bytes: memory for data that the child may take.
        call_s: processor time that one call may take.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES, call_s: float = CALL_S) -> None:
        self._memory_bytes, self._call_s = memory_bytes, call_s
        self._calls = CallProcess(
            __name__, _encode(_Setup(memory_bytes, call_s)), launch_s=_START_S, decode=_answers.decode
        )

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._calls.pid

    def examine(self, asked: Examine) -> Examined:
        """Returns the rules and faults of a program. Raises as `solve`."""
        answer = self._ask(asked)
        assert isinstance(answer, Examined)
        return answer

    def check_model(self, asked: ModelCheck) -> Examined:
        """Returns what zen-engine cannot read in a decision model. Raises as `solve`."""
        answer = self._ask(asked)
        assert isinstance(answer, Examined)
        return answer

    def solve(self, asked: Solve) -> Solved:
        """Returns which candidates hold, and why.

        Raises:
            InvalidRequest: the program is refused.
            InvalidFile: it takes more than the limits.
            MissingDependency: the extra `rules` is not installed.
            EngineUnavailable: the child could not run, or was closed.
        """
        answer = self._ask(asked)
        assert isinstance(answer, Solved)
        return answer

    def run_table(self, asked: TableRun) -> TableRuns:
        """Returns the rows of a table that hit. Raises as `solve`."""
        answer = self._ask(asked)
        assert isinstance(answer, TableRuns)
        return answer

    def close(self) -> None:
        """Ends the child. The next call starts another."""
        self._calls.close()

    def _ask(self, asked: Examine | Solve | TableRun | ModelCheck) -> Any:
        check_installed()
        body = _encode(asked)
        try:
            answer = twice_if_lost(lambda: self._calls.call(body, self._call_s, tenant=SINGLE_TENANT))
        except CallEnded as error:
            if error.killed or error.late or error.lost:
                raise EngineUnavailable.of("rules_process_ended", reason=str(error)) from None
            raise InvalidFile.of(
                "rules_costly",
                megabytes=self._memory_bytes >> 20,
                seconds=f"{self._call_s:g}",
                reason=str(error),
            ) from None
        if isinstance(answer, Failure):
            raise error_of(answer)
        return answer


class _Child:
    """The child's end."""

    def __init__(self) -> None:
        self._setup: _Setup | None = None

    def answer(self, body: bytes) -> bytes:
        try:
            if self._setup is None:
                return _encode(self._start(msgspec.msgpack.decode(body, type=_Setup)))
            with limited(self._setup.call_s):
                return _encode(_answer(_requests.decode(body)))
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except ImportError as error:
            return _encode(failure_of(0, MissingDependency.of("rules_extra_missing", package=error.name)))
        except MemoryError:
            os.abort()  # little works after it; the parent starts another child
        except BaseException as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            return _encode(failure_of(0, InvalidFile.of("rules_failed", reason=reason)))
        finally:
            trim_memory()

    def _start(self, setup: _Setup) -> _Started:
        from deepwell.agents.rules.tables.run import warm_up

        sys.dont_write_bytecode = True
        warm_up()
        limit_memory(setup.memory_bytes)
        self._setup = setup
        return _Started()


def _answer(asked: Examine | Solve | TableRun | ModelCheck) -> Examined | Solved | TableRuns:
    match asked:
        case Examine():
            from deepwell.agents.rules.logic.examine import examine

            return examine(asked)
        case Solve():
            from deepwell.agents.rules.logic.solve import solve

            return solve(asked)
        case TableRun():
            from deepwell.agents.rules.tables.run import run_table

            return run_table(asked)
        case ModelCheck():
            from deepwell.agents.rules.tables.run import check_model

            return check_model(asked)


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])
