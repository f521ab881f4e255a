"""Live sources: asked at query time, their results are passages like any other."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deepwell.errors import DeepwellError, SourceError
from deepwell.knowledge.documents import Attribute, Passage

__all__ = ["LiveAnswers", "LiveSource", "Result", "ask_all", "passages_of"]


class LiveSource(Protocol):
    """A source that answers questions itself.

    Attributes:
        name: its name; the file of its passages is `live:NAME`.
    """

    name: str

    async def ask(self, question: str, limit: int) -> list[Passage]:
        """Returns at most `limit` passages for a question, best first, within the source's time-out.

        Raises:
            SourceError: it does not answer, in time or as it should.
        """
        ...

    async def close(self) -> None:
        """Closes its connections."""
        ...


@dataclass(frozen=True, slots=True)
class LiveAnswers:
    """The answers of several live sources.

    Attributes:
        passages: best first within each source, the sources in their order.
        errors: what went wrong, by name of the source. The other sources' passages are there all the same.
    """

    passages: tuple[Passage, ...] = ()
    errors: Mapping[str, DeepwellError] = field(default_factory=dict)


async def ask_all(sources: Sequence[LiveSource], question: str, limit: int = 10) -> LiveAnswers:
    """Asks all sources at once. One that fails or is late is an error beside the others' passages."""

    async def ask(source: LiveSource) -> list[Passage] | DeepwellError:
        try:
            return await source.ask(question, limit)
        except DeepwellError as error:
            return error
        except Exception as error:  # whatever a stranger's answer does, the search goes on
            return SourceError(f"live source {source.name} failed: {type(error).__name__}", fix="see the log")

    answers = await asyncio.gather(*(ask(source) for source in sources))
    passages: list[Passage] = []
    errors: dict[str, DeepwellError] = {}
    for source, answer in zip(sources, answers, strict=True):
        if isinstance(answer, DeepwellError):
            errors[source.name] = answer
        else:
            passages += answer
    return LiveAnswers(tuple(passages), errors)


@dataclass(frozen=True, slots=True)
class Result:
    """One result of a live source, as it came.

    Attributes:
        score: the source's own score; None if it gives none.
        attributes: what else it says.
    """

    text: str
    title: str = ""
    link: str = ""
    score: float | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def passages_of(name: str, results: Sequence[Result], limit: int, max_chars: int) -> list[Passage]:
    """Returns the passages of results that have a text. Their keys are negative, and the same for the same result.

    A score is divided by the best one, if that is above 1. Without scores the n-th result gets 1/n. A longer text than
    `max_chars` is cut, and its attribute `truncated` says so.
    """
    found = [result for result in results if result.text.strip()][:limit]
    best = max((result.score for result in found if result.score is not None), default=0.0)
    passages: list[Passage] = []
    for rank, result in enumerate(found, start=1):
        score = 1.0 / rank if result.score is None else max(0.0, result.score) / max(1.0, best)
        attributes: dict[str, Attribute] = {**result.attributes, "live": True}
        if result.link:
            attributes["url"] = result.link
        if result.title:
            attributes["title"] = result.title
        text = result.text
        if len(text) > max_chars:
            text = text[:max_chars]
            attributes["truncated"] = True
        identity = f"{name}\0{result.link}\0{result.title}\0{text}".encode("utf-8", "replace")
        key = -1 - int.from_bytes(hashlib.sha256(identity).digest()[:7])
        passages.append(
            Passage(
                key=key,
                file_id=f"live:{name}",
                filename=result.title or result.link or name,
                score=score,
                text=text,
                end=len(text),
                attributes=attributes,
            )
        )
    return passages
