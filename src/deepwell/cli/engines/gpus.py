"""Checks of what `--gpus` and `--tensor-parallel` ask of this machine, before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import InvalidRequest
from deepwell.messages import Note

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["check_devices", "check_gpus", "check_tensor_parallel", "count_gpus", "count_nvidia"]

_NVIDIA = re.compile(r"nvidia\d+")


def count_gpus(devices: Path = Path("/dev")) -> int:
    """Returns the number of GPUs that this process can see: NVIDIA's devices, and the render nodes of others."""
    if not devices.is_dir():
        return 0
    return count_nvidia(devices) or sum(1 for _ in (devices / "dri").glob("renderD*"))


def count_nvidia(devices: Path = Path("/dev")) -> int:
    """Returns the number of NVIDIA's GPUs that this process can see."""
    if not devices.is_dir():
        return 0
    return sum(bool(_NVIDIA.fullmatch(one.name)) for one in devices.iterdir())


def check_gpus(asked: str | None, present: int, *, vllm: bool) -> tuple[Note, ...]:
    """Returns the warnings about `--gpus`. Deepwell's own engine computes on the processor; vLLM takes GPUs.

    Args:
        vllm: whether vLLM is installed.

    Raises:
        InvalidRequest: it is neither `all` nor a number, or asks for a number of GPUs that cannot be used.
    """
    if asked is None or asked == "0":
        return ()
    if asked == "all":
        if not present:
            return (Note("up_gpus_none"),)
        return () if vllm else (Note("up_gpus_unused", {"count": present}),)
    if not asked.isascii() or not asked.isdigit():
        raise InvalidRequest.of("option_value", option="--gpus", value=asked, values="all, 0, 1, 2")
    if int(asked) > present:
        raise InvalidRequest.of("gpus_missing", asked=asked, present=present)
    if not vllm:
        raise InvalidRequest.of("gpus_not_used", asked=asked, present=present)
    return ()


def check_tensor_parallel(asked: str | None, *, vllm: bool) -> None:
    """Checks over how many devices a model is to be split, which vLLM alone does.

    Raises:
        InvalidRequest: it is neither a number nor `auto`, or more than 1 without vLLM.
    """
    if asked in (None, "auto", "1"):
        return
    if not str(asked).isascii() or not str(asked).isdigit() or int(str(asked)) < 1:
        raise InvalidRequest.of(
            "option_value", option="--tensor-parallel", value=asked, values="auto, 1, 2, 4"
        )
    if not vllm:
        raise InvalidRequest.of("tensor_parallel", asked=asked)


def check_devices(settings: Settings) -> tuple[Settings, tuple[Note, ...]]:
    """Returns the settings with the engine that its GPUs need, and the warnings about them.

    `--gpus all` on a machine without any, or without vLLM, leaves Deepwell's own engine, and says so.

    Raises:
        InvalidRequest, MissingDependency: this machine cannot do it.
    """
    if settings.gpus is None and settings.tensor_parallel is None:
        return settings, ()
    from deepwell.cli.engines.vllm import find_vllm, wants_vllm
    from deepwell.engine.hosting.remote.address import is_remote

    if is_remote(settings.engine):
        option = "--gpus" if settings.gpus is not None else "--tensor-parallel"
        raise InvalidRequest.of("engine_main_only", option=option, engine=settings.engine)
    vllm, present = find_vllm(settings) is not None, count_gpus()
    split = None if settings.tensor_parallel is None else str(settings.tensor_parallel)
    check_tensor_parallel(split, vllm=vllm)
    notes = check_gpus(settings.gpus, present, vllm=vllm)
    if notes:  # they stay unused
        settings = settings.model_copy(update={"gpus": None})
    return settings.model_copy(update={"engine": "vllm"}) if wants_vllm(settings) else settings, notes
