"""Write the golden file of V3's multi-token prediction layer, which transformers does not have.

Run by `make golden`; needs the `[tune]` extra. The layer is section 2.2 of arXiv:2412.19437 composed of transformers' own
decoder layer: h' = M [RMSNorm(Emb(t_{i+1})); RMSNorm(h_i)], in the order in which released checkpoints store M's columns,
h_i being what the main model's head reads. A second token is drafted from the layer's own state, read by its head.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from tests.golden import deepseek
from torch import nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm

NAME = "deepseek-v3-prediction"


class SharedHead(nn.Module):
    """The norm before the shared head; released checkpoints give it this place."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.norm = DeepseekV3RMSNorm(hidden, eps)


class Prediction(DeepseekV3DecoderLayer):
    """The layer behind the last one, under the names of released checkpoints."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__(config, index)
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = DeepseekV3RMSNorm(hidden, eps), DeepseekV3RMSNorm(hidden, eps)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.shared_head = SharedHead(hidden, eps)


def random_model(seed: int = 0) -> Any:
    """The tiny V3 with a prediction layer behind its layers; the model itself does not run it."""
    model = deepseek.random_model("deepseek-v3", seed)
    config = model.config
    layer = Prediction(config, config.num_hidden_layers).eval().to(torch.float32)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for key, tensor in layer.state_dict().items():
            values = torch.randint(-31, 32, tensor.shape) / 128
            tensor.copy_(1 + values if "norm" in key and key.endswith("weight") else values)
    model.model.layers.append(layer)
    config.num_nextn_predict_layers = 1
    return model


def states_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What the head reads, [1, tokens, hidden]."""
    with torch.no_grad():
        return model.model(tokens, use_cache=False).last_hidden_state


def predict(model: Any, tokens: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and states of the prediction layer; `tokens[0, i]` follows the token whose state is `states[0, i]`."""
    layer, base = model.model.layers[-1], model.model
    with torch.no_grad():
        joined = torch.cat([layer.enorm(base.embed_tokens(tokens)), layer.hnorm(states)], dim=-1)
        x = layer.eh_proj(joined)
        positions = torch.arange(x.shape[1])[None]
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)[None, None]
        rotary = base.rotary_emb(x, positions)
        x = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        after = layer.shared_head.norm(x)
        return model.lm_head(after)[0], after


def main() -> None:
    model = random_model()
    arrays = deepseek.to_fp8(model)
    block = [deepseek.FP8_BLOCK, deepseek.FP8_BLOCK]
    config = model.config.to_dict() | {
        "architectures": [type(model).__name__],
        "quantization_config": {"quant_method": "fp8", "weight_block_size": block},
    }
    for key, tensor in deepseek.released(model).items():
        if f"fp8:{key}" not in arrays:
            arrays[f"weight:{key}"] = tensor.to(torch.float16).numpy()
    tokens = deepseek.golden_tokens(1)
    states = states_of(model, tokens)
    logits, after = predict(model, tokens[:, 1:], states[:, :-1])
    # The second draft behind every place would cost a pass each; behind the last one it is the same layer once more.
    first = logits[-1].argmax()
    longer = torch.cat([tokens[:, 1:], first[None, None]], dim=1)
    second, _ = predict(model, longer, torch.cat([states[:, :-1], after[:, -1:]], dim=1))
    path = deepseek.HERE / f"{NAME}.npz"
    np.savez_compressed(
        path,
        config=np.array(json.dumps(config, default=str)),
        tokens=tokens[0].numpy().astype(np.int32),
        states=states[0].numpy(),
        logits=logits.numpy(),
        first=np.array(int(first)),
        second_logits=second[-1].numpy(),
        **arrays,
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
