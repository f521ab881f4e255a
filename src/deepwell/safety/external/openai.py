"""OpenAI's `POST /v1/moderations`, as other servers have it too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from deepwell.safety.external.shape import BadAnswer, Credentials, Sent, Verdict, bounded

__all__ = ["OpenAIShape"]


class OpenAIShape:
    """Asks `/moderations` of a base URL such as `https://api.openai.com/v1`. Categories keep their names."""

    most_characters = 20_000

    def __init__(self, credentials: Credentials, model: str = "omni-moderation-latest") -> None:
        self._credentials = credentials
        self._model = model

    def request(self, text: str, layer: Literal["input", "context", "output"], host: str) -> Sent:
        """Returns the request."""
        headers = {"content-type": "application/json"}
        if self._credentials.key:
            headers["authorization"] = f"Bearer {self._credentials.key}"
        body = json.dumps({"model": self._model, "input": text}, ensure_ascii=False)
        return Sent("/moderations", headers, body.encode("utf-8", "replace"))

    def verdicts(self, answer: Any) -> Sequence[Verdict]:
        """Returns the flagged categories."""
        try:
            result = answer["results"][0]
            flagged, scores = result["categories"], result["category_scores"]
            return [
                Verdict(name, name, bounded(float(scores[name])))
                for name, is_flagged in flagged.items()
                if is_flagged is True
            ]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise BadAnswer("it has no results with categories and category_scores") from None
