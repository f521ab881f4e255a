"""Checks of what `deepwell improve` needs: an environment that trains, the frozen sets, and room on the disk."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.cli.doctor.findings import Finding, found
from deepwell.cli.output import extra_command
from deepwell.errors import DeepwellError

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["examine_improve"]

_TRAINS_WITH: Final = ("torch", "transformers", "peft")
_LEAST_FREE_BYTES: Final = 1 << 30  # a round keeps checkpoints with the optimizer's state, and its adapter
_SETS: Final = ("choices", "texts", "harmful", "harmless")


def examine_improve(settings: Settings, problems: list[Finding]) -> dict[str, Any]:
    """Returns what the loop would find here, and adds what is broken to the problems.

    A missing environment and a full disk are problems only where rounds were begun: most installations never train.
    """
    from deepwell.fleet.improve.sets import SHIPPED, read_sets
    from deepwell.fleet.improve.state import folders_in

    root = settings.adapter_dir or settings.state_dir
    begun = sorted(folders_in(root))
    counts: dict[str, int] = {}
    try:
        sets = read_sets(SHIPPED)
        counts = {name: len(getattr(sets, name)) for name in _SETS}
        if missing := [name for name, count in counts.items() if not count]:
            problems.append(found("improve", "doctor_improve_sets", folder=SHIPPED, names=", ".join(missing)))
    except DeepwellError as error:
        problems.append(Finding("improve", error))
    lacking = [name for name in _TRAINS_WITH if importlib.util.find_spec(name) is None]
    free = shutil.disk_usage(_existing(root)).free
    if begun:
        alias = begun[0]
        if lacking:
            command = extra_command("tune")
            problems.append(
                found(
                    "improve",
                    "doctor_improve_training",
                    alias=alias,
                    package=", ".join(lacking),
                    command=command,
                )
            )
        if free < _LEAST_FREE_BYTES:
            values = {"folder": root, "free": f"{free >> 20}", "least": f"{_LEAST_FREE_BYTES >> 20}"}
            problems.append(found("improve", "doctor_improve_disk", alias=alias, **values))
    return {
        "trains": not lacking,
        "lacks": lacking,
        "sets": counts,
        "folder": str(root),
        "free_bytes": free,
        "aliases": begun,
    }


def _existing(folder: Path) -> Path:
    """Returns the folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
