"""`SandboxLimits`: what a program may take; `SandboxResult`: what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from deepwell.errors import DeepwellError, InvalidRequest

__all__ = ["SandboxLimits", "SandboxResult", "SandboxUnavailable"]

_LEAST_MEMORY_BYTES = 64 << 20  # Python itself takes some 30 MB of address space


class SandboxUnavailable(DeepwellError):
    """Raised where no sandbox can be had. The fix names the package or the setting that brings one."""

    status = 503
    code = "sandbox_unavailable"


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one run. The whole of its memory is at most `memory_bytes` + `folder_bytes`, for it is one process.

    Attributes:
        seconds: wall-clock time.
        processor_s: processor time of all threads together.
        memory_bytes: address space of the process, Python's own 30 MB included.
        folder_bytes: size of the work folder, which lies in memory.
        files: files and folders in the work folder.
        file_bytes: size of one file.
        output_bytes: kept bytes of each of stdout and stderr; what lies in the middle is cut.
        threads: threads of the process. It may start no other process.
        open_files: open descriptors.
    """

    seconds: float = 10.0
    processor_s: int = 10
    memory_bytes: int = 512 << 20
    folder_bytes: int = 64 << 20
    files: int = 256
    file_bytes: int = 32 << 20
    output_bytes: int = 64 << 10
    threads: int = 16
    open_files: int = 64

    def __post_init__(self) -> None:
        """Raises InvalidRequest if a limit is not positive, or leaves Python no room to start."""
        for one in fields(self):
            if getattr(self, one.name) <= 0:
                raise InvalidRequest(
                    f"limit {one.name} of the sandbox is not positive", fix="give a number above 0"
                )
        if self.memory_bytes < _LEAST_MEMORY_BYTES:
            raise InvalidRequest(
                f"memory_bytes of the sandbox is {self.memory_bytes}, Python does not start in it",
                fix=f"give at least {_LEAST_MEMORY_BYTES}",
            )


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """The end of one run.

    Attributes:
        stdout, stderr: what the program printed. A line in the middle tells how many bytes were cut, if any were.
        exit_code: as of a shell's child: negative numbers are signals.
        timed_out: whether it was ended because of `seconds` or `processor_s`.
        out_of_memory: whether it ended because it had no more memory.
        files: files that it made or changed, by their path in the work folder.
        left_out: what it made that is not among `files`, with the reason: links, pipes, unreadable names.
        cut_bytes: bytes of output that are not in `stdout` and `stderr`.
        seconds: wall-clock time of the program, without the making of the sandbox.
    """

    stdout: str
    stderr: str
    exit_code: int
    timed_out: bool
    out_of_memory: bool
    files: Mapping[str, bytes]
    left_out: Mapping[str, str]
    cut_bytes: int
    seconds: float
