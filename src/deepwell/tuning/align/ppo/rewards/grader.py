"""`GraderReward`: the score of one of OpenAI's graders."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.evaluate.graders import (
    Embedder,
    Grade,
    GradingModel,
    Multi,
    ScoreModel,
    parse_grader,
    run_grader,
    sample_of,
)

__all__ = ["GraderReward"]

_AT_ONCE: Final = 16  # answers that a grading model is asked about
_UNGRADED: Final = ("model_grader_parse_error", "model_grader_refusal_error")


class GraderReward:
    """Runs a grader on every answer; `item` holds the further fields of the prompt's line.

    An answer that a grading model leaves without a grade, because it refuses or names a number outside of the range, has the
    least score of the range.

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
                "the grader asks a model, and there is none that grades",
                fix="use string_check, text_similarity or a multi of them",
                param="reward.grader",
            )

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns the graders' scores.

        Raises:
            InvalidRequest: the grader cannot judge an answer, for example because its prompt lacks a field, or a grading model
                grades none of the answers.
        """
        return asyncio.run(self._all(prompts, answers))

    async def _all(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(prompt: Prompt, answer: str) -> Grade:
            async with room:
                return await run_grader(
                    self._grader,
                    item=prompt.item,
                    sample=sample_of(answer),
                    model=self._model,
                    embedder=self._embedder,
                )

        grades = await asyncio.gather(*map(one, prompts, answers))
        failed = [grade for grade in grades if grade.error is not None]
        hopeless = [grade for grade in failed if grade.error not in _UNGRADED]
        if hopeless or (failed and len(failed) == len(grades)):
            first = (hopeless or failed)[0]
            raise InvalidRequest(
                f"the grader gives no score: {first.error}, {first.detail[:200]}",
                fix="correct the grader, or the fields of the prompts",
                param="reward.grader",
            )
        return [self._least if grade.error is not None else grade.score for grade in grades]

    @property
    def _least(self) -> float:
        """The score of an answer without a grade: of a formula 0, which is what its parts had."""
        return self._grader.range[0] if isinstance(self._grader, ScoreModel) else 0.0
