"""`PrivateFolder`: the folder of a front's socket, which goes with its process, or at the next start of a front."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
from pathlib import Path
from typing import Final

from deepwell.process.claim import Claim, read_claim

__all__ = ["PrivateFolder"]

_PREFIX: Final = "deepwell-front-"
_CLAIM: Final = "front"


class PrivateFolder:
    """A folder of its own, because the path of a socket is short. It is removed with this object, or with its process.

    A process that is killed removes nothing, but the kernel drops its lock: the next one removes what it left.
    """

    def __init__(self) -> None:
        remove_left()
        made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
        claim = Claim(made, _CLAIM)
        claim.take()
        self.path: Path = made.rename(made.with_name(made.name[1:]))  # locked before others look at it
        weakref.finalize(self, _end, claim, self.path)


def remove_left() -> None:
    """Removes the folders of this user whose process is gone. Those without a lock are somebody else's, or just begin."""
    for one in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            found = one.lstat()
            locked = stat.S_ISREG((one / f"{_CLAIM}.lock").lstat().st_mode)
        except OSError:
            continue
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if own and locked and read_claim(one, _CLAIM) is None:
            shutil.rmtree(one, ignore_errors=True)


def _end(claim: Claim, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    claim.release()
