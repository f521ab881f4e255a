"""The compiled backend: the surface of `reference`, run by the kernels of `deepwell._native`."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends import backend, reference, specs
from deepwell.engine.backends.specs import AttentionSpec, LatentAttentionSpec, MemorySpec, MoeSpec
from deepwell.engine.batch import Batch
from deepwell.engine.layouts import KVDtype, Scheme
from deepwell.engine.weights.low_rank import INT8_RANK, AdapterDtype, LowRank, PackedLowRank, by_expert, pack
from deepwell.errors import MissingDependency

__all__ = [
    "MAX_THREADS",
    "PHASES",
    "Model",
    "StepProfile",
    "attention",
    "available_isas",
    "is_available",
    "isa",
    "kv_cache",
    "latent_attention",
    "latent_cache",
    "matmul",
    "matrix",
    "mlp",
    "model",
    "moe",
    "name",
    "select_backend",
    "set_isa",
    "set_threads",
    "switch_profile",
    "threads",
]

name = "native"
MAX_THREADS: Final = 64  # as in the extension; more cores than memory channels feed gain nothing

log = logging.getLogger(__name__)

_BUILD_FIX: Final = "install g++ and python3-dev, then reinstall deepwell (`make clean run` in a clone)"


def _load() -> tuple[Any, str]:
    """The extension module and, where it is missing, why."""
    try:
        return importlib.import_module("deepwell._native"), ""
    except ImportError as error:
        return None, str(error)


_native, _missing = _load()


def is_available() -> bool:
    """Tells if the extension was built and loads on this machine."""
    return _native is not None


def select_backend(
    requested: Literal["auto", "native", "reference"] = "auto", isa: str | None = None
) -> backend.Backend:
    """The backend to run on; "auto" is native or, with a warning, the numpy reference where nothing was compiled.

    `isa`, else `DEEPWELL_ISA`, forces one of `available_isas()`.

    Raises:
        MissingDependency: "native" was asked for and the extension is missing, or `DEEPWELL_ISA` names no kernel
            table of this machine.
    """
    if requested == "reference":
        return reference
    if _native is None:
        if requested == "native":
            raise MissingDependency(f"the compiled kernels are missing ({_missing})", fix=_BUILD_FIX)
        log.warning(
            "running on the numpy reference, many times slower: the compiled kernels are missing (%s). Fix: %s",
            _missing,
            _BUILD_FIX,
        )
        return reference
    if forced := isa or os.environ.get("DEEPWELL_ISA"):
        if forced not in available_isas():
            raise MissingDependency.of("kernels_unknown", isa=forced, known=", ".join(available_isas()))
        set_isa(forced)
    return cast("backend.Backend", sys.modules[__name__])


def isa() -> str:
    """The kernel table in use: "avx512_amx", "avx512_bf16", "avx512", "avx2", "generic" or, for tests, "avx512_emulated".

    On ARM "neon_i8mm", "neon_dotprod" or "generic".
    """
    return _native.isa()


def available_isas() -> list[str]:
    """The kernel tables this machine can run, best first."""
    return list(_native.available_isas())


def set_isa(table: str) -> None:
    """Use another kernel table of `available_isas()` from the next call on; caches another table wrote are not read."""
    _native.set_isa(table)


def threads() -> int:
    """Threads of the pool, the caller included."""
    return _native.threads()


def set_threads(count: int) -> None:
    """Resize the pool, to 1..MAX_THREADS."""
    _native.set_threads(count)


PHASES: Final = ("embed", "norm", "qkv", "attention", "o", "gate_up", "down", "head", "between")


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Times of some steps by phase. A phase ends when the first thread leaves its barrier."""

    steps: int
    seconds: dict[
        str, float
    ]  # by PHASES; "between" is spent outside the model, from one such step to the next


def switch_profile(on: bool) -> tuple[StepProfile, StepProfile]:
    """Begin to profile steps anew, or stop; to be called while no step runs.

    Returns:
        What was measured until now: steps that decode one row of each sequence, of these the steps with most sequences
        alone (others join or have ended); and all others that do not decode.
    """
    decode, other = (
        StepProfile(steps, dict(zip(PHASES, seconds, strict=True))) for steps, seconds in _native.profile(on)
    )
    return decode, other


def matmul(x: NDArray[np.float32], weight: specs.Matrix) -> NDArray[np.float32]:
    """y = x W^T: [tokens, cols] -> [tokens, rows]."""
    return _native.matmul(x, weight)


def matrix(data: NDArray[np.uint8], rows: int, cols: int, scheme: Scheme) -> specs.Matrix:
    """Wrap packed bytes (not copied, kept alive)."""
    return _native.Matrix(data, rows, cols, scheme)


def attention(spec: AttentionSpec) -> backend.Attention:
    """Compiles an attention layer."""
    s = spec
    matrices = (s.norm, s.qkv, s.bias, s.o)
    return _native.Attention(*matrices, s.num_heads, s.num_kv_heads, s.head_dim, s.eps, s.q_norm, s.k_norm)


def mlp(norm: NDArray[np.float32], gate_up: specs.Matrix, down: specs.Matrix, *, eps: float) -> backend.Mlp:
    """`gate_up` rows alternate 16 of gate, 16 of up (`quantize.interleave_gate_up`)."""
    return _native.Mlp(norm, gate_up, down, eps)


def moe(spec: MoeSpec) -> backend.Moe:
    """Compiles a mixture of experts."""
    s = spec
    matrices = (s.norm, s.router, s.correction_bias, s.gate_up, s.down, s.shared_gate_up, s.shared_down)
    choice = (s.num_experts, s.top_k, s.scoring, s.n_group, s.topk_group, s.norm_topk_prob)
    return _native.Moe(
        *matrices,
        *choice,
        s.routed_scaling_factor,
        s.eps,
        s.limit,
        s.token_experts,
        s.hyper and _hyper(s.hyper),
    )


def _hyper(spec: specs.HyperSpec) -> Any:
    s = spec
    return _native.Hyper(s.weights, s.base, s.scale, s.streams, s.rounds, s.eps, s.norm_eps)


def compressed_attention(spec: specs.CompressedAttentionSpec) -> backend.CompressedAttention:
    """Compiles attention over a window and compressed entries."""
    s, indexer = spec, spec.indexer

    def compressor(one: specs.CompressorSpec | None) -> Any:
        return one and _native.Compressor(one.bias, one.norm, one.rate, one.overlap)

    matrices = (s.norm, s.a, s.q_norm, s.q_b, s.kv_norm, s.o_a, s.o_b, s.sinks, s.cos, s.sin)
    sizes = (s.num_heads, s.head_dim, s.o_groups, s.window, s.eps)
    index = (None, None, None, 0)
    if indexer is not None:
        index = (compressor(indexer.compressor), indexer.q_b, indexer.weights, indexer.top_k)
    return _native.CompressedAttention(*matrices, _hyper(s.hyper), *sizes, compressor(s.compressor), *index)


def compressed_cache(
    shapes: Sequence[specs.CompressedPage],
    num_blocks: int,
    dtype: KVDtype,
    slots: NDArray[np.int32] | None = None,
    num_slots: int = 0,
) -> backend.KVCache:
    """An empty paged cache of vectors and entries."""
    if slots is None:
        slots, num_slots = np.arange(num_blocks, dtype=np.int32), num_blocks
    of_layers = [(one.width, [(e.rate, e.width, e.overlap) for e in one.entries]) for one in shapes]
    return _native.CompressedCache(of_layers, num_blocks, dtype, slots, num_slots)


def kv_cache(
    num_layers: int, num_blocks: int, num_kv_heads: int, head_dim: int, dtype: KVDtype
) -> backend.KVCache:
    """An empty paged cache."""
    return _native.KVCache(num_layers, num_blocks, num_kv_heads, head_dim, dtype)


def latent_attention(spec: LatentAttentionSpec) -> backend.LatentAttention:
    """Compiles latent attention. Rows that leave tokens out are absorbed, whatever their role."""
    s, indexer = spec, spec.indexer
    compiled = indexer and _native.Indexer(
        indexer.q_b,
        indexer.k,
        indexer.k_norm,
        indexer.k_shift,
        indexer.weights,
        indexer.num_heads,
        indexer.head_dim,
        indexer.top_k,
    )
    matrices = (s.norm, s.a, s.q_norm, s.q_b, s.kv_norm, s.k_up, s.k_absorb, s.v_up, s.o)
    dims = (s.num_heads, s.qk_nope_head_dim, s.qk_rope_head_dim, s.v_head_dim, s.kv_lora_rank)
    return _native.LatentAttention(*matrices, *dims, s.scale, s.eps, compiled)


def latent_cache(
    num_layers: int,
    num_blocks: int,
    kv_lora_rank: int,
    qk_rope_head_dim: int,
    dtype: KVDtype,
    index_head_dim: int = 0,
) -> backend.KVCache:
    """An empty paged cache of latents."""
    return _native.LatentCache(num_layers, num_blocks, kv_lora_rank, qk_rope_head_dim, dtype, index_head_dim)


def model(
    embed: specs.Matrix,
    layers: Sequence[backend.Layer],
    norm: NDArray[np.float32],
    head: specs.Matrix,
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    *,
    eps: float,
    join: specs.Join | None = None,
    streams: specs.HyperHeadSpec | None = None,
) -> Model:
    """Compose a decoder; `embed` and `head` may be the same matrix."""
    joined = join and _native.Join(join.embed_norm, join.state_norm, join.proj, join.state_proj)
    mixed = streams and _native.HyperHead(
        streams.weights, streams.base, streams.scale, streams.streams, streams.eps, streams.norm_eps
    )
    compiled = _native.Model(embed, list(layers), norm, head, cos, sin, eps, joined, mixed)
    return Model(compiled, head.rows, embed.cols)


class Model:
    """A compiled decoder; `forward` takes the arrays of a `Batch` apart, the rest happens without the GIL."""

    __slots__ = ("_adapter", "_compiled", "_forward", "_targets", "hidden_size", "state_size", "vocab_size")

    def __init__(self, compiled: Any, vocab_size: int, hidden_size: int) -> None:
        self._compiled = compiled
        self._forward = compiled.forward
        self._adapter = compiled.adapter
        # by name: (rows padded to whole panels, cols, scheme, experts that it stacks or 1)
        self._targets: dict[str, tuple[int, int, Scheme, int]] = compiled.lora_targets
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.state_size: int = compiled.state_size

    def adapter(self, parts: Mapping[str, Sequence[LowRank]]) -> backend.Adapter:
        """Pack an adapter; see `backend.Model.adapter`."""
        schemes = {scheme for _, _, scheme, _ in self._targets.values()}
        dtype: AdapterDtype = (
            "fp32" if "fp32" in schemes else "int8" if schemes <= {"int8", "int4"} else "bf16"
        )
        if dtype == "int8" and any(part.rank > INT8_RANK for own in parts.values() for part in own):
            dtype = "bf16"
        packed: dict[str, PackedLowRank | list[PackedLowRank | None]] = {}
        for name, part in parts.items():
            if name not in self._targets:
                raise ValueError(f"no matrix that adapters may change is named {name!r}")
            rows, cols, _, experts = self._targets[name]
            if part and experts == 1:
                packed[name] = pack(part, rows, cols, dtype)
            elif part:
                packed[name] = [
                    pack(own, rows // experts, cols, dtype) if own else None
                    for own in by_expert(part, rows // experts, experts)
                ]
        return self._adapter(packed, dtype)

    @property
    def expert_loads(self) -> NDArray[np.uint64]:
        """Rows that each expert has seen so far, [mixtures, experts]; [0, 0] in a dense model."""
        return self._loads()[:, :-1]

    @property
    def expert_reads(self) -> NDArray[np.uint64]:
        """Counts reads of expert weights, one per step and expert for all of its rows: [mixtures]."""
        return self._loads()[:, -1]

    def _loads(self) -> NDArray[np.uint64]:
        loads = self._compiled.expert_loads
        return np.array(loads, np.uint64) if loads else np.empty((0, 1), np.uint64)

    def forward(
        self,
        batch: Batch,
        cache: backend.KVCache,
        *,
        logits: NDArray[np.float32] | None = None,
        argmax: NDArray[np.int32] | None = None,
        hidden: NDArray[np.float32] | None = None,
        targets: NDArray[np.int32] | None = None,
        target_logprobs: NDArray[np.float32] | None = None,
        previous: NDArray[np.float32] | None = None,
        states: NDArray[np.float32] | None = None,
        output_states: NDArray[np.float32] | None = None,
    ) -> None:
        """Run one step; see `backend.Model.forward`."""
        self._forward(
            batch.tokens,
            batch.positions,
            batch.seq_starts,
            batch.block_tables,
            batch.output_rows,
            cache,
            logits,
            argmax,
            hidden,
            targets,
            target_logprobs,
            batch.adapters,
            batch.prompt_lengths,
            previous,
            states,
            batch.memories,
            output_states,
        )

    def shift_blocks(
        self, cache: backend.KVCache, sources: Sequence[int], targets: Sequence[int], positions: int
    ) -> None:
        """Copies blocks with their keys turned back; see `backend.Model.shift_blocks`."""
        of, to = np.asarray(sources, np.int32), np.asarray(targets, np.int32)
        self._compiled.shift_blocks(cache, of, to, positions)

    def memory(self, cache: backend.KVCache, spec: MemorySpec) -> backend.Memory:
        """Makes an empty memory; see `backend.Model.memory`."""
        s = spec
        return _native.Memory(cache, s.tokens, s.first, s.key_rank, s.value_rank, s.floor, s.most)

    def remember_blocks(self, cache: backend.KVCache, memory: backend.Memory, blocks: Sequence[int]) -> None:
        """Keeps tokens as factors; see `backend.Model.remember_blocks`."""
        self._compiled.remember_blocks(cache, memory, np.asarray(blocks, np.int32))
