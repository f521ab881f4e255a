"""The best this machine could do: measured peaks, and the bytes and multiply-adds a token really needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from deepwell.engine.layouts import KVDtype, Precision, Scheme
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.weights.load import weights_nbytes
from deepwell.engine.weights.quantize import packed_nbytes
from deepwell.errors import DeepwellError
from deepwell.models.formats.config import ModelConfig

__all__ = [
    "FAR_BYTES",
    "Kind",
    "Precision",
    "Roofs",
    "Work",
    "manual_macs",
    "measure_roof",
    "measure_roofs",
    "work_of",
]

Kind = Literal["memory", "int8", "int4", "bf16", "fp32", "clock"]
KINDS: tuple[Kind, ...] = ("memory", "int8", "int4", "bf16", "fp32")
FAR_BYTES: Final = 512 << 20
"""More than the caches of most machines hold."""
_LEAST_BYTES: Final = 1 << 20

# Multiply-adds a cycle of one core. 512 bits hold 64 products of bytes and 16 of floats; a tile product takes 16 cycles.
# Intel: Optimization Reference Manual (248966), chapters of AVX-512 VNNI and of AMX, for cores with two units of 512 bits.
# AMD: Software Optimization Guides of Zen 4 (57647), which halves 512 bits, and of Zen 5 (58455).
_AMX: dict[Kind, float] = {"int8": 1024, "int4": 1024, "bf16": 512, "fp32": 32}
_TWO_WIDE: dict[Kind, float] = {"int8": 128, "int4": 128, "fp32": 32}
_ONE_WIDE: dict[Kind, float] = {"int8": 64, "int4": 64, "fp32": 16}
_TWO_HALF: dict[Kind, float] = {"fp32": 16}
_ZEN_5 = 26  # family, as /proc/cpuinfo has it


@dataclass(frozen=True, slots=True)
class Roofs:
    """Peaks with `threads` threads, measured in this run: GB/s read, and GMAC/s in each kind of arithmetic."""

    threads: int
    memory: float
    int8: float
    int4: float
    bf16: float  # above fp32 where the processor multiplies pairs of bf16
    fp32: float

    def of(self, scheme: Scheme) -> float:
        """Returns the peak of products with weights of `scheme`."""
        peaks: dict[Scheme, float] = {"int8": self.int8, "int4": self.int4, "bf16": self.bf16}
        return peaks.get(scheme, self.fp32)

    def or_higher(self, other: Roofs) -> Roofs:
        """Returns the higher of both peaks of each kind: other machines on the same processor only ever lower one."""
        return Roofs(self.threads, *(max(getattr(self, kind), getattr(other, kind)) for kind in KINDS))


def measure_roof(kind: Kind, threads: int, *, seconds: float = 0.4, nbytes: float = FAR_BYTES) -> float:
    """Measures one peak: GB/s of "memory", GHz of "clock" (0 where it is not known), GMAC/s of the others.

    Args:
        nbytes: of the memory that is read again and again. A step's roof takes as many as the step reads: a large cache holds a
            model between two steps, and then reading goes as fast as that cache.

    Raises:
        DeepwellError: the compiled extension is missing, so there is nothing to compare with.
    """
    try:
        from deepwell import _native  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise DeepwellError(
            "benchmarks need the compiled extension, which is missing", fix="install g++ and run `make test`"
        ) from None
    return float(_native.roofline(kind, threads, seconds, max(int(nbytes), _LEAST_BYTES)))


def measure_roofs(threads: int, *, seconds: float = 0.4, nbytes: float = FAR_BYTES) -> Roofs:
    """Measures every peak, `seconds` each; see `measure_roof`."""
    return Roofs(threads, *(measure_roof(kind, threads, seconds=seconds, nbytes=nbytes) for kind in KINDS))


def manual_macs(table: str, vendor: str, family: int) -> dict[Kind, float]:
    """Returns the multiply-adds a cycle that the manuals give a core with the instructions of a kernel table.

    Args:
        table: name of the kernel table.
        vendor, family: of the processor, as /proc/cpuinfo has them.
    """
    if table == "avx512_amx":
        return _AMX
    if table.startswith("avx512"):
        return _ONE_WIDE if vendor == "AuthenticAMD" and family < _ZEN_5 else _TWO_WIDE
    return _TWO_HALF if table == "avx2" else {}


@dataclass(frozen=True, slots=True)
class Work:
    """The needs of one model: bytes of weights a decode step reads, MACs a token, and the cache's share."""

    scheme: Scheme
    step_bytes: int  # weights and scales that one step reads, whatever the batch
    kv_bytes_per_token: int  # keys and values of one position, all layers
    layers: int
    layer_macs: int  # GEMM multiply-adds of one layer, a token
    qkv_macs: int  # of these q, k and v: all that the last layer needs of a token whose output nobody reads
    head_macs: int
    attention_macs_per_key: int  # multiply-adds of one query over one key and value, one layer
    attention_scheme: Scheme  # arithmetic that pages of this type allow at best

    def decode_bytes(self, context: float) -> float:
        """Returns the bytes one token at batch 1 reads, with `context` positions in the cache."""
        return self.step_bytes + self.kv_bytes_per_token * context

    def decode_roof(self, memory: float, context: float) -> float:
        """Returns tokens a second at batch 1 when reading at `memory` GB/s is the only limit."""
        return memory * 1e9 / self.decode_bytes(context)

    def prefill_gemm_macs(self, tokens: int) -> int:
        """Returns the GEMM multiply-adds of a prompt of which the last row alone is read."""
        unread = (self.layer_macs - self.qkv_macs) * (tokens - 1)
        return self.layers * self.layer_macs * tokens - unread + self.head_macs

    def prefill_attention_macs(self, tokens: int) -> int:
        """Returns the multiply-adds of causal attention, in the last layer of the last row alone."""
        keys = (self.layers - 1) * tokens * (tokens + 1) // 2 + tokens
        return self.attention_macs_per_key * keys

    def prefill_roof(self, roofs: Roofs, tokens: int) -> float:
        """Returns tokens a second of a prompt: GEMMs at the peak of their scheme, causal attention at that of its pages."""
        gemm = self.prefill_gemm_macs(tokens) / (roofs.of(self.scheme) * 1e9)
        return tokens / (gemm + self.prefill_attention_macs(tokens) / (roofs.of(self.attention_scheme) * 1e9))


def work_of(config: ModelConfig, precision: Precision, *, kv_dtype: KVDtype) -> Work:
    """Counts the work of a dense Llama-shaped model from its shapes."""
    hidden, inner, heads, kv_heads = (
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
    )
    layers = config.num_hidden_layers
    qkv_weights = (heads + 2 * kv_heads) * config.head_dim * hidden
    o_weights, mlp_weights = heads * config.head_dim * hidden, 3 * inner * hidden
    scheme: Scheme = "int4" if precision == "int4-full" else precision
    # Of an untied embedding a step reads one row a token, not the matrix.
    embedding = (
        0
        if config.tie_word_embeddings
        else packed_nbytes(config.vocab_size, hidden, embedding_scheme(precision))
    )
    return Work(
        scheme=scheme,
        step_bytes=weights_nbytes(config, precision) - embedding,
        kv_bytes_per_token=kv_token_bytes(config, kv_dtype),
        layers=layers,
        layer_macs=qkv_weights + o_weights + mlp_weights,
        qkv_macs=qkv_weights,
        head_macs=config.vocab_size * hidden,
        attention_macs_per_key=heads * config.head_dim * 2,
        attention_scheme="bf16" if kv_dtype == "bf16" else "fp32",
    )


def embedding_scheme(precision: Precision) -> Scheme:
    """Returns the scheme of the embedding and the head: "int4" keeps them in 8 bits, "int4-full" does not."""
    return "int4" if precision == "int4-full" else "int8" if precision == "int4" else precision
