"""`GraderReward`: the score of one of OpenAI's graders that needs no model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.evaluate.graders import (
    Embedder,
    GradingModel,
    Multi,
    parse_grader,
    run_grader,
    sample_of,
)

__all__ = ["GraderReward"]


class GraderReward:
    """Runs a grader on every answer; `item` holds the further fields of the prompt's line.

    Args:
        model, embedder: as `run_grader` takes them.

    Raises:
        InvalidRequest: the grader is none, or needs a model that is not given.
    """

    def __init__(
        self,
        grader: Mapping[str, Any],
        *,
        model: GradingModel | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self._grader = parse_grader(grader, param="reward.grader")
        self._model, self._embedder = model, embedder
        parts = self._grader.graders.values() if isinstance(self._grader, Multi) else [self._grader]
        if model is None and any(part.type in ("label_model", "score_model") for part in parts):
            raise InvalidRequest(
                "a grader that asks a model is none for training",
                fix="use string_check, text_similarity or multi",
                param="reward.grader",
            )

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns the graders' scores.

        Raises:
            InvalidRequest: the grader cannot judge an answer, for example because its prompt lacks a field.
        """
        return asyncio.run(self._all(prompts, answers))

    async def _all(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        found: list[float] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            grade = await run_grader(
                self._grader,
                item=prompt.item,
                sample=sample_of(answer),
                model=self._model,
                embedder=self._embedder,
            )
            if grade.error is not None:
                raise InvalidRequest(
                    f"the grader gives no score: {grade.error}, {grade.detail[:200]}",
                    fix="correct the grader, or the fields of the prompts",
                    param="reward.grader",
                )
            found.append(grade.score)
        return found
