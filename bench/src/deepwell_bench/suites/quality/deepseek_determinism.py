"""The determinism suite of the dense engine on DeepSeek's shapes: tiny random V2, V3, V3.2 and V4, pages of both types."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from deepwell.cli.bench.report import Report
from deepwell.engine.layouts import KVDtype
from deepwell.engine.weights.synth import shape_config, synthesize
from deepwell_bench.suites.quality.determinism import bench_determinism

__all__ = ["TINY", "bench_deepseek_determinism"]

_SMALL: Final[dict[str, Any]] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 20,  # more than the lanes of a tile, and no multiple of them
    "num_key_value_heads": 20,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "q_lora_rank": 96,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "n_group": 4,
    "topk_group": 2,
    "max_position_embeddings": 1024,
}
TINY: Final[dict[str, dict[str, Any]]] = {
    "V2": {**shape_config("deepseek-v2-lite"), **_SMALL, "topk_method": "group_limited_greedy"},
    # Prediction layers draft, random weights that they are.
    "V3": {**shape_config("deepseek-v3-8layers", prediction=True), **_SMALL},
    # A prompt of more than 64 tokens leaves some out.
    "V3.2": {
        **shape_config("deepseek-v3-8layers", prediction=True),
        **_SMALL,
        "architectures": ["DeepseekV32ForCausalLM"],
        "model_type": "deepseek_v32",
        "index_n_heads": 24,
        "index_head_dim": 64,
        "index_topk": 64,
    },
}
TINY_V4: Final[dict[str, Any]] = {
    **shape_config("deepseek-v4-flash", prediction=True),
    "vocab_size": _SMALL["vocab_size"],
    "hidden_size": _SMALL["hidden_size"],
    "moe_intermediate_size": _SMALL["moe_intermediate_size"],
    "max_position_embeddings": _SMALL["max_position_embeddings"],
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "head_dim": 80,
    "qk_rope_head_dim": 32,
    "q_lora_rank": 96,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "o_groups": 2,
    "o_lora_rank": 48,
    "index_n_heads": 24,
    "index_head_dim": 64,
    "index_topk": 16,
    "sliding_window": 48,
    "num_hash_layers": 1,
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
    ],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 32},
    "rope_scaling": None,
}
"""A prompt of more than 64 tokens leaves some of its entries out."""
KV_DTYPES: Final[tuple[KVDtype, ...]] = ("bf16", "int8")


def bench_deepseek_determinism(report: Report, *, requests: int = 100, seed: int = 7) -> dict[str, Any]:
    """Serves every request alone and in company, by each model and type of latents; counts the answers that differ."""
    total: dict[str, Any] = {"models": 0, "requests": 0, "different": 0}
    for name, config in (TINY | {"V4": TINY_V4}).items():
        with TemporaryDirectory(prefix="deepwell-tiny-") as folder:
            directory = Path(folder) / "model"
            synthesize(directory, config, "int8", seed=seed)
            for kv_dtype in KV_DTYPES if name != "V4" else ("bf16", "fp32"):
                value = bench_determinism(
                    report,
                    directory,
                    requests=requests,
                    precisions=("int8",),
                    kv_dtype=kv_dtype,
                    name=f"{name}, {kv_dtype} {'entries' if name == 'V4' else 'latents'}",
                    seed=seed,
                )
                total["models"] += 1
                for figure, count in value.items():
                    if isinstance(count, int):
                        total[figure] = total.get(figure, 0) + count
    return total
