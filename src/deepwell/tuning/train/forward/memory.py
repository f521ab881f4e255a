"""Memory that a step frees is kept for the next one."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD: Final = -1  # of mallopt(3)
_MMAP_THRESHOLD: Final = -3
_LARGEST: Final = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Tells glibc to serve large tensors from its heap; returns whether it took the advice.

    By default it maps each of them anew and gives it back when it is freed, and the kernel clears every page again: the
    conversion of 256 rows of logits to fp32 took 21 ms so, and 7 ms without. For processes that train and do little else.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another libc
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))
