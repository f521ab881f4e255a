"""The projections of an architecture that LoRA may adapt, and the number of modules each name must match."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from deepwell.engine.architectures import tensor_plan
from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.layout import module_of

__all__ = ["lora_targets"]


def lora_targets(
    config: ModelConfig, which: Literal["attention", "dense", "all"] = "dense"
) -> dict[str, int]:
    """Returns names for peft's `target_modules`, each with the number of modules it matches.

    A tuner compares the modules that peft matched with these numbers. A name that matches fewer modules was renamed.
    kv_b_proj is never included, because serving absorbs it into queries and outputs.

    Args:
        which: "attention"; "dense" adds the MLPs that every token passes, including shared experts; "all" adds the
            routed experts.
    """
    counts: Counter[str] = Counter()
    for matrix in tensor_plan(config).matrices:
        if matrix.role != "body" or not matrix.adapts:
            continue
        for source in matrix.sources:
            module = module_of(source, config)
            if module is None:
                continue
            if (which == "attention" and ".mlp." in module) or (which != "all" and ".experts." in module):
                continue
            # V4's indexer has a q_b_proj, too: there a name says what it is a part of.
            parts = module.rsplit(".", 2 if config.compression is not None else 1)[1:]
            counts[".".join(parts)] += 1
    return dict(counts)
