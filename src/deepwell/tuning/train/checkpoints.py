"""Checkpoints that a killed run continues from, bit for bit: each is written whole, checked by hashes, and holds no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["Progress", "commit_folder", "newest_checkpoint", "restore", "save_checkpoint"]

_KEPT: Final = 3
_NAME: Final = re.compile(r"step-(\d{1,9})")
_STATE, _WEIGHTS, _OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"


@dataclass(slots=True)
class Progress:
    """The place of a run.

    Attributes:
        step: steps that are done.
        tokens: tokens that they had.
        best_loss: lowest held-out loss; None: not measured yet.
        best_step: step that it was measured after.
        worse: validations in a row without a lower one.
        first_loss, last_loss: held-out loss before the first step, and the newest.
        numbers: further state by name: that of the gradient scaler, or of an algorithm.
    """

    step: int = 0
    tokens: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    numbers: dict[str, float] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    progress: Progress,
    run_hash: str,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    write_adapter: Callable[[Path], None],
) -> Path:
    """Writes `checkpoints/step-N` in one step and removes all but the newest few.

    Args:
        run_hash: digest of what the run computes; a checkpoint of another run is not continued.
        names: name of every trained parameter.
        write_adapter: writes the servable artefact into a folder.
    """
    parent = folder / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    target = parent / f"step-{progress.step}"

    def fill(partial: Path) -> None:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, partial / _WEIGHTS
        )
        save_file(_optimizer_tensors(optimizer, names), partial / _OPTIMIZER)
        write_adapter(partial)
        files = {one.name: _sha256(one) for one in sorted(partial.glob("*.safetensors"))}
        state = {"progress": asdict(progress), "run": run_hash, "files": files}
        (partial / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    commit_folder(target, fill)
    for _, old in list(_checkpoints(folder))[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_checkpoint(folder: Path, run_hash: str) -> tuple[Path, Progress] | None:
    """Returns the newest whole checkpoint of this run, or None. Damaged ones and those of other runs are passed over."""
    for _, path in _checkpoints(folder):
        try:
            state = json.loads((path / _STATE).read_text(encoding="utf-8"))
            files = state["files"]
            whole = set(files) >= {_WEIGHTS, _OPTIMIZER} and all(
                Path(name).name == name and _sha256(path / name) == digest for name, digest in files.items()
            )
            if whole and state["run"] == run_hash:
                return path, Progress(**state["progress"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def restore(
    path: Path,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
) -> None:
    """Puts a checkpoint's weights, moments and random state back."""
    weights = load_file(path / _WEIGHTS)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    tensors = load_file(path / _OPTIMIZER)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            found = {
                key.partition(":")[0]: value
                for key, value in tensors.items()
                if key.partition(":")[2] == name
            }
            if found:
                optimizer.state[parameter] = {
                    key: value.to(parameter.device) if key != "step" else value
                    for key, value in found.items()
                }
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])


def _optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    tensors = {
        f"{key}:{names[parameter]}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    return tensors


def commit_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder that appears whole: filled under a temporary name, flushed to the disk, then renamed."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fill(partial)
    for root, _, files in os.walk(partial):
        for name in files:
            _flush(Path(root) / name)
        _flush(Path(root))
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yields the checkpoints, the newest first."""
    found: list[tuple[int, Path]] = []
    for path in (folder / "checkpoints").glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), path))
    yield from sorted(found, reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
