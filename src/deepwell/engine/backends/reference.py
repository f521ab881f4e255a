"""The numpy backend: the specification of every kernel, and the fallback where nothing could be compiled.

Integer dot products are exact (float32 products and sums below 2**24), everything around them is float32 in the
order that `docs/explanation/weights.md` fixes. Unpacked integers are kept as float32, four to eight times the packed size, from
first use on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends import backend
from deepwell.engine.backends.reference_compressed import CompressedAttention, CompressedCache, mixed
from deepwell.engine.backends.reference_latent import (
    LatentAttention,
    LatentCache,
    latent_attention,
    latent_cache,
)
from deepwell.engine.backends.reference_memory import Memory, behind
from deepwell.engine.backends.reference_moe import Moe, moe
from deepwell.engine.backends.reference_ops import (
    SMALLEST_PEAK,
    STORED,
    Adapter,
    Adapters,
    Float32,
    Matrix,
    Stored,
    apply_rope,
    matmul,
    matrix,
    own,
    quantize_heads,
    rms_norm,
    silu,
    swiglu,
    widen,
)
from deepwell.engine.backends.specs import (
    AttentionSpec,
    CompressedAttentionSpec,
    CompressedPage,
    HyperHeadSpec,
    MemorySpec,
)
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.layouts import KVDtype
from deepwell.engine.weights.low_rank import LowRank
from deepwell.engine.weights.quantize import round_bf16

__all__ = [
    "SMALLEST_PEAK",
    "Adapter",
    "Attention",
    "KVCache",
    "LatentAttention",
    "LatentCache",
    "Matrix",
    "Memory",
    "Mlp",
    "Model",
    "Moe",
    "apply_rope",
    "attention",
    "kv_cache",
    "latent_attention",
    "latent_cache",
    "matmul",
    "matrix",
    "mlp",
    "model",
    "moe",
    "name",
    "quantize_heads",
    "rms_norm",
    "round_bf16",
    "silu",
]

name = "reference"


class KVCache:
    """Paged keys and values, [layers, blocks, kv heads, 16 tokens, head_dim] each; int8 with scales but for the last."""

    def __init__(
        self, num_layers: int, num_blocks: int, num_kv_heads: int, head_dim: int, dtype: KVDtype
    ) -> None:
        shape = (num_layers, num_blocks, num_kv_heads, BLOCK_TOKENS, head_dim)
        self.num_blocks = num_blocks
        self.dtype: KVDtype = dtype
        self.keys: Stored = np.zeros(shape, STORED[dtype])
        self.values: Stored = np.zeros_like(self.keys)
        scales = shape[:-1] if dtype == "int8" else (0,)
        self.key_scales, self.value_scales = np.zeros(scales, np.float32), np.zeros(scales, np.float32)
        self.nbytes = self.keys.nbytes + self.values.nbytes + 2 * self.key_scales.nbytes

    def write(
        self, layer: int, blocks: NDArray[np.int32], slots: NDArray[np.int32], keys: Float32, values: Float32
    ) -> None:
        """Store rows [tokens, kv heads, head_dim] at (block, slot) of each token."""
        at = (layer, blocks, slice(None), slots)
        if self.dtype == "int8":
            self.keys[at], self.key_scales[at] = quantize_heads(keys)
            self.values[at], self.value_scales[at] = quantize_heads(values)
            return
        convert = round_bf16 if self.dtype == "bf16" else np.asarray
        self.keys[at] = convert(keys)
        self.values[at] = convert(values)

    def tokens(self, blocks: Sequence[int]) -> tuple[Float32, Float32]:
        """Returns keys and values of whole blocks, each [layers, kv heads, tokens, head_dim]."""
        pages = [
            self.read(layer, np.asarray(blocks), len(blocks) * BLOCK_TOKENS)
            for layer in range(len(self.keys))
        ]
        return np.stack([keys for keys, _ in pages]), np.stack([values for _, values in pages])

    def read(self, layer: int, blocks: NDArray[np.int32], length: int) -> tuple[Float32, Float32]:
        """The first `length` keys and values of a sequence, each [kv heads, length, head_dim]."""
        heads, dim = self.keys.shape[2], self.keys.shape[4]

        def pages(stored: Stored, scales: Float32) -> Float32:
            wide = widen(stored[layer, blocks].swapaxes(0, 1)).reshape(heads, -1, dim)[:, :length]
            if self.dtype == "int8":
                wide = wide * scales[layer, blocks].swapaxes(0, 1).reshape(heads, -1, 1)[:, :length]
            return wide

        return pages(self.keys, self.key_scales), pages(self.values, self.value_scales)

    def shift(self, sources: Sequence[int], targets: Sequence[int], cos: Float32, sin: Float32) -> None:
        """Copies blocks with their keys rotated by the angles of `cos` and `sin`, [head_dim / 2]; see `Model.shift_blocks`."""
        of, to = np.asarray(sources, np.intp), np.asarray(targets, np.intp)
        self.values[:, to] = self.values[:, of]
        keys = widen(self.keys[:, of])
        if self.dtype == "int8":
            self.value_scales[:, to] = self.value_scales[:, of]
            keys = keys * self.key_scales[:, of][..., None]
        keys = apply_rope(keys.reshape(-1, 1, keys.shape[-1]), cos[None], sin[None]).reshape(keys.shape)
        if self.dtype == "int8":
            self.keys[:, to], self.key_scales[:, to] = quantize_heads(keys)
        else:
            self.keys[:, to] = round_bf16(keys) if self.dtype == "bf16" else keys


class Attention:
    """x += o(attend(rope(qkv(rms_norm(x)) + bias))); Qwen3 normalises each query and key head before rope."""

    lora_targets: ClassVar[tuple[str, ...]] = ("qkv", "o")  # matrices that adapters may change

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        self.qkv = own(spec.qkv)
        self.o = own(spec.o)

    def forward(
        self,
        x: Float32,
        batch: Batch,
        cache: KVCache,
        layer: int,
        cos: Float32,
        sin: Float32,
        adapters: Adapters,
    ) -> Float32:
        """The residual stream after this layer; `cos` and `sin` are [tokens, head_dim / 2]."""
        qkv = adapters.matmul(rms_norm(x, self.spec.norm, self.spec.eps), self.qkv, "qkv")
        if self.spec.bias is not None:
            qkv = qkv + self.spec.bias
        heads = qkv.reshape(len(x), -1, self.spec.head_dim)
        queries, keys, values = np.split(
            heads, [self.spec.num_heads, self.spec.num_heads + self.spec.num_kv_heads], axis=1
        )
        if self.spec.q_norm is not None and self.spec.k_norm is not None:
            queries, keys = (
                rms_norm(queries, self.spec.q_norm, self.spec.eps),
                rms_norm(keys, self.spec.k_norm, self.spec.eps),
            )
        queries, keys = apply_rope(queries, cos, sin), apply_rope(keys, cos, sin)

        starts, positions = batch.seq_starts, batch.positions
        tables = np.repeat(batch.block_tables, np.diff(starts), axis=0)  # [tokens, max_blocks]
        blocks = tables[np.arange(len(x)), positions // BLOCK_TOKENS]
        cache.write(layer, blocks, positions % BLOCK_TOKENS, keys, values)

        attended = np.empty_like(queries)
        for s, table in enumerate(batch.block_tables):
            rows = slice(starts[s], starts[s + 1])
            length = int(positions[rows].max(initial=-1)) + 1
            stored = cache.read(layer, table[: -(-length // BLOCK_TOKENS)], length)
            known, keys, values = behind(batch, s, layer, *stored)
            attended[rows] = self.attend(queries[rows], keys, values, positions[rows] + known)
        return x + adapters.matmul(attended.reshape(len(x), -1), self.o, "o")

    def attend(
        self, queries: Float32, keys: Float32, values: Float32, positions: NDArray[np.int32]
    ) -> Float32:
        """Causal attention of one sequence; see `_attend`."""
        return _attend(queries, keys, values, positions)


def _attend(queries: Float32, keys: Float32, values: Float32, positions: NDArray[np.int32]) -> Float32:
    """Causal attention of one sequence: queries [tokens, heads, dim], keys, values [kv heads, length, dim].

    In float64, so that the result is the right one whatever order a kernel sums in.
    """
    tokens, heads, dim = queries.shape
    kv_heads, length, _ = keys.shape
    grouped = (
        queries.astype(np.float64).reshape(tokens, kv_heads, heads // kv_heads, dim).transpose(1, 2, 0, 3)
    )
    scores = grouped @ keys[:, None].swapaxes(-1, -2).astype(np.float64) / np.sqrt(dim)
    scores[..., np.arange(length)[None, :] > positions[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = weights @ values[:, None].astype(np.float64)  # [kv heads, heads a kv head, tokens, dim]
    return out.transpose(2, 0, 1, 3).reshape(tokens, heads, dim).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Mlp:
    """x += down(silu(gate(h)) * up(h)), h = rms_norm(x)."""

    norm: Float32
    gate_up: Matrix
    down: Matrix
    eps: float
    lora_targets: ClassVar[tuple[str, ...]] = ("gate_up", "down")  # matrices that adapters may change

    def forward(self, x: Float32, adapters: Adapters) -> Float32:
        """The residual stream after this layer."""
        both = adapters.matmul(rms_norm(x, self.norm, self.eps), self.gate_up, "gate_up")
        return x + adapters.matmul(swiglu(both), self.down, "down")


class Model:
    """A decoder: embedding, alternating attention and MLP layers of any kind, final norm, head."""

    def __init__(
        self,
        embed: Matrix,
        layers: Sequence[Attention | Mlp | LatentAttention | CompressedAttention | Moe],
        norm: Float32,
        head: Matrix,
        rotation: tuple[Float32, Float32],
        eps: float,
        join: backend.Join | None = None,
        streams: HyperHeadSpec | None = None,
    ) -> None:
        self._join, self._streams = join, streams
        self.vocab_size, self.hidden_size = head.rows, embed.cols
        self.state_size = embed.cols * (1 if streams is None else streams.streams)
        self._embed, self._layers, self._norm, self._head = embed, tuple(layers), norm, head
        (self._cos, self._sin), self._eps = rotation, eps

    @property
    def expert_loads(self) -> NDArray[np.uint64]:
        """Rows that each expert has seen so far; see `backend.Model.expert_loads`."""
        return self._loads()[:, :-1]

    @property
    def expert_reads(self) -> NDArray[np.uint64]:
        """Counts reads of expert weights; see `backend.Model.expert_reads`."""
        return self._loads()[:, -1]

    def _loads(self) -> NDArray[np.uint64]:
        loads = [layer.loads for layer in self._layers if isinstance(layer, Moe)]
        return np.stack(loads) if loads else np.empty((0, 1), np.uint64)

    def adapter(self, parts: Mapping[str, Sequence[LowRank]]) -> Adapter:
        """Keep the parts as they are; see `backend.Model.adapter`."""
        known = Counter(f"{block}.{name}" for block, layer in self._blocks() for name in layer.lora_targets)
        if unknown := {name for name in parts if known[name] != 1}:
            raise ValueError(f"no single matrix that adapters may change is named {min(unknown)!r}")
        return Adapter(parts)

    def _blocks(self) -> Iterator[tuple[int, Attention | Mlp | LatentAttention | CompressedAttention | Moe]]:
        """The layers, each with its block: that of the last attention layer so far."""
        block = -1
        for layer in self._layers:
            block += isinstance(layer, Attention | LatentAttention | CompressedAttention)
            yield max(block, 0), layer

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
        x = self._begin(batch, previous)
        cos, sin = self._cos[batch.positions], self._sin[batch.positions]
        adapters = Adapters(batch)
        for block, layer in self._blocks():
            added = adapters.of(block)
            if isinstance(layer, Mlp):
                x = layer.forward(x, added)
            elif isinstance(layer, Moe):
                x = layer.forward(x, added, batch.tokens)
            elif isinstance(layer, CompressedAttention):
                x = layer.forward(x, batch, _own_cache(cache, CompressedCache), block, added)
            elif isinstance(layer, Attention):
                x = layer.forward(x, batch, _own_cache(cache, KVCache), block, cos, sin, added)
            else:
                x = layer.forward(x, batch, _own_cache(cache, LatentCache), block, cos, sin, added)
        if states is not None:
            states[...] = self._states(x)
        if output_states is not None:
            output_states[...] = self._states(x[batch.output_rows])
        if self._streams is not None:
            x = mixed(self._streams, x)
        final = rms_norm(x[batch.output_rows], self._norm, self._eps)
        if hidden is not None:
            hidden[...] = final
        if logits is None and argmax is None and target_logprobs is None:
            return
        scores = matmul(final, self._head)
        if logits is not None:
            logits[...] = scores
        if argmax is not None:
            argmax[...] = scores.argmax(axis=1)
        if target_logprobs is not None:
            if targets is None:
                raise ValueError("target_logprobs needs targets")
            top = scores.max(axis=1)
            log_sum = np.log(np.exp((scores - top[:, None]).astype(np.float64)).sum(axis=1))
            target_logprobs[...] = scores[np.arange(len(scores)), targets] - top - log_sum

    def shift_blocks(
        self, cache: backend.KVCache, sources: Sequence[int], targets: Sequence[int], positions: int
    ) -> None:
        """Copies blocks with their keys turned back; see `backend.Model.shift_blocks`."""
        if not isinstance(cache, KVCache | LatentCache):
            raise TypeError(f"the reference backend needs its own cache, got {type(cache).__name__}")
        # Yarn's attention factor is in both tables, and in every key already.
        factor = self._cos[0]
        cache.shift(sources, targets, self._cos[positions] / factor, -self._sin[positions] / factor)

    def memory(self, cache: backend.KVCache, spec: MemorySpec) -> Memory:
        """Makes an empty memory; see `backend.Model.memory`."""
        if isinstance(cache, LatentCache):
            return cache.memory(spec, self._cos, self._sin)
        dim = _own_cache(cache, KVCache).keys.shape[-1]
        return Memory(dim, dim, spec, self._cos, self._sin)

    def remember_blocks(self, cache: backend.KVCache, memory: backend.Memory, blocks: Sequence[int]) -> None:
        """Keeps tokens as factors; see `backend.Model.remember_blocks`."""
        if not isinstance(cache, KVCache | LatentCache):
            raise TypeError(f"the reference backend needs its own cache, got {type(cache).__name__}")
        _own_memory(memory).remember(*cache.tokens(blocks))

    def _begin(self, batch: Batch, previous: NDArray[np.float32] | None) -> Float32:
        """The rows before the first layer, [rows, hidden_size], or their streams, [rows, streams, hidden_size]."""
        x = np.stack([self._embed.row(int(token)) for token in batch.tokens])
        join = self._join
        if (previous is None) != (join is None):
            raise ValueError("a model that joins states needs those of every row, others take none")
        streams = None if self._streams is None else self._streams.streams
        if previous is None or join is None:
            return x if streams is None else np.repeat(x[:, None], streams, axis=1)
        x = rms_norm(x, join.embed_norm, self._eps)
        if streams is None or join.state_proj is None:
            normed = rms_norm(previous, join.state_norm, self._eps)
            return matmul(np.concatenate([x, normed], axis=1), own(join.proj))
        normed = rms_norm(previous.reshape(-1, self.hidden_size), join.state_norm, self._eps)
        of_states = matmul(normed, own(join.state_proj)).reshape(len(x), streams, -1)
        return matmul(x, own(join.proj))[:, None] + of_states

    def _states(self, x: Float32) -> Float32:
        """Returns what a prediction layer reads of rows behind the last layer, [rows, state_size]."""
        return x.reshape(len(x), -1) if x.ndim > 2 else rms_norm(x, self._norm, self._eps)


_Cache = TypeVar("_Cache", KVCache, LatentCache, CompressedCache)


def _own_cache(cache: backend.KVCache, kind: type[_Cache]) -> _Cache:
    if not isinstance(cache, kind):
        raise TypeError(f"the reference backend needs its own {kind.__name__}, got {type(cache).__name__}")
    return cache


def _own_memory(memory: backend.Memory) -> Memory:
    if not isinstance(memory, Memory):
        raise TypeError(f"the reference backend needs its own Memory, got {type(memory).__name__}")
    return memory


def attention(spec: AttentionSpec) -> Attention:
    """Makes the layer of a spec."""
    return Attention(spec)


def compressed_attention(spec: CompressedAttentionSpec) -> CompressedAttention:
    """Makes the layer of a spec."""
    return CompressedAttention(spec)


def compressed_cache(
    shapes: Sequence[CompressedPage],
    num_blocks: int,
    dtype: KVDtype,
    slots: NDArray[np.int32] | None = None,
    num_slots: int = 0,
) -> CompressedCache:
    """An empty paged cache of vectors and entries."""
    if slots is None:
        slots, num_slots = np.arange(num_blocks, dtype=np.int32), num_blocks
    return CompressedCache(shapes, num_blocks, dtype, slots, num_slots)


def mlp(norm: Float32, gate_up: backend.Matrix, down: backend.Matrix, *, eps: float) -> Mlp:
    """`gate_up` rows alternate 16 of gate, 16 of up (`quantize.interleave_gate_up`)."""
    return Mlp(norm, own(gate_up), own(down), eps)


def kv_cache(num_layers: int, num_blocks: int, num_kv_heads: int, head_dim: int, dtype: KVDtype) -> KVCache:
    """An empty paged cache."""
    return KVCache(num_layers, num_blocks, num_kv_heads, head_dim, dtype)


def model(
    embed: backend.Matrix,
    layers: Sequence[backend.Layer],
    norm: Float32,
    head: backend.Matrix,
    cos: Float32,
    sin: Float32,
    *,
    eps: float,
    join: backend.Join | None = None,
    streams: HyperHeadSpec | None = None,
) -> Model:
    """Compose a decoder; `embed` and `head` may be the same matrix."""
    ours = [
        layer
        for layer in layers
        if isinstance(layer, Attention | Mlp | LatentAttention | CompressedAttention | Moe)
    ]
    if len(ours) != len(layers):
        raise TypeError("the reference backend needs its own layers")
    return Model(own(embed), ours, norm, own(head), (cos, sin), eps, join, streams)
