"""`ClassifierReward`: the probability of a class, by softmax regression on hashed TF-IDF or on hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rewards.protocol import Vectors
from deepwell.tuning.data.active.features import DenseFeatures, HashedFeatures
from deepwell.tuning.data.active.learner import Fitted, SoftmaxRegression
from deepwell.tuning.data.records import BadRecord, read_records

__all__ = ["ClassifierReward", "read_labelled"]

MOST_EXAMPLES: Final = 8000  # the learner holds products of all pairs: 256 MB


class ClassifierReward:
    """The probability that a text is of a class.

    It reads the answer alone: the class of the prompt, which no answer can change, would only be noise.

    Args:
        texts, labels: examples of every class.
        label: the class whose probability is the score.
        vectors: hidden states to learn from; None: the words.
        strength: inverse of the penalty on large weights. Of 1, 3 and 10 the last had the least log loss on unseen reviews.

    Raises:
        InvalidRequest: no example, or every one, has the label.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        label: str,
        *,
        vectors: Vectors | None = None,
        strength: float = 10.0,
    ) -> None:
        classes = sorted(set(labels))
        if label not in classes or len(classes) < 2:
            raise InvalidRequest.of("reward_classes", param="label", classes=", ".join(classes), label=label)
        if len(texts) > MOST_EXAMPLES:
            raise InvalidRequest(
                f"{len(texts)} examples are more than the {MOST_EXAMPLES} that fit the memory",
                fix="give fewer",
            )
        self._column = classes.index(label)
        self._vectors = vectors
        self._features: Any = DenseFeatures(vectors(texts)) if vectors else HashedFeatures(texts)
        numbers = [classes.index(one) for one in labels]
        learner = SoftmaxRegression(len(classes), strength=strength)
        self._fitted: Fitted = learner.fit(self._features, range(len(texts)), numbers)

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns probabilities."""
        return self.probabilities(answers)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Returns the probability of the class for each text."""
        given: Any = self._vectors(texts) if self._vectors else texts
        found = self._fitted.probabilities(self._features.transform(given))
        return [float(one) for one in found[:, self._column]]


def read_labelled(paths: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Reads texts with their classes from records that have a `label`.

    Raises:
        InvalidRequest: a file cannot be read, or a record has no label.
    """
    texts: list[str] = []
    labels: list[str] = []
    try:
        for one in read_records(paths):
            if isinstance(one, BadRecord) or one.label is None:
                problem = one.problem if isinstance(one, BadRecord) else "it has no label"
                raise InvalidRequest(
                    f"{one.source}, line {one.line}: {problem}",
                    fix='write lines as {"text": "...", "label": "..."}',
                )
            texts.append(one.text)
            labels.append(one.label)
    except OSError as error:
        raise InvalidRequest.of("tune_file", path=error.filename, reason=error.strerror) from None
    return texts, labels
