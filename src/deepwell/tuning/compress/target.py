"""Checks of the folder or file that a smaller model is written to, made before anything is computed."""

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
        raise InvalidRequest.of("compress_out_name", param="out", folder=target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidRequest.of("compress_out_taken", param="out", folder=target)
    # The folder is written beside its place under another name first, so the parent has to take it.
    _check_place(target, need_bytes)


def check_file(target: Path, need_bytes: int) -> None:
    """Checks that a GGUF file is new, that its folder is there and takes it, and that its disk has room.

    Raises:
        InvalidRequest: it is not so.
    """
    if target.suffix != ".gguf":
        raise InvalidRequest.of("compress_file_suffix", param="out", file=target)
    if target.exists() or target.is_symlink():
        raise InvalidRequest.of("compress_file_taken", param="out", file=target)
    if not target.absolute().parent.is_dir():
        raise InvalidRequest.of("path_missing", param="out", path=target.parent, folder=target.parent)
    _check_place(target, need_bytes)


def _check_place(target: Path, need_bytes: int) -> None:
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InvalidRequest.of("compress_out_closed", param="out", folder=target, parent=parent)
    free = shutil.disk_usage(parent).free
    if need_bytes > free:
        need, have = f"{need_bytes / 1e9:.1f} GB", f"{free / 1e9:.1f} GB"
        raise InvalidRequest.of("compress_disk_short", param="out", folder=target, need=need, free=have)
