"""`Decoder`: a model of transformers, with the adapters of peft, seen as the layers of the written-out forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deepwell.tuning.train.forward.adapters import Adapter, Group
from deepwell.tuning.train.forward.layer import Layer

__all__ = ["Decoder", "Part", "Shard", "base_of", "decoder_of", "unsupported", "without_adapters"]

_CLASSES: Final = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_known: WeakKeyDictionary[nn.Module, Decoder] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Part:
    """The outputs and inputs of a projection that a process computes."""

    outputs: slice
    inputs: slice


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A process's share of a layer that several compute; it stands at the layer as `deepwell_shard`.

    Attributes:
        kv_heads: first key head, and the one behind the last.
        parts: of every projection.
        reduce: sums a tensor over the processes, in place.
        rank: number of the process of `world`.
    """

    kv_heads: tuple[int, int]
    parts: Mapping[Any, Part]
    reduce: Callable[[Tensor], None]
    rank: int
    world: int


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Embedding, layers, last norm and head; `rotary` maps states and positions to cosines and sines.

    Attributes:
        stamp: addresses of all weights; another one means that the model has been moved or changed.
        shard: this process's share of the first layer, None where it computes the whole model.
    """

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    eps: float
    head: Tensor
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    stamp: tuple[int, ...]
    shard: Shard | None


def base_of(model: nn.Module) -> nn.Module:
    """Returns the model of transformers below the adapters of peft."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap else model


def unsupported(model: nn.Module) -> str | None:
    """Returns why the model needs the forward pass of transformers, or None where the written-out one computes the same."""
    base: Any = base_of(model)
    config = base.config
    if type(base).__name__ not in _CLASSES:
        return f"{type(base).__name__} has another architecture"
    if config.hidden_act not in ("silu", "swish") or getattr(config, "attention_dropout", 0):
        return "it has another activation, or drops attention weights"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "its attention has a window"
    if hasattr(base.model.layers[0], "unshard"):  # of fully_shard
        return "its layers gather their weights when transformers calls them"
    weight = base.lm_head.weight
    device = weight.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != weight.dtype:
        return "autocast chooses another format for its products"
    if weight.dtype == torch.float16:
        return "gradients of fp16 need the scaling that autocast has"
    trained = {id(part) for layer in base.model.layers for part in _adapters_of(layer)}
    if any(part.requires_grad and id(part) not in trained for part in model.parameters()):
        return "weights of the base model are trained"
    dtypes = {part.dtype for part in model.parameters() if not part.requires_grad}
    if len(dtypes) > 1:
        return "its weights have several formats"
    return _unsupported_adapters(base)


def _unsupported_adapters(base: Any) -> str | None:
    for module in base.modules():
        if not hasattr(module, "lora_A"):
            continue
        active = list(module.active_adapters)
        name = active[0] if active else ""
        plain = len(active) == 1 and not module.merged and not module.disable_adapters
        if not plain or module.lora_variant.get(name) or module.lora_bias.get(name):
            return "its adapters are merged, several, or no plain LoRA"
        if not isinstance(module.get_base_layer(), nn.Linear):
            return "its adapters change more than projections"
    return None


def decoder_of(model: nn.Module) -> Decoder:
    """Returns the view of a supported model, made once. The weights of its projections become parts of larger matrices.

    The parameters of the model stay what they are and share that memory: loading and saving go on as before.
    """
    base: Any = base_of(model)
    known = _known.get(base)
    if known is None or known.stamp != _stamp(base):
        with torch.inference_mode(mode=False), torch.no_grad():  # the first pass may be a validation
            layers = [_layer(layer, number, base.config) for number, layer in enumerate(base.model.layers)]
        known = Decoder(
            embedding=base.model.embed_tokens.weight,
            layers=tuple(layers),
            norm=base.model.norm.weight,
            eps=base.model.norm.variance_epsilon,
            head=base.lm_head.weight,
            rotary=base.model.rotary_emb,
            stamp=_stamp(base),
            shard=getattr(base.model.layers[0], "deepwell_shard", None),
        )
        _known[base] = known
    return known


def without_adapters(decoder: Decoder) -> Decoder:
    """Returns the view of the same weights as if no projection had an adapter."""

    def bare(group: Group) -> Group:
        return replace(group, adapters=(None,) * len(group.adapters))

    layers = [
        replace(one, qkv=bare(one.qkv), out=bare(one.out), gate_up=bare(one.gate_up), down=bare(one.down))
        for one in decoder.layers
    ]
    return replace(decoder, layers=tuple(layers))


def _stamp(base: nn.Module) -> tuple[int, ...]:
    return tuple(part.data_ptr() for part in base.parameters())


def _layer(layer: Any, number: int, config: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    head_norms = None
    if hasattr(attention, "q_norm"):
        head_norms = attention.q_norm.weight, attention.k_norm.weight
    shard: Shard | None = getattr(layer, "deepwell_shard", None)
    q_heads = config.num_attention_heads // config.num_key_value_heads
    kv_heads = shard.kv_heads[1] - shard.kv_heads[0] if shard else config.num_key_value_heads
    return Layer(
        number=number,
        qkv=_group([attention.q_proj, attention.k_proj, attention.v_proj], shard),
        out=_group([attention.o_proj], shard),
        gate_up=_group([mlp.gate_proj, mlp.up_proj], shard),
        down=_group([mlp.down_proj], shard),
        norms=(layer.input_layernorm.weight, layer.post_attention_layernorm.weight),
        head_norms=head_norms,
        heads=kv_heads * q_heads,
        kv_heads=kv_heads,
        head_dim=attention.head_dim,
        eps=layer.input_layernorm.variance_epsilon,
        scaling=attention.scaling,
        reduce=shard.reduce if shard else None,
    )


def _group(modules: Sequence[Any], shard: Shard | None) -> Group:
    linears = [module.get_base_layer() if hasattr(module, "lora_A") else module for module in modules]
    weight, bias = linears[0].weight.detach(), None
    outputs = tuple(len(linear.weight) for linear in linears)
    if len(linears) > 1:
        weight = torch.cat([linear.weight.detach() for linear in linears])
        for linear, part in zip(linears, weight.split(outputs), strict=True):
            linear.weight.data = part
    if any(linear.bias is not None for linear in linears):
        bias = torch.cat([_bias(linear) for linear in linears])
        for linear, part in zip(linears, bias.split(outputs), strict=True):
            if linear.bias is not None:
                linear.bias.data = part
    return Group(weight, bias, outputs, tuple(_adapter(module, shard) for module in modules))


def _bias(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        return linear.weight.new_zeros(len(linear.weight))
    return linear.bias.detach()


def _adapter(module: Any, shard: Shard | None = None) -> Adapter | None:
    if not hasattr(module, "lora_A"):
        return None
    (name,) = module.active_adapters
    part = shard.parts[module] if shard else Part(slice(None), slice(None))
    return Adapter(
        a=module.lora_A[name].weight,
        b=module.lora_B[name].weight,
        scale=module.scaling[name],
        dropout=getattr(module.lora_dropout[name], "p", 0.0),
        rows=part.outputs,
        columns=part.inputs,
    )


def _adapters_of(layer: Any) -> list[nn.Parameter]:
    owners = (layer.self_attn, layer.mlp)
    modules = [getattr(owner, name, None) for owner in owners for name in _PROJECTIONS]
    adapters = [_adapter(module) for module in modules if module is not None]
    return [part for adapter in adapters if adapter for part in (adapter.a, adapter.b)]  # pyright: ignore[reportReturnType]
