"""The peak memory of a training run, from the sizes of the model and of a piece of a step, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from deepwell.engine.machine import available_memory_bytes
from deepwell.errors import InsufficientMemory
from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.layout import expected_tensors
from deepwell.tuning.train.config import TuneConfig

__all__ = ["TrainingMemory", "choose_micro_tokens", "parameter_count", "plan_memory"]

RUNTIME_BYTES: Final = 450 << 20  # Python, torch, transformers and peft without a model
PREFERRED_MICRO_TOKENS: Final = 1024  # longer rows are no faster on a processor, and take more memory
MARGIN: Final = 1.1  # the allocator's fragments


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Planned bytes by what they hold; the peak is their sum.

    Attributes:
        weights: frozen and trained weights.
        optimizer: gradients and AdamW's two moments of the trained ones.
        activations: what the backward pass needs of one piece of a step, logits included.
        runtime: the libraries.
    """

    weights: int
    optimizer: int
    activations: int
    runtime: int

    @property
    def peak_bytes(self) -> int:
        """The sum."""
        return self.weights + self.optimizer + self.activations + self.runtime


def parameter_count(config: ModelConfig) -> int:
    """Returns the number of values of the model that training loads: all but prediction layers."""
    behind = f"model.layers.{config.num_hidden_layers}."
    return sum(math.prod(shape) for name, shape in expected_tensors(config) if not name.startswith(behind))


def plan_memory(
    model: ModelConfig,
    config: TuneConfig,
    trainable: int,
    micro_tokens: int,
    weight_bytes: int,
    labelled: int,
) -> TrainingMemory:
    """Returns the plan.

    Args:
        trainable: number of trained values.
        micro_tokens: tokens that are computed at a time.
        weight_bytes: bytes of a frozen value.
        labelled: most tokens of one piece whose logits are computed.
    """
    total = parameter_count(model)
    full = config.method == "full"
    weights = total * 4 if full else total * weight_bytes + trainable * 4
    value_bytes = 4 if config.train.precision == "fp32" or (weight_bytes == 4 and full) else weight_bytes
    layer = _layer_values(model, full=full)
    layers = model.num_hidden_layers
    hidden = model.hidden_size
    if config.train.checkpointing:  # the inputs of every layer, and the inside of one
        held = micro_tokens * (layers * hidden + layer)
    else:
        held = micro_tokens * layers * layer
    mask = micro_tokens * micro_tokens
    logits = labelled * model.vocab_size * 4 * 3  # in float32: logits, their gradient, and the softmax
    activations = round((held * value_bytes + mask * value_bytes + logits) * MARGIN)
    return TrainingMemory(weights, trainable * 12, activations, RUNTIME_BYTES)


def _layer_values(model: ModelConfig, *, full: bool) -> int:
    """Returns the values of a layer that the backward pass needs of each token."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    keys = heads * model.head_dim  # keys and values are repeated for the queries that share them
    values = heads * (model.v_head_dim or model.head_dim)
    if model.num_experts:
        inner = (model.num_experts_per_tok + model.num_shared_experts) * model.moe_intermediate_size
    else:
        inner = model.intermediate_size
    norms = 2 * 3 * hidden  # inputs in float32, normalised values
    attention = 3 * keys + 2 * values
    mlp = 3 * inner
    adapters = 2 * hidden
    trained = 3 * hidden + inner if full else 0  # inputs of every matrix that has a gradient
    return norms + attention + mlp + adapters + trained + model.kv_lora_rank + model.q_lora_rank


def choose_micro_tokens(
    model: ModelConfig,
    config: TuneConfig,
    trainable: int,
    weight_bytes: int,
    longest: int,
    labelled_share: float,
    available_bytes: int | None = None,
) -> tuple[int, TrainingMemory]:
    """Returns the tokens to compute at a time, and the plan with them.

    Raises:
        InsufficientMemory: even the longest example does not fit; the fix names the settings that would.
    """
    available = available_memory_bytes() if available_bytes is None else available_bytes

    def plan(tokens: int, using: TuneConfig = config) -> TrainingMemory:
        return plan_memory(model, using, trainable, tokens, weight_bytes, round(tokens * labelled_share) + 1)

    wanted = config.train.micro_tokens
    if wanted == "auto":
        wanted = max(longest, min(_batch_tokens(config), PREFERRED_MICRO_TOKENS))
        while wanted > longest and plan(wanted).peak_bytes > available:
            wanted = max(longest, wanted // 2)
    tokens = max(wanted, longest)
    planned = plan(tokens)
    if planned.peak_bytes > available:
        fix, fix_zh = _fix(config, plan, longest, available)
        need, have = (f"{size / 1e9:.1f} GB" for size in (planned.peak_bytes, available))
        raise InsufficientMemory.of("tune_no_memory", need=need, have=have, fix=fix, fix_zh=fix_zh)
    return tokens, planned


def _batch_tokens(config: TuneConfig) -> int:
    given = config.train.batch_tokens
    return PREFERRED_MICRO_TOKENS if isinstance(given, str) else given


def _fix(
    config: TuneConfig, plan: Callable[..., TrainingMemory], longest: int, available: int
) -> tuple[str, str]:
    """Returns the first setting, of those that cost least, with which the run would fit, in English and Chinese."""
    saving = config.model_copy(update={"train": config.train.model_copy(update={"checkpointing": True})})
    if config.train.micro_tokens != "auto" and plan(longest).peak_bytes <= available:
        return "set train.micro_tokens to auto", "请将 train.micro_tokens 设为 auto"
    if not config.train.checkpointing and plan(longest, saving).peak_bytes <= available:
        return "set train.checkpointing to true", "请将 train.checkpointing 设为 true"
    shorter = longest
    while shorter > 64:
        shorter //= 2
        if plan(shorter, saving).peak_bytes <= available:
            also = not config.train.checkpointing
            english = f"set train.max_tokens to {shorter}{' and train.checkpointing to true' if also else ''}"
            chinese = f"请将 train.max_tokens 设为 {shorter}{'，并将 train.checkpointing 设为 true' if also else ''}"
            return english, chinese
    if config.method == "full":
        return "set method to lora", "请将 method 设为 lora"
    return "choose a smaller model, or free memory", "请换用更小的模型，或释放内存"
