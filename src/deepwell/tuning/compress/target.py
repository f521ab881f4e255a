"""Places that a smaller model can be written to, asked before anything is computed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deepwell.errors import InvalidRequest

__all__ = ["check_file", "check_target"]


def check_target(target: Path, need_bytes: int) -> None:
    """Checks that a folder is empty or missing, that it can be made, and that its disk has room.

    Raises:
        InvalidRequest: it is not so.
    """
    if target.is_symlink() or target.name in ("", ".."):
        # A folder is renamed into its place at the end, which neither a link nor the folder one stands in is.
        raise InvalidRequest(
            f"{target} is no new folder but a name of another one", fix="name the folder itself", param="out"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidRequest.of("compress_out_taken", param="out", folder=target)
    # The folder is written beside its place under another name first, so the parent has to take it.
    _check_parent(target, need_bytes)


def check_file(target: Path, need_bytes: int) -> None:
    """Checks that a file is missing, that its folder is there and takes it, and that the disk has room.

    Raises:
        InvalidRequest: it is not so.
    """
    if target.exists() or target.is_symlink():
        raise InvalidRequest(
            f"{target} exists already", fix="name a new file such as model.gguf", param="out"
        )
    if not target.absolute().parent.is_dir():
        raise InvalidRequest(
            f"the folder {target.parent} does not exist", fix="create it, or name another one", param="out"
        )
    _check_parent(target, need_bytes)


def _check_parent(target: Path, need_bytes: int) -> None:
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InvalidRequest.of("compress_out_closed", param="out", folder=target, parent=parent)
    free = shutil.disk_usage(parent).free
    if need_bytes > free:
        need, have = f"{need_bytes / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
        raise InvalidRequest.of("compress_disk_short", param="out", folder=target, need=need, free=have)
