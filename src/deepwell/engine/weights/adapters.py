"""Reads LoRA adapters in peft's format and fits them to a model's packed matrices. Nothing in a file is trusted.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint. An adapter is a directory with `adapter_config.json`
and `adapter_model.safetensors`, which holds A [rank, inputs] and B [outputs, rank] of every adapted projection. The
projection becomes W + scale * B A, with scale = lora_alpha / rank, or lora_alpha / sqrt(rank) with `use_rslora`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.architectures.tensors import MatrixPlan, TensorPlan, source_places
from deepwell.engine.backends.backend import Adapter, Model
from deepwell.engine.protocol import AdapterInfo
from deepwell.engine.weights.low_rank import LowRank
from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.dequantize import FLOAT_DTYPES, dequantize
from deepwell.models.formats.safetensors import SafetensorsInfo, read_json, read_safetensors_header
from deepwell.models.store.layout import expected_tensors, module_of

__all__ = [
    "CONFIG_NAME",
    "MAX_RANK",
    "WEIGHTS_NAME",
    "AdapterFiles",
    "AdapterLoader",
    "Linear",
    "LoadedAdapter",
    "Shaped",
    "adapter_updates",
    "linears_of",
    "read_adapter",
]

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
MAX_RANK: Final = 512
_PREFIX: Final = "base_model.model."

# Settings of peft that do not affect the mathematics, or that follow from the tensors.
_HARMLESS: Final = frozenset(
    "arrow_config auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules "
    "inference_mode layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core "
    "peft_version qalora_group_size revision runtime_config task_type".split()
)
# Settings that choose modules among those of the targets.
_CHOICES: Final = (
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
)
_READ: Final = frozenset(
    "alpha_pattern bias init_lora_weights lora_alpha peft_type r rank_pattern target_modules use_rslora".split()
)
# Initialisations that also change the base weights, so that the adapter is relative to the changed ones.
_CHANGED_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Shaped(Protocol):
    """Sizes of a projection."""

    @property
    def outputs(self) -> int: ...
    @property
    def cols(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """One projection of the model, as a part of a packed matrix."""

    outputs: int
    cols: int
    plan: MatrixPlan
    source_rows: tuple[int, ...]  # rows of each source of the matrix
    part: int  # index of the projection among the sources

    def rows(self) -> NDArray[np.intp]:
        """Returns the rows of the packed matrix that hold the outputs, [outputs]."""
        return source_places(self.plan, self.source_rows, self.part)


def linears_of(plan: TensorPlan, checkpoint: Checkpoint) -> dict[str, Linear]:
    """Returns the projections an adapter may change, by module name: those in the layers' packed matrices."""
    linears: dict[str, Linear] = {}
    stored = dict(expected_tensors(checkpoint.config))
    for matrix in plan.matrices:
        if matrix.role != "body" or not matrix.adapts:
            continue
        shapes = [stored[source] for source in matrix.sources]
        source_rows = tuple(outputs for outputs, _ in shapes)
        for part, (name, (outputs, cols)) in enumerate(zip(matrix.sources, shapes, strict=True)):
            if module := module_of(name, checkpoint.config):
                linears[module] = Linear(outputs, cols, matrix, source_rows, part)
    return linears


@dataclass(frozen=True, slots=True, eq=False)
class AdapterFiles:
    """A checked adapter: its additions to each matrix that it changes, by name."""

    parts: Mapping[str, Sequence[LowRank]]
    digest: bytes  # digest of the projections and their effective weights
    rank: int  # largest rank of its projections


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAdapter:
    """An adapter that sequences can use. It lives while a request or the engine's table holds it."""

    name: str
    path: Path
    digest: bytes
    rank: int
    weights: Adapter

    @property
    def info(self) -> AdapterInfo:
        """The adapter as `Engine.adapters` lists it."""
        return AdapterInfo(self.name, str(self.path), self.digest.hex(), self.rank)


@dataclass(frozen=True, slots=True, eq=False)
class AdapterLoader:
    """Loads adapters for one model."""

    model: Model
    linears: Mapping[str, Linear]

    def load(self, name: str, path: Path) -> LoadedAdapter:
        """Reads and packs an adapter. Any thread may call it, because it does not touch the data of a running step.

        Raises:
            InvalidModelFile, UnsupportedModel: as for `read_adapter`.
        """
        files = read_adapter(path, self.linears)
        return LoadedAdapter(name, path, files.digest, files.rank, self.model.adapter(files.parts))


def read_adapter(directory: Path, linears: Mapping[str, Linear]) -> AdapterFiles:
    """Reads a peft directory and matches every tensor with a projection of `linears`.

    Raises:
        InvalidModelFile, UnsupportedModel: as for `adapter_updates`.
    """
    parts: dict[str, list[LowRank]] = {}
    digest = hashlib.blake2b(digest_size=16)
    rank = 0
    for module, a, b in adapter_updates(directory, linears):
        linear = linears[module]
        digest.update(f"{module}\0{len(a)}\0".encode() + a.tobytes() + b.tobytes())
        rows = linear.rows()
        order = np.argsort(rows)  # rotary rows are de-interleaved
        parts.setdefault(linear.plan.name, []).append(LowRank(rows[order], a, b[order]))
        rank = max(rank, len(a))
    return AdapterFiles(parts, digest.digest(), rank)


def adapter_updates(
    directory: Path, linears: Mapping[str, Shaped]
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Yields each projection that a peft directory changes, with A [rank, inputs] and B [outputs, rank], B scaled.

    Args:
        linears: the projections that may be changed, by module name.

    Raises:
        InvalidModelFile: files are missing, unsound, contradict each other or do not fit the model.
        UnsupportedModel: the adapter is sound but not plain LoRA.
    """
    weights = directory / WEIGHTS_NAME
    if not (directory / CONFIG_NAME).is_file():
        raise InvalidModelFile(
            f"{directory} holds no {CONFIG_NAME}", fix="give the directory that peft's save_pretrained wrote"
        )
    if not weights.is_file():
        if (directory / "adapter_model.bin").exists():
            raise UnsupportedModel(
                f"{directory} holds its weights as adapter_model.bin, a pickle, which can run code when it is read",
                fix=f"save it again with peft's save_pretrained(..., safe_serialization=True), as {WEIGHTS_NAME}",
            )
        raise InvalidModelFile(f"{directory} holds no {WEIGHTS_NAME}", fix="save the adapter again")
    config = _Config.read(directory / CONFIG_NAME)
    pairs = _pairs(weights, read_safetensors_header(weights), linears)
    config.check_targets(pairs, linears)
    with weights.open("rb") as file:
        for module, linear in linears.items():
            if module not in pairs:
                continue
            a_info, b_info = pairs[module]
            scale = config.scale(weights, module, a_info, b_info, linear)
            a, b = (_values(weights, file, info) for info in (a_info, b_info))
            with np.errstate(over="ignore"):
                b = b * np.float32(scale)
            if not np.isfinite(b).all():
                raise _error(weights, f"{b_info.name[:120]!r} times its scale {scale} overflows")
            yield module, a, b


def _error(path: Path, reason: str) -> InvalidModelFile:
    return InvalidModelFile(
        f"the adapter {path.parent.name!r} cannot be used: {reason[:400]}",
        fix="use an adapter that was trained on this model, and saved by peft",
    )


def _pairs(
    path: Path, infos: Mapping[str, SafetensorsInfo], linears: Mapping[str, Shaped]
) -> dict[str, tuple[SafetensorsInfo, SafetensorsInfo]]:
    """Returns A and B by module, after checking that every tensor belongs to a pair and every pair to a projection."""
    halves: dict[str, dict[str, SafetensorsInfo]] = {}
    for name, info in infos.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise _error(path, f"the tensor {name[:120]!r} is none of a LoRA pair")
        module, half = match.groups()
        if (
            module not in linears
            and module.endswith(".kv_b_proj")
            and module.replace("kv_b_proj", "o_proj") in linears
        ):
            raise UnsupportedModel(
                f"the adapter {path.parent.name!r} changes {module[:120]!r}, which is absorbed into queries and outputs",
                fix="leave kv_b_proj out of target_modules, or merge the adapter with peft's merge_and_unload",
            )
        if module not in linears:
            raise _error(path, f"this model has no projection {module[:120]!r} that an adapter could change")
        halves.setdefault(module, {})[half] = info
    if not halves:
        raise _error(path, "it holds no tensor")
    for module, found in halves.items():
        if len(found) != 2:
            raise _error(path, f"{module!r} has lora_{next(iter(found))} alone")
    return {module: (found["A"], found["B"]) for module, found in halves.items()}


def _values(path: Path, file: Any, info: SafetensorsInfo) -> NDArray[np.float32]:
    """Reads a tensor as float32, [rows, cols]."""
    file.seek(info.offset)
    data = file.read(info.nbytes)
    if len(data) != info.nbytes:
        raise _error(path, "the file has become shorter")
    raw = np.frombuffer(data, np.uint8).reshape(info.shape[0], -1)
    values = dequantize(raw, cast("Any", info.dtype))
    if not np.isfinite(values).all():
        raise _error(path, f"{info.name[:120]!r} holds values that are not finite")
    return values


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats, such as 10**400
        return False


@dataclass(frozen=True, slots=True)
class _Config:
    """The checked `adapter_config.json`."""

    path: Path
    rank: int
    alpha: float
    rslora: bool
    ranks: Mapping[str, int]  # by module pattern
    alphas: Mapping[str, float]
    targets: Sequence[str] | None  # None: given as an expression, which the tensors make redundant
    partial: bool  # some modules that the targets name were left out on purpose

    @classmethod
    def read(cls, path: Path) -> _Config:
        config = read_json(path)

        def unsupported(reason: str) -> UnsupportedModel:
            return UnsupportedModel(
                f"the adapter {path.parent.name!r} {reason[:400]}",
                fix="merge it into the base with peft's merge_and_unload and serve the result, or train plain LoRA",
            )

        if config.get("peft_type") != "LORA":
            raise unsupported(f"is of peft type {str(config.get('peft_type'))[:40]!r}, not LORA")
        if config.get("bias", "none") != "none":
            raise unsupported("trains biases, which are not applied here")
        init = config.get("init_lora_weights", True)
        if isinstance(init, str) and init.lower().startswith(_CHANGED_BASE):
            raise unsupported(f"was initialised by {init[:40]!r}, which changes the base weights too")
        for key, value in config.items():
            if value and key not in _HARMLESS and key not in _READ:
                raise unsupported(f"uses {key[:80]!r}, which is not applied here")

        rank, alpha = config.get("r"), config.get("lora_alpha")
        if not _is_rank(rank):
            raise _error(path, f"r is {str(rank)[:40]}: a rank is 1 to {MAX_RANK}")
        if not _is_number(alpha):
            raise _error(path, f"lora_alpha is {str(alpha)[:40]}, not a number")
        rslora = config.get("use_rslora", False)
        if not isinstance(rslora, bool):
            raise _error(path, "use_rslora is neither true nor false")
        ranks, alphas = (cast("Any", config.get(f"{kind}_pattern") or {}) for kind in ("rank", "alpha"))
        for kind, table, fits in (("rank", ranks, _is_rank), ("alpha", alphas, _is_number)):
            if not isinstance(table, dict) or not all(map(fits, cast("dict[str, Any]", table).values())):
                raise _error(path, f"{kind}_pattern is no table of {kind}s")
            for pattern in cast("dict[str, Any]", table):
                if re.search(r"[^\w.^]", pattern) or "^" in pattern[1:]:
                    raise unsupported(f"names modules in {kind}_pattern by the expression {pattern[:80]!r}")
        targets = config.get("target_modules")
        if isinstance(targets, str):
            targets = None
        elif not isinstance(targets, list) or not all(isinstance(t, str) for t in cast("list[Any]", targets)):
            raise _error(path, "target_modules is no list of names")
        return cls(
            path,
            cast("int", rank),
            float(cast("float", alpha)),
            rslora,
            cast("dict[str, int]", ranks),
            cast("dict[str, float]", alphas),
            cast("list[str] | None", targets),
            any(config.get(key) is not None for key in _CHOICES),
        )

    def check_targets(self, modules: Mapping[str, object], linears: Mapping[str, Shaped]) -> None:
        """Checks that the tensors belong to the modules that the configuration names, and that none is missing.

        Routed experts may be left out as a whole, because peft skips them if transformers keeps them stacked. The modules of
        adapters for chosen layers are not counted.
        """
        if self.targets is None:
            return
        for module in modules:
            if not any(_names(target, module) for target in self.targets):
                raise _error(self.path, f"it holds {module!r}, which target_modules does not name")
        for target in self.targets:
            held = {module for module in modules if _names(target, module)}
            if not held:
                raise _error(self.path, f"target_modules names {target[:120]!r}, of which it holds no tensor")
            named = {module for module in linears if _names(target, module)}
            apart = {module for module in named if ".experts." not in module}
            if not self.partial and held not in (named, apart):
                raise _error(
                    self.path,
                    f"target_modules names {target[:120]!r}, and it holds {len(held)} of {len(named)} such modules",
                )

    def scale(self, path: Path, module: str, a: SafetensorsInfo, b: SafetensorsInfo, linear: Shaped) -> float:
        """Returns the factor of B A, after checking the shapes of both."""
        rank = next((rank for pattern, rank in self.ranks.items() if _names(pattern, module)), self.rank)
        alpha = next((alpha for pattern, alpha in self.alphas.items() if _names(pattern, module)), self.alpha)
        outputs = linear.outputs
        for info, shape in ((a, (rank, linear.cols)), (b, (outputs, rank))):
            if info.shape != shape:
                raise _error(
                    path,
                    f"{info.name[:120]!r} is {list(info.shape)}, this model and the rank need {list(shape)}",
                )
            if info.dtype not in FLOAT_DTYPES:
                raise _error(path, f"{info.name[:120]!r} is of dtype {info.dtype}, not one of {FLOAT_DTYPES}")
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _names(pattern: str, module: str) -> bool:
    """Returns whether a pattern of peft names the module. It is a dotted suffix, or the whole name after ^."""
    if pattern.startswith("^"):
        return module == pattern[1:]
    return module == pattern or module.endswith(f".{pattern}")
