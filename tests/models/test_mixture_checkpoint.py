"""DeepSeek and Qwen3-MoE checkpoints: configurations, GGUF names, stacked experts, absorbed kv_b, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.models import builders
from tests.models.builders import Tensors, random_tensors, write_model_directory

from deepwell.engine.backends.reference_moe import route
from deepwell.errors import DeepwellError, InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell.models.formats.config_fields import Fields
from deepwell.models.formats.config_mixture import gguf_mixture
from deepwell.models.formats.config_reader import config_from_directory
from deepwell.models.formats.gguf import GGUFHeader
from deepwell.models.store.export import export_safetensors

V2 = ModelConfig(
    architecture="deepseek_v2",
    vocab_size=48,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=20,
    max_position_embeddings=256,
    rms_norm_eps=1e-6,
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=2,
    q_lora_rank=32,
    kv_lora_rank=24,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=16,
    num_experts=4,
    num_shared_experts=1,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    first_k_dense_replace=1,
)
V3 = replace(
    V2,
    architecture="deepseek_v3",
    n_group=2,
    topk_group=1,
    scoring_func="sigmoid",
    topk_method="noaux_tc",
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
)
LITE = replace(V2, q_lora_rank=0)
QWEN = ModelConfig(
    architecture="qwen3_moe",
    vocab_size=48,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=256,
    rms_norm_eps=1e-6,
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=2,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    norm_topk_prob=True,
)

_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_tensors(config: ModelConfig, tensors: Tensors, *, absorbed: bool) -> Tensors:
    """What llama.cpp's converter writes: experts stacked, and kv_b whole or, in newer files, apart and absorbed."""
    result: Tensors = {}
    for name, values in tensors.items():
        if name in _TOP:
            result[_TOP[name]] = values
            continue
        _, _, layer, stem = name.split(".", 3)
        block, (module, kind) = f"blk.{layer}.", stem.rsplit(".", 1)
        if kind == "e_score_correction_bias":
            result[f"{block}exp_probs_b.bias"] = values
        elif ".experts." in module:
            part = module.rsplit(".", 1)[1].removesuffix("_proj")
            stacked = f"{block}ffn_{part}_exps.weight"
            result[stacked] = np.concatenate(
                [*([result[stacked]] if stacked in result else []), values[None]]
            )
        elif module == "self_attn.kv_b_proj" and absorbed:
            heads = values.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
            keys, parts = heads[:, : config.qk_nope_head_dim], heads[:, config.qk_nope_head_dim :]
            result[f"{block}attn_k_b.weight"] = np.ascontiguousarray(keys.swapaxes(1, 2))
            result[f"{block}attn_v_b.weight"] = np.ascontiguousarray(parts)
        else:
            result[f"{block}{_NAMES[module]}.{kind}"] = values
    return result


def write_gguf(
    path: Path, config: ModelConfig, tensors: Tensors, *, absorbed: bool = False, **changes: Any
) -> Path:
    arch = "qwen3moe" if config.architecture == "qwen3_moe" else "deepseek2"
    values: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "expert_count": config.num_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": config.moe_intermediate_size,
    }
    if arch == "qwen3moe":
        values |= {
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": config.head_dim,
        }
    else:
        values |= {
            "attention.head_count_kv": 1 if absorbed else config.num_attention_heads,
            "attention.kv_lora_rank": config.kv_lora_rank,
            "rope.dimension_count": config.qk_rope_head_dim,
            "expert_shared_count": config.num_shared_experts,
            "leading_dense_block_count": config.first_k_dense_replace,
            "expert_weights_scale": config.routed_scaling_factor,
            "expert_weights_norm": config.norm_topk_prob,
            "expert_gating_func": 2 if config.scoring_func == "sigmoid" else 1,
        }
        if absorbed:
            values |= {
                "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
                "attention.value_length": config.kv_lora_rank,
                "attention.key_length_mla": config.head_dim,
                "attention.value_length_mla": config.v_head_dim,
            }
        else:
            values |= {"attention.key_length": config.head_dim, "attention.value_length": config.v_head_dim}
        if config.q_lora_rank:
            values["attention.q_lora_rank"] = config.q_lora_rank
        if config.n_group > 1:
            values |= {"expert_group_count": config.n_group, "expert_group_used_count": config.topk_group}
    writer = gguf.GGUFWriter(path, arch)
    for key, value in (values | changes).items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
        }
        if value is not None:
            add[type(value)](f"{arch}.{key}", value)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, tensor in gguf_tensors(config, tensors, absorbed=absorbed).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


CONFIGS = {"v2": V2, "lite": LITE, "v3": V3, "qwen3-moe": QWEN}


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_gguf_gives_configuration_and_weights(name: str, absorbed: bool, tmp_path: Path) -> None:
    config = CONFIGS[name]
    tensors = random_tensors(config)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "model.gguf", config, tensors, absorbed=absorbed))
    assert checkpoint.config == config
    assert set(checkpoint.names) == set(tensors)
    for key, values in tensors.items():
        stored = checkpoint.tensor(key)
        assert np.array_equal(stored.float32(), values), key
        if values.ndim == 2:
            rows = np.array([3, 0, len(values) - 1, 3])
            assert np.array_equal(stored.float32(rows), values[rows]), key
            assert np.array_equal(stored.float32(slice(1, 4)), values[1:4]), key


def config_json(config: ModelConfig, **changes: Any) -> dict[str, Any]:
    """`config.json` as DeepSeek publishes it; a change to None removes a key."""
    names = {"deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
    return {
        "architectures": [names.get(config.architecture, "Qwen3MoeForCausalLM")],
        "q_lora_rank": config.q_lora_rank or None,
        "kv_lora_rank": config.kv_lora_rank,
        "qk_nope_head_dim": config.qk_nope_head_dim,
        "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim,
        "n_routed_experts": config.num_experts,
        "num_experts": config.num_experts,
        "n_shared_experts": config.num_shared_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "moe_intermediate_size": config.moe_intermediate_size,
        "first_k_dense_replace": config.first_k_dense_replace,
        "moe_layer_freq": 1,
        "n_group": config.n_group,
        "topk_group": config.topk_group,
        "scoring_func": config.scoring_func,
        "topk_method": config.topk_method,
        "norm_topk_prob": config.norm_topk_prob,
        "routed_scaling_factor": config.routed_scaling_factor,
        "head_dim": config.head_dim if config.architecture == "qwen3_moe" else None,
    } | changes


@pytest.mark.parametrize("name", CONFIGS)
def test_config_json_gives_the_same(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    path = write_model_directory(tmp_path, config, **config_json(config))
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config


# `rope_scaling` of released models, and what llama.cpp's converter makes of it.
V2_YARN = {"mscale": 0.707, "mscale_all_dim": 0.707}
V3_YARN = {"mscale": 1.0, "mscale_all_dim": 1.0}
YARN_SETTINGS = {
    "v2": ("v2", {"factor": 40, "beta_fast": 32, "beta_slow": 1} | V2_YARN, 0.0707),
    "v2-lite": ("lite", {"factor": 40, "beta_fast": 32, "beta_slow": 1} | V2_YARN, 0.0707),
    "v3": ("v3", {"factor": 40, "beta_fast": 32, "beta_slow": 1} | V3_YARN, 0.1),
    "kimi-k2": ("v3", {"factor": 32, "beta_fast": 1.5, "beta_slow": 1} | V3_YARN, 0.1),
    "no mscales": ("v3", {"factor": 40}, None),
    "mscales of zero": ("v3", {"factor": 40, "mscale": 0, "mscale_all_dim": 0}, 0.0),
    "no extension": ("v2", {"factor": 1} | V2_YARN, 0.0707),
}


def yarn_metadata(rope: dict[str, Any], log_multiplier: float | None) -> dict[str, Any]:
    names = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "factor": "factor"}
    numbers = {name: float(rope[key]) for key, name in names.items() if key in rope}
    numbers |= {"type": "yarn", "original_context_length": 64, "yarn_log_multiplier": log_multiplier}
    return {f"rope.scaling.{key}": value for key, value in numbers.items()}


@pytest.mark.parametrize("name", YARN_SETTINGS)
def test_gguf_yarn_is_that_of_config_json(name: str, tmp_path: Path) -> None:
    model, rope, log_multiplier = YARN_SETTINGS[name]
    config, tensors = CONFIGS[model], random_tensors(CONFIGS[model])
    path = write_gguf(tmp_path / "model.gguf", config, tensors, **yarn_metadata(rope, log_multiplier))
    scaling = {"type": "yarn", "original_max_position_embeddings": 64} | rope
    directory = write_model_directory(tmp_path / "a", config, **config_json(config, rope_scaling=scaling))
    theirs = open_checkpoint(path).config
    assert theirs == open_checkpoint(directory).config
    all_dim = rope.get("mscale_all_dim", 0)
    ratio = 1.0 if all_dim and rope["factor"] > 1 else None
    assert theirs.rope_scaling is not None
    assert (theirs.rope_scaling.mscale_all_dim, theirs.rope_scaling.attention_factor) == (all_dim, ratio)


@pytest.mark.parametrize("scaling", [V2_YARN, {"mscale": 1.0, "mscale_all_dim": 0.5}])
def test_an_exported_model_keeps_its_yarn(scaling: dict[str, float], tmp_path: Path) -> None:
    rope = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 64} | scaling
    checkpoint = open_checkpoint(
        write_model_directory(tmp_path / "a", V3, random_tensors(V3), **config_json(V3, rope_scaling=rope))
    )
    export_safetensors(checkpoint, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())["rope_scaling"]
    assert written["mscale_all_dim"] == scaling["mscale_all_dim"]
    assert open_checkpoint(tmp_path / "out").config == checkpoint.config


def test_a_gguf_has_one_mscale_where_config_json_has_two(tmp_path: Path) -> None:
    """Unequal ones, which no released model has, scale cosines; llama.cpp's metadata have no place for them."""
    rope = {"factor": 40, "mscale": 1.0, "mscale_all_dim": 0.5}
    path = write_gguf(tmp_path / "model.gguf", V2, random_tensors(V2), **yarn_metadata(rope, 0.05))
    scaling = {"type": "yarn", "original_max_position_embeddings": 64} | rope
    directory = write_model_directory(tmp_path / "a", V2, **config_json(V2, rope_scaling=scaling))
    ours = open_checkpoint(directory).config
    assert ours.rope_scaling is not None
    assert ours.rope_scaling.attention_factor == pytest.approx(
        (1 + 0.1 * np.log(40)) / (1 + 0.05 * np.log(40))
    )
    one = replace(ours, rope_scaling=replace(ours.rope_scaling, attention_factor=1.0))
    assert open_checkpoint(path).config == one


@pytest.mark.parametrize(
    ("key", "value"), [("attn_factor", 0.9), ("yarn_attn_factor", 0.9), ("yarn_log_multiplier", 1e9)]
)
def test_a_gguf_whose_yarn_cannot_be_told_is_refused(key: str, value: float, tmp_path: Path) -> None:
    changes = yarn_metadata({"factor": 40}, 0.1) | {f"rope.scaling.{key}": value}
    path = write_gguf(tmp_path / "model.gguf", V3, random_tensors(V3), **changes)
    with pytest.raises(DeepwellError, match="attn_factor is 0.9" if value < 1 else "mscale_all_dim is 100"):
        open_checkpoint(path)


def test_mscales_that_divide_by_nothing_are_refused(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": np.e**2, "mscale": 1.0, "mscale_all_dim": -5.0}
    fields = builders.config_json(V3, **config_json(V3, rope_scaling=scaling))
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InvalidModelFile, match="mscale_all_dim"):
        config_from_directory(tmp_path)


@pytest.mark.parametrize(
    ("layers", "hidden", "experts", "written", "expected"),
    [
        (60, 5120, 160, None, (8, 3)),  # V2
        (61, 7168, 256, None, (8, 4)),  # V3
        (61, 7168, 256, (1, 1), (1, 1)),
        (61, 7168, 384, None, (1, 1)),  # Kimi K2
        (27, 2048, 64, None, (1, 1)),  # V2-Lite
    ],
)
def test_groups_of_experts_that_a_gguf_does_not_name(
    layers: int, hidden: int, experts: int, written: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    values: dict[str, Any] = {
        "block_count": layers,
        "embedding_length": hidden,
        "expert_count": experts,
        "expert_used_count": 6,
        "expert_feed_forward_length": 1536,
        "attention.kv_lora_rank": 512,
        "attention.key_length": 192,
        "attention.value_length": 128,
        "rope.dimension_count": 64,
    }
    if written:
        values |= {"expert_group_count": written[0], "expert_group_used_count": written[1]}
    metadata = {f"deepseek2.{key}": value for key, value in values.items()}
    mixture = gguf_mixture(Fields(metadata, "it", "deepseek2."), GGUFHeader(3, metadata, {}, 0, 32, 0))
    assert (mixture["n_group"], mixture["topk_group"]) == expected


@pytest.mark.parametrize("top_k", [2, 3])
def test_v2_with_normed_weights_and_no_factor_is_deepseeks_own(top_k: int, tmp_path: Path) -> None:
    """DeepSeek-V2's own code divides by the sum and drops the factor, DeepSeek-VL2's multiplies by it: 1 makes them one."""
    changes = {"norm_topk_prob": True, "routed_scaling_factor": 1.0, "num_experts_per_tok": top_k}
    fields = builders.config_json(V2, **config_json(V2, **changes))
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = config_from_directory(tmp_path)
    logits = np.random.default_rng(top_k).normal(size=(50, config.num_experts)).astype(np.float32)
    experts, weights = route(
        logits,
        None,
        top_k=config.num_experts_per_tok,
        scoring="softmax",
        n_group=config.n_group,
        topk_group=config.topk_group,
        norm_topk_prob=config.norm_topk_prob,
        routed_scaling_factor=config.routed_scaling_factor,
    )
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for token, chosen in enumerate(experts):
        best = np.sort(scores[token])[::-1][:top_k]
        assert np.allclose(scores[token][chosen], best)
        assert np.allclose(weights[token], best / (best.sum() + 1e-20), rtol=1e-5)


@pytest.mark.parametrize("changes", [{"routed_scaling_factor": 16.0}, {"num_experts_per_tok": 1}])
def test_v2_with_normed_weights_that_are_read_differently_is_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    fields = builders.config_json(V2, **config_json(V2, norm_topk_prob=True, **changes))
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UnsupportedModel, match="norm_topk_prob") as caught:
        config_from_directory(tmp_path)
    assert "set routed_scaling_factor to 1.0" in str(caught.value.fix)
    config = replace(V2, norm_topk_prob=True, **changes)
    with pytest.raises(UnsupportedModel, match="norm_topk_prob"):
        open_checkpoint(write_gguf(tmp_path / "model.gguf", config, random_tensors(config)))


def prediction_tensors() -> dict[str, np.ndarray]:
    """A layer behind the last one of `V3`, with the copies that released checkpoints repeat there."""
    config = replace(V3, num_nextn_predict_layers=1)
    tensors = {key: value for key, value in random_tensors(config).items() if ".layers.2." in key}
    copies = ("embed_tokens", "shared_head.head")
    return tensors | {
        f"model.layers.2.{name}.weight": np.ones((V3.vocab_size, 64), np.float32) for name in copies
    }


def test_the_prediction_layer_is_part_of_the_model(tmp_path: Path) -> None:
    """V3 stores it behind the last layer, with copies of embedding and head; any other layer there is an error."""
    tensors = random_tensors(V3) | prediction_tensors()
    write_model_directory(tmp_path / "a", V3, tensors, **config_json(V3, num_nextn_predict_layers=1))
    checkpoint = open_checkpoint(tmp_path / "a")
    assert checkpoint.config.prediction_layer == 2 and checkpoint.config.has_experts(2)
    names = [name for name in checkpoint.names if ".layers.2." in name]
    assert "model.layers.2.eh_proj.weight" in names and "model.layers.2.mlp.gate.weight" in names
    assert not [name for name in names if "embed_tokens" in name or "shared_head.head" in name]
    write_model_directory(tmp_path / "b", V3, tensors, **config_json(V3))
    with pytest.raises(UnsupportedModel, match=r"layers\.2"):
        open_checkpoint(tmp_path / "b")


def test_a_second_prediction_layer_is_left_aside(tmp_path: Path) -> None:
    second = {key.replace(".2.", ".3.", 1): value for key, value in prediction_tensors().items()}
    tensors = random_tensors(V3) | prediction_tensors() | second
    write_model_directory(tmp_path, V3, tensors, **config_json(V3, num_nextn_predict_layers=2))
    assert not [name for name in open_checkpoint(tmp_path).names if ".layers.3." in name]


def test_a_checkpoint_without_the_layer_that_its_configuration_names(tmp_path: Path) -> None:
    """transformers drops the layer when it saves a model, and keeps the field; half a layer is an error."""
    write_model_directory(
        tmp_path / "a", V3, random_tensors(V3), **config_json(V3, num_nextn_predict_layers=1)
    )
    assert open_checkpoint(tmp_path / "a").config == V3
    partial = dict(list(prediction_tensors().items())[:3])
    write_model_directory(
        tmp_path / "b", V3, random_tensors(V3) | partial, **config_json(V3, num_nextn_predict_layers=1)
    )
    with pytest.raises(InvalidModelFile, match="missing"):
        open_checkpoint(tmp_path / "b")


HOSTILE: list[tuple[dict[str, Any], type[DeepwellError], str]] = [
    ({"n_routed_experts": 1 << 40}, InvalidModelFile, "num_experts"),
    ({"n_routed_experts": -4}, InvalidModelFile, "num_experts"),
    ({"n_routed_experts": "64"}, InvalidModelFile, "not an integer"),
    ({"num_experts_per_tok": 0}, InvalidModelFile, "num_experts_per_tok"),
    ({"num_experts_per_tok": 5}, InvalidModelFile, "5 experts a token"),
    ({"moe_intermediate_size": 1 << 30}, InvalidModelFile, "moe_intermediate_size"),
    ({"kv_lora_rank": 0}, InvalidModelFile, "kv_lora_rank"),
    ({"kv_lora_rank": 1 << 20}, InvalidModelFile, "kv_lora_rank"),
    ({"qk_rope_head_dim": 7}, InvalidModelFile, "even number"),
    ({"qk_nope_head_dim": -8}, InvalidModelFile, "qk_nope_head_dim"),
    ({"v_head_dim": 100_000}, InvalidModelFile, "v_head_dim"),
    ({"n_group": 3}, InvalidModelFile, "3 groups"),
    ({"topk_group": 9}, InvalidModelFile, "9 are chosen"),
    ({"n_group": 4, "topk_group": 4, "num_experts_per_tok": 2}, InvalidModelFile, "no two best"),
    ({"routed_scaling_factor": 1e200}, InvalidModelFile, "routed_scaling_factor"),
    ({"first_k_dense_replace": -1}, InvalidModelFile, "first_k_dense_replace"),
    ({"num_nextn_predict_layers": 1000}, InvalidModelFile, "num_nextn"),
    ({"attention_bias": True}, UnsupportedModel, "biases"),
    ({"moe_layer_freq": 2}, UnsupportedModel, "moe_layer_freq"),
    ({"topk_method": "random"}, UnsupportedModel, "random"),
    ({"scoring_func": "softmax"}, UnsupportedModel, "softmax"),
    (
        {"rope_scaling": {"type": "yarn", "factor": 4, "mscale_all_dim": 1e9}},
        InvalidModelFile,
        "mscale_all_dim",
    ),
]


@pytest.mark.parametrize(("changes", "error", "reason"), HOSTILE, ids=lambda value: str(value)[:40])
def test_absurd_configurations_are_refused(
    changes: dict[str, Any], error: type[DeepwellError], reason: str, tmp_path: Path
) -> None:
    fields = builders.config_json(V3, **(config_json(V3) | changes))
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(error, match=reason):
        config_from_directory(tmp_path)


@pytest.mark.parametrize("value", [5, [1.5], ["0"], [True], {"0": 1}])
def test_layers_that_are_no_list_are_refused(value: Any, tmp_path: Path) -> None:
    fields = builders.config_json(QWEN, **config_json(QWEN, mlp_only_layers=value))
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(InvalidModelFile, match="mlp_only_layers"):
        config_from_directory(tmp_path)


def test_a_gguf_with_half_a_kv_b_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors(V2)
    path = write_gguf(tmp_path / "model.gguf", replace(V2, v_head_dim=8), tensors, absorbed=True)
    with pytest.raises(InvalidModelFile, match="absorbed halves"):
        open_checkpoint(path)


def test_export_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(tmp_path / "model.gguf", V2, random_tensors(V2)))
    with pytest.raises(UnsupportedModel, match="deepseek_v2"):
        export_safetensors(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
