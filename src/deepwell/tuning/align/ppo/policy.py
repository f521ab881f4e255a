"""`Policy`: the model with its adapter, and the value head on its hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepwell.tuning.align.ppo.config import PPOConfig
from deepwell.tuning.train.bases import Base, load_model
from deepwell.tuning.train.batches import Batch
from deepwell.tuning.train.forward.loss import logprobs, reference_logprobs, states_and_logprobs
from deepwell.tuning.train.loop import named_parameters
from deepwell.tuning.train.lora import add_lora, save_adapter

__all__ = ["Policy", "ValueHead"]


class ValueHead(nn.Module):
    """Predicts returns from hidden states that it does not change: one column for the reward, one for a cost.

    It begins at zero, so that the first advantages are those of the rewards alone.
    """

    def __init__(self, width: int, columns: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, columns)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns values, [tokens, columns], from states, [tokens, width]."""
        return self.linear(F.layer_norm(hidden.float(), hidden.shape[-1:]))


class Policy:
    """The model that is trained. The reference is the same model without its adapter, so that no second copy is needed."""

    def __init__(self, base: Base, config: PPOConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._base = base
        model: Any = add_lora(load_model(base, dtype), base.config, config.lora, config.train.seed)
        self.model = model.to(device).eval()  # nothing is dropped: both sides of a ratio must be one function
        self.device = device
        self.values = ValueHead(base.config.hidden_size, 2 if config.cost else 1).to(device)
        self.adapter: Mapping[str, Tensor] = named_parameters(self.model)
        self.parameters: dict[str, Tensor] = {
            **self.adapter,
            **{f"values.{name}": one for name, one in self.values.named_parameters()},
        }

    def logprobs(self, batch: Batch) -> Tensor:
        """Returns the log probability of each token of the answers, [labelled], with its gradient."""
        return logprobs(self.model, batch)

    def describe(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns hidden states, [labelled, width], and log probabilities, without gradients."""
        return states_and_logprobs(self.model, batch)

    def reference(self, batch: Batch) -> Tensor:
        """Returns the log probabilities of the base."""
        return reference_logprobs(self.model, batch)

    def optimizer(self, config: PPOConfig) -> torch.optim.AdamW:
        """Returns AdamW with a learning rate for the adapter and one for the value head."""
        return torch.optim.AdamW(
            [
                {"params": list(self.adapter.values()), "lr": config.train.learning_rate},
                {"params": list(self.values.parameters()), "lr": config.train.value_learning_rate},
            ],
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.0,
        )

    def write_adapter(self, folder: Path) -> None:
        """Writes the adapter in peft's form."""
        save_adapter(self.model, folder, self._base.name)
