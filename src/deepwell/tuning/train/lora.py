"""Puts LoRA adapters on a model by peft, on the projections of its architecture, and counts that each one was found.

peft is silent about a name that matches nothing as long as another one matches: q_proj and v_proj on a model with latent
attention train half an adapter. So names are mapped for each architecture, and the modules that peft wrapped are compared
with the number that the architecture has.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from deepwell.engine.architectures.targets import lora_targets
from deepwell.errors import InvalidRequest
from deepwell.messages import nearest
from deepwell.models.formats.config import ModelConfig
from deepwell.tuning.train.config import LoraConfig

__all__ = ["EXPERTS", "Targets", "add_lora", "map_targets", "save_adapter", "trainable_parameters"]

EXPERTS: Final = "experts"
"""Target name of the routed experts, whose matrices transformers keeps stacked in one parameter."""
_STACKED: Final = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


@dataclass(frozen=True, slots=True)
class Targets:
    """The modules that an adapter changes.

    Attributes:
        modules: number of modules by name.
        parameters: number of stacked parameters of experts by name.
        unserved: names that serving cannot keep apart from the weights, so that such an adapter is served merged.
    """

    modules: Mapping[str, int]
    parameters: Mapping[str, int]
    unserved: tuple[str, ...] = ()


def map_targets(config: ModelConfig, names: Sequence[str]) -> Targets:
    """Returns the targets that names mean for an architecture.

    On latent attention q_proj means q_b_proj where queries are compressed, and v_proj means kv_a_proj_with_mqa: the values come
    from its latent, and serving keeps it apart, other than kv_b_proj. On DeepSeek-V4 it means o_b_proj.
    `attention` and `dense` name groups; `experts` the routed experts.

    Raises:
        InvalidRequest: the model has no such projection.
    """
    # peft takes the MLPs' names on a mixture for those of its stacked experts, so there only the experts as a whole have one.
    known = dict(lora_targets(config, "attention" if config.sparse_layers else "dense"))
    if config.is_latent:
        known["kv_b_proj"] = config.num_hidden_layers
    mapping = _latent_names(config) if config.is_latent else {}
    if config.compression is not None:  # one vector is key and value
        mapping = {name.rpartition(".")[2]: name for name in known}
        mapping |= {"q_proj": "self_attn.q_b_proj"} | dict.fromkeys(
            ("v_proj", "o_proj"), "self_attn.o_b_proj"
        )
    modules: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for name in names:
        if name == "attention" or (name == "dense" and not config.sparse_layers):
            modules |= lora_targets(config, name)  # type: ignore[arg-type]
            continue
        if name == EXPERTS and config.sparse_layers:
            parameters |= dict.fromkeys(_STACKED, len(config.sparse_layers))
            continue
        actual = name if name in known else mapping.get(name, name)
        if actual not in known:
            choice = [*known, "attention", EXPERTS if config.sparse_layers else "dense"]
            near = nearest(name, choice)
            raise InvalidRequest(
                f"this model has no projection {name!r}",
                fix=f"did you mean {near}?" if near else f"choose of {', '.join(choice)}",
                param="lora.targets",
            )
        modules[actual] = known[actual]
    return Targets(modules, parameters, tuple(name for name in modules if name == "kv_b_proj"))


def _latent_names(config: ModelConfig) -> dict[str, str]:
    return {
        "q_proj": "q_b_proj" if config.q_lora_rank else "q_proj",
        "v_proj": "kv_a_proj_with_mqa",
    }


def add_lora(model: Any, config: ModelConfig, lora: LoraConfig, seed: int) -> PeftModel:
    """Returns the model with fresh adapters, in float32, and everything else frozen. B is zero, so nothing changes yet.

    Raises:
        InvalidRequest: a target is none of this architecture.
        RuntimeError: the modules that were wrapped are not those that the architecture has.
    """
    targets = map_targets(config, lora.targets)
    settings = PeftConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft computes with any number
        # peft cannot drop inputs of stacked experts.
        lora_dropout=0.0 if targets.parameters else lora.dropout,
        target_modules=list(targets.modules) or None,
        target_parameters=list(targets.parameters) or None,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, settings)
    _check(wrapped, targets)
    return wrapped


def _check(model: PeftModel, targets: Targets) -> None:
    found: Counter[str] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and getattr(module, "parameter_name", None) in (None, "weight"):
            named = (target for target in targets.modules if f".{name}".endswith(f".{target}"))
            found[next(named, name.rpartition(".")[2])] += 1
    stacked: Counter[str] = Counter()
    for _, module in model.named_modules():
        if isinstance(module, LoraLayer) and (parameter := getattr(module, "parameter_name", None)):
            stacked[f"mlp.experts.{parameter}"] += 1
    if targets.parameters:
        found = Counter({name: count for name, count in found.items() if name in targets.modules})
    if dict(found) != dict(targets.modules) or (
        targets.parameters and dict(stacked) != dict(targets.parameters)
    ):
        raise RuntimeError(
            f"adapters are on {dict(found) | dict(stacked)}, and the architecture has "
            f"{dict(targets.modules) | dict(targets.parameters)}: this release of peft or transformers renamed modules"
        )


def save_adapter(model: PeftModel, folder: Path, base_name: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`. Nothing is looked up anywhere."""
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = base_name
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    if settings.target_parameters:
        _unstack(model, folder)


def _unstack(model: PeftModel, folder: Path) -> None:
    """Rewrites an adapter of stacked experts as one of each expert's own matrices, as released checkpoints name them.

    That is the form that serving knows. Both have the same values: A is stacked, and B holds the experts in its last dimension.
    """
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".experts." not in name}
    names: set[str] = set()
    for path, module in model.named_modules():
        parameter = getattr(module, "parameter_name", None)
        if not isinstance(module, LoraLayer) or parameter not in ("gate_up_proj", "down_proj"):
            continue
        prefix = path.removesuffix(".base_layer")
        stacked_a, stacked_b = module.lora_A["default"].weight, module.lora_B["default"].weight
        experts = module.num_experts
        a = stacked_a.detach().reshape(experts, -1, stacked_a.shape[-1])  # [experts, r, inputs]
        b = stacked_b.detach().reshape(stacked_b.shape[0], -1, experts)  # [outputs, r, experts]
        for expert in range(experts):
            parts = {"down_proj": b[:, :, expert]}
            if parameter == "gate_up_proj":
                parts = dict(zip(("gate_proj", "up_proj"), b[:, :, expert].chunk(2), strict=True))
            for part, rows in parts.items():
                names.add(part)
                kept[f"{prefix}.{expert}.{part}.lora_A.weight"] = a[expert].cpu().clone()
                kept[f"{prefix}.{expert}.{part}.lora_B.weight"] = rows.cpu().contiguous()
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    modules = "|".join(map(re.escape, sorted({*config["target_modules"], *names})))
    # An expression, because these names do not match every module that is called so: shared experts and dense MLPs are left.
    config |= {"target_parameters": None, "target_modules": rf".*\.(experts\.\d+\.)?({modules})"}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def trainable_parameters(model: Any) -> int:
    """Returns the number of values that an optimiser changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
