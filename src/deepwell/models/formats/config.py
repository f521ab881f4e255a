"""The hyperparameters of a model, read from `config.json` or GGUF metadata into one frozen dataclass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Architecture",
    "AttentionKind",
    "Block",
    "Compression",
    "HyperConnections",
    "ModelConfig",
    "RopeScaling",
    "TopkMethod",
]

Architecture = Literal[
    "llama",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v4",
    "bert",
    "xlm-roberta",
]
TopkMethod = Literal["greedy", "group_limited_greedy", "noaux_tc"]
AttentionKind = Literal["sliding", "sparse", "heavy"]
"""DeepSeek-V4: a window alone, or entries beside it, the best ones of few tokens each or all of many."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Context extension of rotary embeddings, with the names of transformers' ``rope_scaling``."""

    kind: Literal["linear", "llama3", "yarn", "longrope"]
    factor: float
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn; None means 0.1 ln(factor) + 1
    # Yarn with latent attention: scores are multiplied by (0.1 mscale ln(factor) + 1)^2
    mscale_all_dim: float = 0.0
    factors: tuple[float, ...] = ()  # longrope: divisor of each frequency, [rotary_dim / 2], at every length


@dataclass(frozen=True, slots=True)
class Block:
    """Parts of one layer of a model whose layers differ (Nemotron-NAS, arXiv:2411.19146)."""

    attention: bool
    intermediate_size: int  # 0: no MLP


@dataclass(frozen=True, slots=True)
class Compression:
    """DeepSeek-V4's attention: a window of single tokens, and entries that stand for several tokens each."""

    kinds: tuple[AttentionKind, ...]  # by layer
    window: int  # last tokens, the query's own counted
    sparse_rate: int  # tokens of an entry
    heavy_rate: int
    rope_theta: float  # of layers with entries; others have the model's
    rope_scaling: RopeScaling | None
    o_groups: int  # groups of heads, each with its own first half of the output projection
    o_lora_rank: int  # of each

    def kind(self, layer: int) -> AttentionKind:
        """Returns the attention of a layer. The prediction layer behind the last one has a window alone."""
        return self.kinds[layer] if layer < len(self.kinds) else "sliding"


@dataclass(frozen=True, slots=True)
class HyperConnections:
    """Several residual streams (manifold-constrained hyper-connections); see `specs.HyperSpec`."""

    streams: int
    rounds: int
    eps: float


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Hyperparameters of a model; names follow transformers' ``config.json``."""

    architecture: Architecture
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
    # Latent attention, where head_dim is qk_nope_head_dim + qk_rope_head_dim:
    q_lora_rank: int = 0  # 0: queries are not compressed
    kv_lora_rank: int = 0  # 0: no latent attention
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    rope_interleave: bool = True  # the source pairs rotary dimensions 2i and 2i + 1
    # Lightning indexer of sparse attention (V3.2):
    index_n_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0  # 0: attention is dense
    # Mixtures of experts:
    num_experts: int = 0  # 0: every layer is dense
    num_shared_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    first_k_dense_replace: int = 0  # number of leading layers that are dense
    decoder_sparse_step: int = 1  # layer i is sparse if i + 1 is a multiple of this
    mlp_only_layers: tuple[int, ...] = ()  # further dense layers
    n_group: int = 1  # number of expert groups; experts are chosen from the best `topk_group` of them
    topk_group: int = 1
    scoring_func: Literal["softmax", "sigmoid", "sqrtsoftplus"] = "softmax"
    topk_method: TopkMethod = "greedy"
    norm_topk_prob: bool = False  # the weights of the chosen experts are scaled to a sum of 1
    routed_scaling_factor: float = 1.0
    num_nextn_predict_layers: int = 0  # multi-token prediction layers after the last layer
    hash_layers: tuple[int, ...] = ()  # sparse layers where the token chooses its experts
    swiglu_limit: float = 0.0  # of gate and up of all experts; 0: none
    # DeepSeek-V4, where qk_rope_head_dim is a part of head_dim:
    compression: Compression | None = None
    hyper: HyperConnections | None = None
    # Llama alone, by layer; empty: every layer has attention and an MLP of `intermediate_size`, else that is the widest.
    blocks: tuple[Block, ...] = ()
    # Encoders only:
    layer_norm_eps: float = 1e-12
    type_vocab_size: int = 0  # number of segment types; a single text has the first
    pooling: Literal["mean", "cls"] = "mean"  # how the last hidden states become one vector

    @property
    def is_encoder(self) -> bool:
        """True if the model embeds text and cannot generate it."""
        return self.architecture in ("bert", "xlm-roberta")

    @property
    def position_offset(self) -> int:
        """Row of the position table that the first token has. XLM-RoBERTa's positions begin behind its padding token's id."""
        return (self.pad_token_id or 0) + 1 if self.architecture == "xlm-roberta" else 0

    @property
    def qk_norm(self) -> bool:
        """True if each query and key head passes through an RMSNorm before it is rotated."""
        return self.architecture in ("qwen3", "qwen3_moe")

    @property
    def is_latent(self) -> bool:
        """True if attention caches a latent in place of keys and values."""
        return self.kv_lora_rank > 0

    @property
    def has_correction_bias(self) -> bool:
        """True if a bias corrects the scores that choose experts (auxiliary-loss-free balancing, V3)."""
        return self.topk_method == "noaux_tc"

    @property
    def sparse_layers(self) -> frozenset[int]:
        """Indices of the layers whose MLP is a mixture of experts."""
        if not self.num_experts:
            return frozenset()
        layers = range(self.first_k_dense_replace, self.num_hidden_layers)
        return frozenset(
            i for i in layers if (i + 1) % self.decoder_sparse_step == 0 and i not in self.mlp_only_layers
        )

    @property
    def prediction_layer(self) -> int | None:
        """Index of the layer that predicts the token after the next, or None. It follows the last layer.

        If a model has several, only the first is run, and its own output is fed back to it.
        """
        return self.num_hidden_layers if self.num_nextn_predict_layers else None

    def has_experts(self, layer: int) -> bool:
        """Returns whether the MLP of a layer is a mixture of experts. The layer may be the prediction layer."""
        return layer in self.sparse_layers or (bool(self.num_experts) and layer == self.prediction_layer)

    def has_attention(self, layer: int) -> bool:
        """Returns whether a layer has attention."""
        return not self.blocks or self.blocks[layer].attention

    def mlp_size(self, layer: int) -> int:
        """Returns the width of a layer's dense MLP, 0 if it has none."""
        return self.blocks[layer].intermediate_size if self.blocks else self.intermediate_size

    @property
    def attention_layers(self) -> int:
        """Number of layers that have attention, and so a share of the cache."""
        return sum(self.has_attention(layer) for layer in range(self.num_hidden_layers))

    @property
    def rotary_dim(self) -> int:
        """Number of dimensions of a head that are rotated."""
        return self.qk_rope_head_dim if self.is_latent or self.compression else self.head_dim

    @property
    def attention_scale(self) -> float:
        """Factor of the attention scores: 1 / sqrt(head_dim), times yarn's mscale squared for latent attention."""
        scale = self.head_dim**-0.5
        scaling = self.rope_scaling
        if self.is_latent and scaling is not None and scaling.mscale_all_dim and scaling.factor > 1:
            scale *= (0.1 * scaling.mscale_all_dim * math.log(scaling.factor) + 1.0) ** 2
        return scale
