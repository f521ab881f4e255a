"""The memory plan: the memory a model will need, computed before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from deepwell.engine.architectures.deepseek_v4 import cache_pages, horizon, prediction_pages
from deepwell.engine.backends.specs import CompressedPage
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.speculation import PENDING_ROWS
from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.limits import PASS_ROWS, Limits
from deepwell.engine.machine import available_memory_bytes
from deepwell.engine.recents import blocks_held
from deepwell.engine.weights.load import weights_nbytes
from deepwell.engine.weights.quantize import FLOATS
from deepwell.errors import InsufficientMemory, InvalidRequest
from deepwell.messages import Language, render
from deepwell.models.formats.config import ModelConfig

__all__ = [
    "FULL_BATCH",
    "MemoryPlan",
    "engine_process_bytes",
    "kv_token_bytes",
    "lines_of",
    "plan",
    "recent_horizon",
    "recent_slots",
    "server_bytes",
    "slot_bytes",
    "total_of",
]

DEFAULT_CONTEXT: Final = 8192  # tokens of one sequence, if the model allows as many
SMALL_CONTEXT: Final = 4096  # tokens that the default pool always holds, if the model allows as many
SMALL_POOL_BYTES: Final = 256 << 20  # limit of the default pool, unless SMALL_CONTEXT needs more
# Proportional set sizes of a server of smollm2, qwen2.5-coder-0.5b and minilm (`deepwell bench several-models` adds them up).
_ENGINE_PROCESS_BYTES: Final = 26_000_000  # interpreter and libraries of an engine
_ENGINE_ENTRY_BYTES: Final = 75  # of the vocabulary, as the file's reader keeps it
_SERVER_PROCESS_BYTES: Final = 107_000_000  # interpreter, libraries, HTTP, database
_TOKENIZER_ENTRY_BYTES: Final = 215  # of the vocabulary, with its merges, in the server's tokenizer
_UNIGRAM_ENTRY_BYTES: Final = 1100  # of a unigram vocabulary: the library keeps it as a tree of bytes
_UNIGRAM_ENTRIES: Final = 200_000  # encoders with so many tokens have unigram vocabularies
_KV_BYTES: Final[dict[KVDtype, int]] = {"fp32": 4, "bf16": 2, "int8": 1}
# Bytes of the scale of one key or value of a head.
_KV_SCALE_BYTES: Final[dict[KVDtype, int]] = {
    "fp32": 0,
    "bf16": 0,
    "int8": 4,
}
FULL_BATCH: Final = Limits().max_sequences
"""Sequences that one step computes together where memory allows."""
_BATCHES: Final = (FULL_BATCH, 32, 16, 8, 4, 2, 1)  # that are tried where none is asked for
# Largest first.
_PRECISIONS: Final[tuple[Precision, ...]] = (
    "fp32",
    "bf16",
    "fp16",
    "int8",
    "int4",
    "int4-full",
)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The planned use of memory. `plan` returns only plans that fit."""

    precision: Precision
    kv_dtype: KVDtype
    context: int  # tokens a sequence may hold
    kv_cache_tokens: int  # tokens all sequences together may hold, in whole blocks
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int  # with the engine's process itself
    server_bytes: int  # the model's tokenizer, and the server's process unless another model's plan has it
    available_bytes: int
    batch_size: int = FULL_BATCH  # sequences that one step computes together

    @property
    def num_blocks(self) -> int:
        """Number of blocks of the KV cache."""
        return self.kv_cache_tokens // BLOCK_TOKENS

    @property
    def total_bytes(self) -> int:
        """Bytes of weights, cache, workspace and server together."""
        return self.weights_bytes + self.kv_cache_bytes + self.workspace_bytes + self.server_bytes

    def lines(self, spoken: Language = "en") -> list[str]:
        """Returns the plan in words of a language, one item per line."""

        def line(key: str, size: int, **values: object) -> str:
            return render(f"plan_{key}", spoken, {"size": _size(size), **values})[0]

        cache = {"tokens": self.kv_cache_tokens, "dtype": self.kv_dtype, "context": self.context}
        batch = line("batches", 0, batch=self.batch_size) if self.batch_size != FULL_BATCH else ""
        return [
            line("weights", self.weights_bytes, precision=self.precision),
            *([line("cache", self.kv_cache_bytes, **cache)] if self.kv_cache_tokens else []),
            line("workspace", self.workspace_bytes) + batch,
            line("server", self.server_bytes),
            line("total", self.total_bytes, available=_size(self.available_bytes)),
        ]


def total_of(plans: Sequence[MemoryPlan]) -> int:
    """Returns the bytes of several models in one server. All but one of the plans were made with `joins`."""
    return sum(one.total_bytes for one in plans)


def lines_of(plans: Mapping[str, MemoryPlan]) -> list[str]:
    """Returns the plans of the models of one server as a table, with their sum in its last line."""
    width = max(5, *(len(name) for name in plans))
    head = ("weights", "KV cache", "workspace", "server", "total")
    rows = [f"{'':{width}}" + "".join(f"  {title:>9}" for title in head)]
    for name, one in plans.items():
        parts = (
            one.weights_bytes,
            one.kv_cache_bytes,
            one.workspace_bytes,
            one.server_bytes,
            one.total_bytes,
        )
        rows.append(f"{name:{width}}" + "".join(f"  {_size(part):>9}" for part in parts))
    available = next(iter(plans.values())).available_bytes
    total = f"{total_of(tuple(plans.values())) / 1e6:.1f} MB"
    return [*rows, f"{'total':{width}}{'':44}  {total:>9}  of {_size(available)} available"]


def engine_process_bytes(config: ModelConfig) -> int:
    """Returns the bytes of an engine's process before it computes, without its weights."""
    return _ENGINE_PROCESS_BYTES + _ENGINE_ENTRY_BYTES * config.vocab_size


def server_bytes(config: ModelConfig, *, joins: bool = False) -> int:
    """Returns the bytes that a model takes in the server's own process.

    Args:
        joins: it joins a server whose process is in the plan of another model: only the tokenizer counts.
    """
    is_unigram = config.is_encoder and config.vocab_size >= _UNIGRAM_ENTRIES
    entry_bytes = _UNIGRAM_ENTRY_BYTES if is_unigram else _TOKENIZER_ENTRY_BYTES
    return (0 if joins else _SERVER_PROCESS_BYTES) + entry_bytes * config.vocab_size


def kv_token_bytes(config: ModelConfig, kv_dtype: KVDtype, *, predicts: bool = False) -> int:
    """Returns the bytes of keys and values, or of latents, that one token takes over all layers.

    Args:
        predicts: include the multi-token prediction layer, if there is one.
    """
    layers = config.num_hidden_layers + (predicts and config.prediction_layer is not None)
    if config.compression is not None:
        block = sum(_block_bytes(page, _KV_BYTES[kv_dtype]) for page in cache_pages(config))
        return max(1, -(-block // BLOCK_TOKENS))
    if config.is_latent:
        # Only the latent is int8, with a float32 scale. k_pe and the indexer's key are bf16.
        narrow = 4 if kv_dtype == "fp32" else 2
        latent = config.kv_lora_rank * _KV_BYTES[kv_dtype] + _KV_SCALE_BYTES[kv_dtype]
        return layers * (latent + narrow * (config.qk_rope_head_dim + config.index_head_dim))
    head_bytes = config.head_dim * _KV_BYTES[kv_dtype] + _KV_SCALE_BYTES[kv_dtype]
    return 2 * config.attention_layers * config.num_key_value_heads * head_bytes


def _block_bytes(page: CompressedPage, element: int) -> int:
    """Returns the bytes of a block of one layer: the entries that end in it."""
    return sum(max(1, BLOCK_TOKENS // one.rate) * _wide(one.width) * element for one in page.entries)


def _slot_bytes(page: CompressedPage, element: int) -> int:
    """Returns the bytes of a slot of one layer: the vectors of 16 tokens, and what entries are made of, as float32."""
    parts = sum(2 * _wide(one.width) * (1 + one.overlap) * 4 for one in page.entries)
    return BLOCK_TOKENS * (_wide(page.width) * element + parts)


def _wide(width: int) -> int:
    return -(-width // 16) * 16


def recent_horizon(config: ModelConfig, *, predicts: bool) -> int:
    """Returns the tokens before a row whose slots a sequence keeps.

    Args:
        predicts: include the multi-token prediction layer, if there is one. It reads rows that the model computed up to
            `PENDING_ROWS` earlier, each with the window before it.
    """
    own = horizon(config)
    if config.compression is None or config.prediction_layer is None or not predicts:
        return own
    return max(own, config.compression.window - 1 + PENDING_ROWS)


def recent_slots(config: ModelConfig, limits: Limits, num_blocks: int) -> int:
    """Returns the slots of a cache that keeps single tokens apart: what all sequences of a step need, and a quarter more.

    The quarter lets later prompts go on where others ended; see `engine.recents`.
    """
    reach = recent_horizon(config, predicts=limits.predict_depth > 0)
    of_sequence = blocks_held(reach, 1 + limits.draft_depth) + 1
    rows = max(limits.prefill_tokens, limits.mixed_prefill_tokens)
    return min(num_blocks, (limits.max_sequences * of_sequence + -(-rows // BLOCK_TOKENS)) * 5 // 4)


def recent_bytes(
    config: ModelConfig, kv_dtype: KVDtype, batch_size: int, num_blocks: int, *, predicts: bool
) -> int:
    """Returns the bytes of these slots; 0 for a model that keeps none."""
    if config.compression is None:
        return 0
    limits = replace(Limits(), max_sequences=batch_size, predict_depth=int(predicts))
    return recent_slots(config, limits, num_blocks) * slot_bytes(config, kv_dtype, predicts=predicts)


def slot_bytes(config: ModelConfig, kv_dtype: KVDtype, *, predicts: bool = False) -> int:
    """Returns the bytes of a slot over all layers.

    Args:
        predicts: include the multi-token prediction layer, if there is one.
    """
    pages = cache_pages(config)
    if predicts and config.prediction_layer is not None:
        pages += prediction_pages(config)
    return sum(_slot_bytes(page, _KV_BYTES[kv_dtype]) for page in pages)


def plan(
    config: ModelConfig,
    precision: Precision,
    context: int | None = None,
    kv_dtype: KVDtype = "bf16",
    kv_tokens: int | None = None,
    available_bytes: int | None = None,
    *,
    batch_size: int | None = None,
    predicts: bool = True,
    joins: bool = False,
) -> MemoryPlan:
    """Decides the context and the size of the cache, and checks that everything fits.

    Args:
        context: tokens a sequence may hold; None: the model's limit, up to 8192, or the cache if that is smaller.
        kv_tokens: tokens of the cache; None: one context. Unless `context` is given, that is at most 256 MB or 4096
            tokens, whichever is more.
        available_bytes: memory to plan for; None: what this machine and its cgroup have left.
        batch_size: sequences that one step computes together; None: 64, halved until the plan fits.
        predicts: whether a multi-token prediction layer runs, if there is one. Its weights count in any case.
        joins: whether the model joins others in a server; see `server_bytes`.

    Raises:
        InsufficientMemory: the plan does not fit; the message has the numbers, the fix the flags that would fit.
        InvalidRequest: the model or the cache cannot hold the context, or pages of this type.
    """
    if config.compression is not None and kv_dtype == "int8":
        raise InvalidRequest.of("kv_int8_entries", param="kv_dtype", architecture=config.architecture)
    if available_bytes is None:
        available_bytes = available_memory_bytes()
    batches = _BATCHES if batch_size is None else (batch_size,)
    own = server_bytes(config, joins=joins)
    tried = [
        replace(made, server_bytes=own)
        for batch in batches
        for made in [
            _sized(config, precision, context, kv_dtype, kv_tokens, available_bytes, predicts, batch)
        ]
    ]
    made = next((one for one in tried if one.total_bytes <= available_bytes), None)
    if made is None:
        raise _does_not_fit(tried[-1], config, context, kv_tokens, predicts)
    return made


def _sized(
    config: ModelConfig,
    precision: Precision,
    context: int | None,
    kv_dtype: KVDtype,
    kv_tokens: int | None,
    available_bytes: int,
    predicts: bool,
    batch_size: int,
) -> MemoryPlan:
    limit = config.max_position_embeddings
    if context is not None and not 1 <= context <= limit:
        raise InvalidRequest.of("context_too_long_for_model", tokens=context, limit=limit, param="context")
    token_bytes = kv_token_bytes(config, kv_dtype, predicts=predicts)
    if kv_tokens is None:
        pool_tokens = context or min(limit, DEFAULT_CONTEXT)
        if context is None:
            pool_tokens = min(pool_tokens, max(SMALL_POOL_BYTES // token_bytes, SMALL_CONTEXT))
    else:
        pool_tokens = kv_tokens
    pool_tokens = -(-pool_tokens // BLOCK_TOKENS) * BLOCK_TOKENS
    if context is None:
        context = min(limit, DEFAULT_CONTEXT, pool_tokens)
    elif context > pool_tokens:
        raise InvalidRequest.of("context_over_cache", context=context, cache=pool_tokens, param="context")
    return MemoryPlan(
        precision=precision,
        kv_dtype=kv_dtype,
        context=context,
        kv_cache_tokens=pool_tokens,
        weights_bytes=weights_nbytes(config, precision),
        kv_cache_bytes=pool_tokens * token_bytes
        + recent_bytes(config, kv_dtype, batch_size, pool_tokens // BLOCK_TOKENS, predicts=predicts),
        workspace_bytes=_workspace_bytes(config, precision, context, predicts, batch_size),
        server_bytes=0,
        available_bytes=available_bytes,
        batch_size=batch_size,
    )


def _workspace_bytes(
    config: ModelConfig, precision: Precision, context: int, predicts: bool, batch_size: int
) -> int:
    """Returns the bytes of the largest step's workspace, logits and rotary tables, and of the engine's process itself.

    For each row the native step keeps the residual, q k v, the attention's output, the activated MLP (or chosen experts),
    and one quantised input with a scale and a sum per group. It allocates a quarter more than the first step needs.
    """
    limits = Limits()
    rows = batch_size + limits.prefill_tokens
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    shared = config.num_shared_experts * config.moe_intermediate_size
    routed = config.num_experts_per_tok * config.moe_intermediate_size
    inner = max(config.intermediate_size, shared) if config.num_experts else config.intermediate_size
    floats = config.hidden_size + (2 * heads + 2 * kv_heads) * dim + inner
    widest = max(config.hidden_size, heads * dim, inner)
    if config.num_experts:  # each chosen expert's input, activation and output
        floats += routed + (1 + config.num_experts_per_tok) * config.hidden_size + 4 * config.num_experts
        widest += routed + (1 + config.num_experts_per_tok) * config.hidden_size
    fixed = 0
    if config.is_latent:
        # Compressed and absorbed queries, and the expanded keys and values of a piece of 256 tokens.
        floats += config.q_lora_rank + 2 * heads * config.kv_lora_rank + config.kv_lora_rank
        fixed = 256 * heads * (dim + config.v_head_dim) * 4
    if config.compression is not None and config.hyper is not None:
        one, hidden = config.compression, config.hidden_size
        # Streams and their weights; what the input gives; the indexer's queries; what heads give, twice; scores of entries.
        floats += (
            config.hyper.streams * hidden + 80 + config.q_lora_rank + 5 * dim + 4 * config.index_head_dim
        )
        floats += config.index_n_heads * (config.index_head_dim + 1) + one.o_groups * one.o_lora_rank
        floats += heads * dim // 2 + context // one.sparse_rate + config.index_topk
    row_bytes = 4 * floats + widest * (4 if precision in FLOATS else 2)
    logits = (batch_size + limits.logits_rows) * config.vocab_size
    if predicts and config.prediction_layer is not None:
        # The layer needs its own step, the states of the model's rows, and the rows that sequences keep for it.
        kept = rows + batch_size * PENDING_ROWS + 2 * PASS_ROWS
        streams = 1 if config.hyper is None else config.hyper.streams
        joined = PASS_ROWS * streams * config.hidden_size * (4 if precision in FLOATS else 2)
        fixed = (
            2 * fixed + (PASS_ROWS * row_bytes + joined) * 5 // 4 + 4 * kept * streams * config.hidden_size
        )
    own = engine_process_bytes(config)
    return rows * row_bytes * 5 // 4 + fixed + 4 * (logits + context * dim) + own


def _does_not_fit(
    made: MemoryPlan, config: ModelConfig, context: int | None, kv_tokens: int | None, predicts: bool
) -> InsufficientMemory:
    """Returns the error for a plan that needs more memory than there is. It blames the flag that asked for too much."""
    numbers = {
        "need": _size(made.total_bytes),
        "weights": _size(made.weights_bytes),
        "available": _size(made.available_bytes),
    }
    left = made.available_bytes - made.weights_bytes - made.workspace_bytes - made.server_bytes
    fits = left // kv_token_bytes(config, made.kv_dtype, predicts=predicts) // BLOCK_TOKENS * BLOCK_TOKENS
    if kv_tokens is not None and context is None and fits >= SMALL_CONTEXT:
        cache = _size(made.kv_cache_bytes)
        return InsufficientMemory.of(
            "cache_too_large", tokens=made.kv_cache_tokens, cache=cache, fits=fits, **numbers
        )
    numbers |= {
        "cache": _size(made.kv_cache_bytes),
        "workspace": _size(made.workspace_bytes + made.server_bytes),
    }
    options = _options(made, config, context, kv_tokens, predicts)
    if not options:
        return InsufficientMemory.of("memory_hopeless", **numbers)
    return InsufficientMemory.of(
        "memory_short", options=" or ".join(options), options_zh=" 或 ".join(options), **numbers
    )


def _options(
    made: MemoryPlan, config: ModelConfig, context: int | None, kv_tokens: int | None, predicts: bool
) -> list[str]:
    """Returns the flags that would make the plan fit: a smaller precision, a smaller context, or both."""

    def fits(precision: Precision, tokens: int | None) -> bool:
        smaller = _sized(
            config,
            precision,
            context if tokens is None else tokens,
            made.kv_dtype,
            kv_tokens if tokens is None else tokens,
            made.available_bytes,
            predicts,
            made.batch_size,
        )
        return smaller.total_bytes + made.server_bytes <= made.available_bytes

    precisions = _PRECISIONS[_PRECISIONS.index(made.precision) + 1 :]
    contexts = [tokens for tokens in (32768, 16384, 8192, 4096, 2048, 1024) if tokens < made.kv_cache_tokens]
    flag = "--context {0}" if kv_tokens is None else "--context {0} --kv-tokens {0}"
    options = [f"--precision {p}" for p in precisions if fits(p, None)][:1]
    options += [flag.format(t) for t in contexts if fits(made.precision, t)][:1]
    if not options:
        options = [f"--precision {p} {flag.format(t)}" for t in contexts for p in precisions if fits(p, t)][
            :1
        ]
    return options


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
