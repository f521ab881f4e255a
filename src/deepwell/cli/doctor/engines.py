"""The part of doctor about the engine of the main model: Deepwell's own, vLLM here, or a server elsewhere; and of GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepwell.cli.doctor.findings import Finding

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["examine_engine"]

_LOOK_S: Final = 3.0


def examine_engine(settings: Settings, problems: list[Finding]) -> dict[str, str]:
    """Returns the engine, vLLM and the GPUs. Neither of these missing is a problem, unless the settings ask for them."""
    from deepwell.cli.engines.gpus import count_gpus
    from deepwell.cli.engines.vllm import find_vllm
    from deepwell.errors import DeepwellError, MissingDependency

    gpus = count_gpus()
    seen = f"{gpus} seen" + ("; they stay unused without vLLM" if gpus else "")
    try:
        python = find_vllm(settings)
    except DeepwellError as error:
        problems.append(Finding("engine", error))
        python = None
    found = "not installed: GPUs need it (docs/guides/remote-engines.md)"
    if python is not None:
        found, seen = f"{_version(python)}  {python}", f"{gpus} seen"
    elif settings.engine == "vllm":
        where = "DEEPWELL_VLLM_PYTHON, this Python, PATH"
        problems.append(Finding("engine", MissingDependency.of("engine_vllm_missing", where=where)))
    return {"engine": _engine(settings, problems), "vllm": found, "gpus": seen}


def _engine(settings: Settings, problems: list[Finding]) -> str:
    """Returns the engine, and of a server elsewhere which models it serves."""
    from deepwell.engine.hosting.remote.address import RemoteOptions, is_remote
    from deepwell.errors import DeepwellError

    if not is_remote(settings.engine):
        return settings.engine
    from deepwell.engine.hosting.remote.probe import served_models

    try:
        options = RemoteOptions.of(settings, name=settings.model)
        names = served_models(options, timeout_s=_LOOK_S)
    except DeepwellError as error:
        problems.append(Finding("engine", error))
        return f"{settings.engine}  {error.message}"
    return f"{settings.engine}  serves {', '.join(names[:10]) or 'nothing'}"


def _version(python: Path) -> str:
    """Returns the version of vLLM beside a Python, from the name of its metadata."""
    for folder in python.parent.parent.glob("lib/python*/site-packages"):
        for found in sorted(folder.glob("vllm*.dist-info")):
            return found.name.removesuffix(".dist-info")
    return "vllm"
