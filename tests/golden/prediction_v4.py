"""Write the golden file of V4's multi-token prediction layer, which transformers does not have.

Run by `make golden`; needs the `[tune]` extra. The layer is that of DeepSeek's inference code, composed of transformers' own
decoder layer, a sliding one with a router:

    z = h_proj RMSNorm(streams) + e_proj RMSNorm(Emb(next token)),  logits = head(RMSNorm(hc_head(layer(z))))

with the main model's streams before its own hc_head, and a norm, an hc_head and hyper-connections of the layer's own. Further
tokens are drafted from the layer's own streams.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import torch
from tests.golden import deepseek
from torch import nn
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RMSNorm

NAME = "deepseek-v4-prediction"
_KINDS = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]


class Prediction(nn.Module):
    """The layer under the names of DeepSeek's files, but for `block`: a model of one layer that lends its parts."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.enorm, self.hnorm = DeepseekV4RMSNorm(hidden, eps), DeepseekV4RMSNorm(hidden, eps)
        self.e_proj, self.h_proj = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        one = copy.deepcopy(config)
        one.num_hidden_layers, one.layer_types, one.mlp_layer_types = 1, _KINDS[:1], ["moe"]
        self.block = DeepseekV4ForCausalLM(one)


def with_prediction(model: Any) -> Any:
    """The model with a prediction layer beside it, whose weights are to be chosen."""
    model.mtp = nn.ModuleList([Prediction(model.config)]).eval().to(torch.float32)
    return model


def released(model: Any) -> dict[str, torch.Tensor]:
    """The weights of the model and its layer by the names of DeepSeek's files."""
    (layer,) = model.mtp
    del model.mtp
    tensors = deepseek.released(model)
    for key, tensor in deepseek.released(layer.block).items():
        if key not in ("embed.weight", "head.weight"):
            tensors[f"mtp.0.{key.removeprefix('layers.0.')}"] = tensor
    for key in ("enorm", "hnorm", "e_proj", "h_proj"):
        tensors[f"mtp.0.{key}.weight"] = getattr(layer, key).weight.detach()
    model.mtp = nn.ModuleList([layer])
    return tensors


def random_model(seed: int = 0) -> Any:
    """A tiny V4 of every kind of layer with a prediction layer; the model itself does not run it."""
    kinds = {"num_hidden_layers": 3, "layer_types": _KINDS, "mlp_layer_types": ["hash_moe", "moe", "moe"]}
    deepseek.TINY[NAME] = lambda: with_prediction(
        DeepseekV4ForCausalLM(DeepseekV4Config(**deepseek._COMPRESSED | kinds))
    )
    try:
        return deepseek.random_model(NAME, seed)
    finally:
        del deepseek.TINY[NAME]


def states_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The streams before the main model's hc_head, [1, tokens, streams, hidden]."""
    seen: list[torch.Tensor] = []
    hook = model.model.hc_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.model(tokens, use_cache=False)
    hook.remove()
    return seen[0]


def predict(model: Any, tokens: torch.Tensor, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and streams of the prediction layer; `tokens[0, i]` follows the token whose state is `states[0, i]`."""
    layer, base = model.mtp[0], model.model
    block = layer.block.model
    with torch.no_grad():
        embedded = base.embed_tokens(tokens)
        x = layer.h_proj(layer.hnorm(states)) + layer.e_proj(layer.enorm(embedded)).unsqueeze(2)
        positions = torch.arange(tokens.shape[1])[None]
        mask = create_sliding_window_causal_mask(
            config=block.config,
            inputs_embeds=embedded,
            attention_mask=None,
            cache=None,
            position_ids=positions,
        )
        kinds = ("main", "compress")
        rotary = {kind: block.rotary_emb(embedded, position_ids=positions, layer_type=kind) for kind in kinds}
        after = block.layers[0](
            x,
            position_embeddings=rotary,
            position_ids=positions,
            attention_mask=mask,
            input_ids=tokens,
            cache=None,
        )
        return model.lm_head(block.norm(block.hc_head(after)))[0], after


def main() -> None:
    model = random_model()
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "num_nextn_predict_layers": 1}
    arrays: dict[str, Any] = {}
    for key, tensor in released(model).items():
        kind = torch.float16 if tensor.is_floating_point() else torch.int64
        arrays[f"weight:{key}"] = tensor.to(kind).numpy()
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
        states=states[0].flatten(1).numpy(),
        logits=logits.numpy(),
        first=np.array(int(first)),
        second_logits=second[-1].numpy(),
        **arrays,
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
