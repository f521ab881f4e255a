"""Reinforcement jobs: their graders, the models that these ask, and the configuration of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from deepwell.dialogue.model import ServedModel
from deepwell.errors import InvalidRequest
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.schema import FineTuningRequest
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.records import StoredFineTuning
from deepwell.tuning.evaluate.grader_models import templates_of
from deepwell.tuning.evaluate.graders import (
    Grader,
    LabelModel,
    Multi,
    TextSimilarity,
    parse_grader,
)
from deepwell.tuning.evaluate.templates import variables

__all__ = ["Judges", "check_grader", "fields_of", "judges_of", "reinforcement_config"]

_PARAM: Final = "method.reinforcement.grader"
_RATE: Final = 3e-4  # of a multiplier of 1, as `deepwell tune ppo` has it
_MOST_PROMPTS: Final = 32  # of an iteration of "auto"
_STEPS_OF_AN_EPOCH: Final = 8  # of "auto", where the file has so many prompts
_SAMPLES: Final = {"grpo": 8, "ppo": 4}  # of a compute multiplier of 1
_MOST_SAMPLES: Final = 64
_NEW_TOKENS: Final = 128
_PROMPT_TOKENS: Final = 2048
_EVALUATIONS: Final = 10  # of "auto"


@dataclass(frozen=True, slots=True)
class Judges:
    """Places of the models that a grader asks, by the names it has for them, and of the one that embeds; empty: the base."""

    models: Mapping[str, str] = field(default_factory=dict[str, str])
    embedding: str = ""


async def check_grader(context: ServerContext, tenant: Tenant, body: FineTuningRequest) -> list[str]:
    """Checks the grader of a request, and returns the variables of `item` that the prompts must have.

    Raises:
        ModelNotFound, InvalidRequest: the grader is none that can train, asks a model that is not served here, or the request
            evaluates without a file.
    """
    grader = parse_grader(body.grader, param=_PARAM)
    if isinstance(grader, LabelModel):
        raise InvalidRequest(
            f"{_PARAM}.type is label_model, whose score has two values and no slope",
            fix="use a score_model, or the label_model within a multi grader",
            param=f"{_PARAM}.type",
        )
    chosen = body.chosen
    if body.validation_file is None and getattr(chosen, "eval_interval", "auto") != "auto":
        raise InvalidRequest(
            "eval_interval asks for evaluations, and there is no validation_file",
            fix="give a validation_file, or leave eval_interval out",
            param="method.reinforcement.hyperparameters.eval_interval",
        )
    await judges_of(context, tenant, grader)
    return fields_of(grader)


def fields_of(grader: Grader) -> list[str]:
    """Returns the variables of `item` in the templates of a grader, one spelling of each.

    `item.x[0]` and `item['x'][00]` are the same: a file could have a million lines, and each is looked up in all of them.
    """
    used = [one for text in templates_of(grader) for one in variables(text) if one.namespace == "item"]
    return sorted({tuple(map(str, one.path)): one.text for one in used}.values())


async def judges_of(context: ServerContext, tenant: Tenant, grader: Grader) -> Judges:
    """Returns where the models that a grader asks are. The training loads them itself, beside the one that it trains.

    Raises:
        ModelNotFound, InvalidRequest: one is not served, is an adapter, or has no files here.
    """
    models: dict[str, str] = {}
    for part in _parts(grader):
        name: str | None = getattr(part, "model", None)
        if name is None or name in models:
            continue
        answering, adapter = await context.generator(name, tenant)
        path = answering.model.codec.path
        if adapter or path is None:
            what = "is an adapter" if adapter else "has no files on this machine"
            raise InvalidRequest(
                f"the grader asks {name!r}, which {what}, and a training loads the models of its grader itself",
                fix=f"name a base model, such as {answering.model.name!r}"
                if adapter
                else "name another model",
                param=f"{_PARAM}.model",
            )
        models[name] = str(path)
    embedding = ""
    if any(
        isinstance(part, TextSimilarity) and part.evaluation_metric == "cosine" for part in _parts(grader)
    ):
        paths = [one.model.codec.path for one in context.served if not one.model.answers]
        embedding = next((str(path) for path in paths if path is not None), "")
    return Judges(models, embedding)


def reinforcement_config(
    folder: Path,
    job: StoredFineTuning,
    model: ServedModel,
    files: tuple[Path, Path | None],
    judges: Judges,
) -> dict[str, Any]:
    """Returns the configuration of a reinforcement run. Blocks: it counts the prompts."""
    from deepwell.tuning.align.ppo.prompts import read_prompts

    chosen: dict[str, Any] = msgspec.json.decode(job.hyperparameters)
    options: dict[str, Any] = msgspec.json.decode(job.options)
    given = dict(options.get("reinforcement", {}))
    algorithm = given.pop("algorithm", "grpo")
    training, validation = files
    count = max(1, len(read_prompts([training])[0]))
    prompts = _auto(chosen["batch_size"], min(_MOST_PROMPTS, math.ceil(count / _STEPS_OF_AN_EPOCH)))
    iterations = given.pop("iterations", None) or max(1, math.ceil(chosen["n_epochs"] * count / prompts))
    samples = round(_SAMPLES[algorithm] * _auto(chosen["compute_multiplier"], 1.0))
    evaluate = _auto(chosen["eval_interval"], max(1, iterations // _EVALUATIONS))
    # Half of the context at most, so that a small one has room for the question
    new_tokens = given.pop("new_tokens", None) or min(_NEW_TOKENS, model.capabilities.max_model_len // 2)
    path = model.codec.path
    return {
        "model": model.name if path is None else str(path),
        "data": [str(training)],
        "validation": 0 if validation is None else [str(validation)],
        "output": str(folder),
        "algorithm": algorithm,
        "reward": {
            "type": "grader",
            "grader": chosen["grader"],
            "models": dict(judges.models),
            "embedding_model": judges.embedding,
        },
        "lora": options.get("lora", {}),
        "train": {
            "iterations": iterations,
            "prompts": prompts,
            "samples": min(max(samples, 2 if algorithm == "grpo" else 1), _MOST_SAMPLES),
            "new_tokens": new_tokens,
            "max_prompt_tokens": min(_PROMPT_TOKENS, max(1, model.capabilities.max_model_len - new_tokens)),
            "learning_rate": min(_RATE * _auto(chosen["learning_rate_multiplier"], 1.0), 1.0),
            "evaluate_every": 0 if validation is None else evaluate,
            "evaluation_samples": _auto(chosen["eval_samples"], 1),
            **given,
            "seed": job.seed,
        },
    }


def _auto(value: Any, otherwise: Any) -> Any:
    return otherwise if value == "auto" else value


def _parts(grader: Grader) -> Sequence[Grader]:
    return list(grader.graders.values()) if isinstance(grader, Multi) else [grader]
