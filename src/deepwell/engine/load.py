"""`open_engine`: from a model file to a running engine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.engine.architectures import build_encoder, build_model, build_prediction, tensor_plan
from deepwell.engine.architectures.deepseek_v4 import cache_pages, prediction_pages
from deepwell.engine.backends import native
from deepwell.engine.backends.backend import Backend, KVCache
from deepwell.engine.backends.specs import CompressedPage
from deepwell.engine.core.loop import InProcessEngine, PagedModel
from deepwell.engine.encoder.loop import EncoderEngine
from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.layouts import KVDtype
from deepwell.engine.limits import Limits
from deepwell.engine.machine import usable_cpus
from deepwell.engine.options import EngineOptions
from deepwell.engine.plan import MemoryPlan, recent_horizon, recent_slots
from deepwell.engine.planning import plan_engine
from deepwell.engine.protocol import Capabilities
from deepwell.engine.recents import RecentSlots
from deepwell.engine.row_cost import expected_row_cost
from deepwell.engine.weights.adapters import AdapterLoader, linears_of
from deepwell.engine.weights.load import Progress, load_weights, weights_fingerprint
from deepwell.engine.weights.packed import Weights
from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell.models.formats.e5 import E5_SUFFIX
from deepwell.process.turns import Turn

if TYPE_CHECKING:
    from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["expected_capabilities", "new_cache", "open_engine", "step_limits"]

PREDICT_DEPTH = 3  # drafts of a prediction layer that was trained for the first of them
# Products of one step and thread: 20 s on a core that makes 20 GMAC/s, a third of what AVX2 does on an idle one.
_STEP_MACS = 4e11
_FEWEST_ROWS = 64  # with which the matrix kernels still reuse what they read


def expected_capabilities(checkpoint: Checkpoint, options: EngineOptions, memory: MemoryPlan) -> Capabilities:
    """Returns the capabilities that the engine would have if it were opened with this plan.

    Raises:
        MissingDependency: `options.isa` names no kernel table of this machine.
    """
    runner = native.select_backend(options.backend, options.isa)
    threads = min(options.threads or usable_cpus(), native.MAX_THREADS) if runner.name == "native" else 1
    found = _capabilities(
        checkpoint,
        options.name,
        memory,
        runner,
        memory.weights_bytes,
        weights_fingerprint(checkpoint, memory.precision),
    )
    return replace(found, threads=threads)


def new_cache(
    runner: Backend, config: ModelConfig, num_blocks: int, dtype: KVDtype, *, num_layers: int | None = None
) -> KVCache:
    """An empty paged cache of the kind that the model's attention reads.

    Args:
        num_layers: None: all of the model's, a prediction layer excepted; 1: those of that layer.
    """
    if config.compression is not None:
        pages = cache_pages(config) if num_layers is None else prediction_pages(config)
        return runner.compressed_cache(pages, num_blocks, dtype)
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
        config.attention_layers, num_blocks, config.num_key_value_heads, config.head_dim, dtype
    )


def open_engine(
    source: Path | str | Checkpoint,
    options: EngineOptions | None = None,
    *,
    quiet: bool = False,
    progress: Progress | None = None,
) -> InProcessEngine | EncoderEngine:
    """Loads a model and starts its engine: an `EncoderEngine` for an encoder.

    Args:
        source: a GGUF file, a directory of safetensors, or an open checkpoint.
        quiet: do not print the memory plan (to standard error) before loading.
        progress: called with bytes packed so far and bytes in all.

    Raises:
        InsufficientMemory: it does not fit; the fix names the flags that would.
        InvalidModelFile, UnsupportedModel, MissingDependency: as the loaders and the backend say.
    """
    options = options or EngineOptions()
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(Path(source))
    config = checkpoint.config
    memory = plan_engine(checkpoint, options, joins=options.turns is not None)
    if not quiet:
        print(*memory.lines(), sep="\n", file=sys.stderr, flush=True)
    runner = native.select_backend(options.backend, options.isa)
    if runner.name == "native":
        native.set_threads(min(options.threads or usable_cpus(), native.MAX_THREADS))
    turn = Turn(options.turns) if options.turns else None
    weights = load_weights(checkpoint, memory.precision, options.cache_dir, progress=progress, turn=turn)
    capabilities = _capabilities(
        checkpoint, options.name, memory, runner, weights.nbytes, weights.fingerprint
    )
    if config.is_encoder:
        return EncoderEngine(build_encoder(runner, weights, config), capabilities, turn=turn)
    paged, limits = _paged(runner, weights, memory, options)
    pages = [paged.cache, *(paged.prediction[1:] if paged.prediction else ())]
    path = checkpoint.paths[0]
    return InProcessEngine(
        paged,
        replace(capabilities, kv_cache_bytes=sum(one.nbytes for one in pages)),
        eos_token_ids=config.eos_token_ids,
        seed=f"{weights.fingerprint} {options.kv_dtype}".encode(),
        limits=limits,
        loader=AdapterLoader(paged.model, linears_of(tensor_plan(config), checkpoint)),
        grammars=GrammarCompiler(
            lambda: _open_tokenizer(path if path.suffix == ".gguf" else path.parent),
            config.vocab_size,
            config.eos_token_ids,
        ),
        turn=turn,
    )


def _open_tokenizer(path: Path) -> Tokenizer:
    """Opens the tokenizer that grammars need, with its imports: most engines never compile one."""
    from deepwell.models.text.hosted import open_tokenizer

    return open_tokenizer(path)


def _capabilities(
    checkpoint: Checkpoint,
    name: str,
    memory: MemoryPlan,
    runner: Backend,
    weights_bytes: int,
    weights_hash: str,
) -> Capabilities:
    config, path = checkpoint.config, checkpoint.paths[0]
    single = len(checkpoint.paths) == 1 and path.suffix in (".gguf", E5_SUFFIX)
    compiled = runner.name == "native"
    return Capabilities(
        model=name or (path.stem if single else path.parent.name),
        architecture=config.architecture,
        precision=memory.precision,
        backend=runner.name,
        isa=native.isa() if compiled else "numpy",
        threads=native.threads() if compiled else 1,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        max_model_len=memory.context,
        kv_cache_tokens=memory.kv_cache_tokens,
        weights_bytes=weights_bytes,
        kv_cache_bytes=memory.kv_cache_bytes,
        lacks=("window",) if config.compression is not None else (),
        generates=not config.is_encoder,
        weights_hash=weights_hash,
    )


def _paged(
    runner: Backend, weights: Weights, memory: MemoryPlan, options: EngineOptions
) -> tuple[PagedModel, Limits]:
    """Composes the model with its pages. Returns it with the limits of its steps."""
    config = weights.config
    limits = options.limits or step_limits(config, native.threads() if runner.name == "native" else 1)
    if options.limits is None:
        limits = replace(limits, max_sequences=memory.batch_size)
    if options.speculation == "off":
        limits = replace(limits, draft_depth=0)
    if config.is_latent:
        limits = replace(limits, share_generated=False)
    model, layer = build_model(runner, weights, config, memory.context), None
    if limits.draft_depth:
        if limits.row_cost is None:
            limits = replace(limits, row_cost=expected_row_cost(config))
        layer = build_prediction(runner, weights, config, memory.context)
    if layer is not None:
        limits = replace(limits, predict_depth=min(limits.draft_depth, PREDICT_DEPTH))
    blocks, dtype = memory.num_blocks, options.kv_dtype
    if config.compression is None:
        cache = new_cache(runner, config, blocks, dtype)
        own = None if layer is None else (layer, new_cache(runner, config, blocks, dtype, num_layers=1))
        return PagedModel(model, cache, own), limits
    slots = recent_slots(config, limits, blocks)
    recents = RecentSlots(blocks, slots, recent_horizon(config, predicts=layer is not None))

    def slotted(pages: list[CompressedPage]) -> KVCache:
        return runner.compressed_cache(pages, blocks, dtype, recents.table, slots)

    # Single tokens of the layer lie in the slots that the model's have.
    own = None if layer is None else (layer, slotted(prediction_pages(config)))
    return PagedModel(model, slotted(cache_pages(config)), own, recents), limits


def step_limits(config: ModelConfig, threads: int) -> Limits:
    """Returns limits with which the longest step takes seconds, even if the model is large and the cores are few.

    A step is not interrupted: other requests wait for its end, and an engine that ends none for `step_timeout_s` is replaced.
    """
    usual = Limits()
    share = config.num_experts_per_tok / config.num_experts if config.num_experts else 1.0
    macs = sum(
        matrix.rows * matrix.cols * (share if ".experts_" in matrix.name else 1.0)
        for matrix in tensor_plan(config).matrices
        if matrix.name not in ("embed", "head")  # few rows of a prompt need logits
    )
    rows = max(_FEWEST_ROWS, int(_STEP_MACS * threads / macs) // _FEWEST_ROWS * _FEWEST_ROWS)
    return replace(
        usual,
        prefill_tokens=min(usual.prefill_tokens, rows),
        mixed_prefill_tokens=min(usual.mixed_prefill_tokens, rows),
    )
