"""The hyperparameters of a model, read from `config.json` or GGUF metadata into one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ModelConfig", "RopeScaling"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Context extension of rotary embeddings, with the names of transformers' ``rope_scaling``."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What an architecture needs to know; names follow transformers' ``config.json``."""

    architecture: Literal["llama", "qwen2", "qwen3", "bert"]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # bias on q, k and v (always, for Qwen2)
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    # Encoders alone:
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 0  # kinds of segment; a text that stands alone is of the first
    pooling: Literal["mean", "cls"] = "mean"  # of the last hidden states, into one vector

    @property
    def is_encoder(self) -> bool:
        """Whether it embeds text and cannot continue it."""
        return self.architecture == "bert"

    @property
    def qk_norm(self) -> bool:
        """Whether each query and key head passes an RMSNorm before it is rotated."""
        return self.architecture == "qwen3"
