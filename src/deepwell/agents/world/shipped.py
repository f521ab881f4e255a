"""Models that come with Deepwell, one for each environment; `weights/README.md` says how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from deepwell.agents.world.environments import Environment
from deepwell.agents.world.model import WorldModel
from deepwell.errors import InvalidRequest

__all__ = ["SHIPPED", "world_model"]

SHIPPED: Final = Path(__file__).parent / "weights"
"""Folder of the models that come with Deepwell."""


def world_model(environment: Environment, path: Path | None = None) -> WorldModel:
    """Returns the model of a file or of a run's folder, or that which comes with Deepwell.

    Raises:
        InvalidModelFile: the file is no world model.
        InvalidRequest: it models another environment.
    """
    name = environment.spec.name
    file = SHIPPED / f"{name}.safetensors" if path is None else path
    model = WorldModel.read(file / "world.safetensors" if file.is_dir() else file)
    if model.config.environment != name:
        raise InvalidRequest(
            f"{file} models {model.config.environment}, not {name}",
            fix=f"name a model that `deepwell world train {name}` wrote",
        )
    return model
