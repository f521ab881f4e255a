"""Write the golden files of DeepSeek and Qwen3-MoE: what transformers computes, in float32, on tiny random models.

Run by `make golden`; needs the `[tune]` extra. Each `NAME.npz` holds a `config.json`, weights by the names of released
checkpoints (float16, or `fp8:` codes with block scales), token ids and logits, and a greedy continuation.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekV4Config,
    DeepseekV4ForCausalLM,
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from deepwell.models.store.layout_compressed import released_name

HERE = Path(__file__).parent
TOKENS, PROMPT, COMPLETION = 40, 24, 64
MIN_MARGIN = 5e-3  # of a greedy token over the next one: the native backend may err by 1e-3
FP8_BLOCK = 32  # 128 in released models; tiny matrices have several blocks, the last ones cut

# No size is a multiple of a panel, a run or a group: the padding counts.
_SMALL: dict[str, Any] = {
    "vocab_size": 150,
    "hidden_size": 72,
    "intermediate_size": 88,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}
_LATENT: dict[str, Any] = _SMALL | {
    "num_key_value_heads": 4,
    "q_lora_rank": 40,
    "kv_lora_rank": 36,
    "qk_nope_head_dim": 20,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
_YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "rope_theta": 10_000.0}

# A window, and entries of 4 tokens, of which 5 are picked, and of 16: all within 40 tokens.
_COMPRESSED: dict[str, Any] = {key: value for key, value in _SMALL.items() if key != "intermediate_size"} | {
    "num_hidden_layers": 4,
    "head_dim": 24,
    "qk_rope_head_dim": 8,
    "q_lora_rank": 40,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "layer_types": [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
        "compressed_sparse_attention",
    ],
    "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
    "sliding_window": 8,
    "swiglu_limit": 1.5,
    "o_groups": 2,
    "o_lora_rank": 20,
    "index_n_heads": 8,
    "index_head_dim": 16,
    "index_topk": 5,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
    },
}

TINY: dict[str, Any] = {
    "deepseek-v2": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(
            **_LATENT,
            topk_method="group_limited_greedy",
            n_group=4,
            topk_group=2,
            routed_scaling_factor=4.0,
            rope_parameters=_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        )
    ),
    "deepseek-v2-lite": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(**_LATENT | {"q_lora_rank": None}, topk_method="greedy", routed_scaling_factor=1.0)
    ),
    "deepseek-v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **_LATENT | {"n_shared_experts": 1},
            n_group=4,
            topk_group=2,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            num_nextn_predict_layers=0,
            rope_parameters=_YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        )
    ),
    "deepseek-v32": lambda: DeepseekV32ForCausalLM(
        DeepseekV32Config(
            **_LATENT | {"n_shared_experts": 1},
            n_group=2,
            topk_group=1,
            routed_scaling_factor=2.5,
            index_topk=12,
            index_head_dim=16,
            index_n_heads=8,
        )
    ),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **_SMALL,
            num_key_value_heads=2,
            head_dim=20,
            num_experts=8,
            norm_topk_prob=True,
            mlp_only_layers=[0],
        )
    ),
    "deepseek-v4": lambda: DeepseekV4ForCausalLM(DeepseekV4Config(**_COMPRESSED)),
}
FP8 = ("deepseek-v3",)


def random_model(name: str, seed: int = 0) -> Any:
    """A tiny model whose weights are multiples of 1/128: exact in float16, and they compress."""
    torch.manual_seed(seed)
    model = TINY[name]().eval().to(torch.float32)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("tid2eid"):
                chosen = [torch.randperm(8)[: tensor.shape[1]] for _ in range(len(tensor))]
                tensor.copy_(torch.stack(chosen))
                continue
            values = torch.randint(-31, 32, tensor.shape) / 128
            tensor.copy_(1 + values if "norm" in key and key.endswith("weight") else values)
    return model


def released(model: Any) -> dict[str, torch.Tensor]:
    """The weights by the names of released checkpoints: an expert is a module of its own."""
    if isinstance(model, DeepseekV4ForCausalLM):
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            saved = load_file(Path(directory) / "model.safetensors")
        return {released_name(key): tensor for key, tensor in saved.items()}
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in model.state_dict().items():
        before, experts, kind = key.partition(".experts.")
        if not experts:
            tensors[key] = tensor
            continue
        for index, expert in enumerate(tensor):
            prefix = f"{before}.experts.{index}"
            if kind == "down_proj":
                tensors[f"{prefix}.down_proj.weight"] = expert
            else:
                tensors[f"{prefix}.gate_proj.weight"], tensors[f"{prefix}.up_proj.weight"] = expert.chunk(2)
    return tensors


def to_fp8(model: Any) -> dict[str, np.ndarray]:
    """Round the matrices of the layers to blocks of float8 in place; their codes and scales."""
    arrays: dict[str, np.ndarray] = {}
    for key, tensor in released(model).items():
        if tensor.ndim != 2 or ".layers." not in key or key.endswith("mlp.gate.weight"):
            continue
        rows, cols = tensor.shape
        scales = torch.empty(-(-rows // FP8_BLOCK), -(-cols // FP8_BLOCK))
        codes = torch.empty(rows, cols, dtype=torch.float8_e4m3fn)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                block = (
                    slice(i * FP8_BLOCK, (i + 1) * FP8_BLOCK),
                    slice(j * FP8_BLOCK, (j + 1) * FP8_BLOCK),
                )
                scales[i, j] = tensor[block].abs().max() / 448
                codes[block] = (tensor[block] / scales[i, j]).to(torch.float8_e4m3fn)
                with torch.no_grad():
                    tensor[block] = codes[block].float() * scales[i, j]  # a view on the model's own
        arrays[f"fp8:{key}"] = codes.view(torch.uint8).numpy()
        arrays[f"weight:{key}_scale_inv"] = scales.numpy()
    return arrays


def greedy(model: Any, prompt: torch.Tensor) -> tuple[list[int], float]:
    """Greedy tokens, end-of-text ignored, and the smallest lead of a chosen token over the second best."""
    tokens, margin = prompt, float("inf")
    with torch.no_grad():
        for _ in range(COMPLETION):
            best = model(tokens, use_cache=False).logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            tokens = torch.cat([tokens, best.indices[None, :1]], dim=1)
    return tokens[0, prompt.shape[1] :].tolist(), margin


def golden_tokens(seed: int) -> torch.Tensor:
    """Random token ids, [1, TOKENS]."""
    return torch.randint(0, _SMALL["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(seed))


def write(name: str) -> None:
    model = random_model(name)
    arrays = to_fp8(model) if name in FP8 else {}
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    if name in FP8:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
    for key, tensor in released(model).items():
        if f"fp8:{key}" not in arrays:
            kind = torch.float16 if tensor.is_floating_point() else torch.int64
            arrays[f"weight:{key}"] = tensor.to(kind).numpy()
    for seed in range(1, 100):
        tokens = golden_tokens(seed)
        completion, margin = greedy(model, tokens[:, :PROMPT])
        if margin > MIN_MARGIN:
            break
    else:
        raise RuntimeError(f"{name}: no prompt whose greedy tokens lead clearly")
    with torch.no_grad():
        logits = model(tokens).logits[0].numpy()
    path = HERE / f"{name}.npz"
    np.savez_compressed(
        path,
        config=np.array(json.dumps(config, default=str)),
        tokens=tokens[0].numpy().astype(np.int32),
        logits=logits,
        prompt=np.array(PROMPT),
        completion=np.array(completion, np.int32),
        **arrays,
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, margin {margin:.4f}, seed {seed}")


def main() -> None:
    for name in TINY:
        write(name)


if __name__ == "__main__":
    main()
