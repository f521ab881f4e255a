"""`open_engine`: from a model file to a running engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from deepwell.engine.architectures import build_encoder, build_model, build_prediction, tensor_plan
from deepwell.engine.backends import native
from deepwell.engine.backends.backend import Backend, KVCache
from deepwell.engine.core.loop import InProcessEngine, PagedModel
from deepwell.engine.core.row_cost import expected_row_cost
from deepwell.engine.core.step import Limits
from deepwell.engine.encoder.loop import EncoderEngine
from deepwell.engine.encoder.plan import plan_encoder
from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.machine import usable_cpus
from deepwell.engine.plan import MemoryPlan, plan
from deepwell.engine.protocol import Capabilities
from deepwell.engine.weights.adapters import AdapterLoader, linears_of
from deepwell.engine.weights.load import Progress, load_weights, resolve_precision
from deepwell.models.checkpoint import Checkpoint, open_checkpoint
from deepwell.models.config import ModelConfig
from deepwell.models.tokenizer import Tokenizer

__all__ = ["new_cache", "open_engine", "plan_engine"]

PREDICT_DEPTH = 3  # drafts of a prediction layer that was trained for the first of them


def plan_engine(
    checkpoint: Checkpoint,
    *,
    precision: Precision | Literal["auto"] = "auto",
    context: int | None = None,
    kv_dtype: KVDtype = "bf16",
    kv_tokens: int | None = None,
    speculation: Literal["auto", "off"] = "auto",
) -> MemoryPlan:
    """The memory plan that `open_engine` would follow, to print before loading.

    Raises:
        InsufficientMemory: it does not fit; the fix names the flags that would.
    """
    resolved, _ = resolve_precision(precision, checkpoint)
    if checkpoint.config.is_encoder:
        return plan_encoder(checkpoint.config, resolved, context, kv_dtype)
    return plan(checkpoint.config, resolved, context, kv_dtype, kv_tokens, predicts=speculation != "off")


def new_cache(
    runner: Backend, config: ModelConfig, num_blocks: int, dtype: KVDtype, *, num_layers: int | None = None
) -> KVCache:
    """An empty paged cache of the kind that the model's attention reads.

    Args:
        num_layers: None: all of the model's, a prediction layer excepted.
    """
    if config.is_latent:
        return runner.latent_cache(
            config.num_hidden_layers if num_layers is None else num_layers,
            num_blocks,
            config.kv_lora_rank,
            config.qk_rope_head_dim,
            dtype,
            config.index_head_dim,
        )
    return runner.kv_cache(
        config.num_hidden_layers, num_blocks, config.num_key_value_heads, config.head_dim, dtype
    )


def open_engine(
    source: Path | str | Checkpoint,
    *,
    precision: Precision | Literal["auto"] = "auto",
    context: int | None = None,
    kv_dtype: KVDtype = "bf16",
    kv_tokens: int | None = None,
    threads: int | None = None,
    backend: Literal["auto", "native", "reference"] = "auto",
    cache_dir: Path | None = None,
    limits: Limits | None = None,
    speculation: Literal["auto", "off"] = "auto",
    name: str = "",
    quiet: bool = False,
    progress: Progress | None = None,
) -> InProcessEngine | EncoderEngine:
    """Load a model and start its engine: an `EncoderEngine` for an encoder, which ignores the options of a cache.

    Args:
        source: a GGUF file, a directory of safetensors, or an open checkpoint.
        precision: "auto" runs 4-bit sources as int4 and everything else as int8.
        context: tokens a sequence may hold; see `plan`.
        kv_tokens: tokens of the KV cache; see `plan`.
        threads: of the native backend; None: the processors that affinity and cgroup allow.
        cache_dir: where packed weights are kept for the next start; None: nowhere.
        speculation: "auto" drafts tokens where that pays; answers are the same with "off", which also leaves a model's
            multi-token prediction layer aside.
        name: what `capabilities().model` says; the file's name if empty.
        quiet: do not print the memory plan (to standard error) before loading.
        progress: called with bytes packed so far and bytes in all.

    Raises:
        InsufficientMemory: it does not fit; the fix names the flags that would.
        InvalidModelFile, UnsupportedModel, MissingDependency: as the loaders and the backend say.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(Path(source))
    config = checkpoint.config
    memory = plan_engine(
        checkpoint,
        precision=precision,
        context=context,
        kv_dtype=kv_dtype,
        kv_tokens=kv_tokens,
        speculation=speculation,
    )
    if not quiet:
        print(*memory.lines(), sep="\n", file=sys.stderr, flush=True)
    runner = native.select_backend(backend)
    compiled = runner.name == "native"
    if compiled:
        native.set_threads(min(threads or usable_cpus(), native.MAX_THREADS))
    weights = load_weights(checkpoint, memory.precision, cache_dir, progress=progress)
    limits = limits or Limits()
    if speculation == "off":
        limits = replace(limits, draft_depth=0)
    path = checkpoint.paths[0]
    capabilities = Capabilities(
        model=name
        or (path.stem if len(checkpoint.paths) == 1 and path.suffix == ".gguf" else path.parent.name),
        architecture=config.architecture,
        precision=memory.precision,
        backend=runner.name,
        isa=native.isa() if compiled else "numpy",
        threads=native.threads() if compiled else 1,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        max_model_len=memory.context,
        kv_cache_tokens=memory.kv_cache_tokens,
        weights_bytes=weights.nbytes,
        kv_cache_bytes=memory.kv_cache_bytes,
        generates=not config.is_encoder,
        weights_hash=weights.fingerprint,
    )
    if config.is_encoder:
        return EncoderEngine(build_encoder(runner, weights, config), capabilities)
    model = build_model(runner, weights, config, memory.context)
    if config.is_latent:
        limits = replace(limits, share_generated=False)
    cache = new_cache(runner, config, memory.num_blocks, kv_dtype)
    capabilities = replace(capabilities, kv_cache_bytes=cache.nbytes)
    prediction = None
    if limits.draft_depth:
        if limits.row_cost is None:
            limits = replace(limits, row_cost=expected_row_cost(config))
        if layer := build_prediction(runner, weights, config, memory.context):
            pages = new_cache(runner, config, memory.num_blocks, kv_dtype, num_layers=1)
            prediction = layer, pages
            capabilities = replace(capabilities, kv_cache_bytes=cache.nbytes + pages.nbytes)
            limits = replace(limits, predict_depth=min(limits.draft_depth, PREDICT_DEPTH))
    return InProcessEngine(
        PagedModel(model, cache, prediction),
        capabilities,
        eos_token_ids=config.eos_token_ids,
        seed=f"{weights.fingerprint} {kv_dtype}".encode(),
        limits=limits,
        loader=AdapterLoader(model, linears_of(tensor_plan(config), checkpoint)),
        grammars=GrammarCompiler(
            lambda: Tokenizer.load(path if path.suffix == ".gguf" else path.parent),
            config.vocab_size,
            config.eos_token_ids,
        ),
    )
