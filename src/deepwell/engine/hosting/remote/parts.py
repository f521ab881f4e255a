"""The common part of the kinds of servers: `Shape` makes the body of a request, its `Reader` reads the answer in `Part`s."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import msgspec

from deepwell.engine.hosting.remote.faults import bad_answer
from deepwell.engine.protocol import Ability, FinishReason, GenerateRequest, TokenLogprob

__all__ = [
    "Part",
    "Reader",
    "Shape",
    "decoded",
    "embedding_body",
    "entry_of",
    "finish_of",
    "salt_of",
    "seed_of",
]

_FINISH: Final[dict[str, FinishReason]] = {"stop": "stop", "length": "length", "abort": "abort"}
_SEEDS: Final = 1 << 63

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """One event of an answer.

    Attributes:
        stop_token: the token that ended the answer, which is not delivered; None: there is none, or the server does not say.
        prompt_tokens, cached_tokens: counts of the prompt; None: this event does not say.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_token: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class Reader(Protocol):
    """Reads the events of one answer, in their order."""

    def read(self, event: bytes) -> Part:
        """Returns what an event says.

        Raises:
            EngineUnavailable: it is not what a server of this kind sends.
            DeepwellError: it is the server's error.
        """
        ...


class Shape(Protocol):
    """The requests and answers of one kind of server, for one model.

    Attributes:
        kind: name of the kind.
        lacks: parts of the protocol that it cannot keep.
        path: where generations are asked for.
        waits: whether reading may wait for another process, so that it has to leave the event loop.
    """

    kind: str
    lacks: tuple[Ability, ...]
    path: str
    waits: bool

    def check(self, request: GenerateRequest) -> None:
        """Refuses what the server would not understand.

        Raises:
            InvalidRequest: the error names the parameter.
        """
        ...

    def body(self, request: GenerateRequest, *, stream: bool) -> dict[str, Any]:
        """Returns the request's body. `stream`: the answer comes in events, else in one."""
        ...

    def reader(self, request: GenerateRequest) -> Reader:
        """Returns a reader for the answer to a request."""
        ...

    def embedding(self, model: str, tokens: list[int]) -> dict[str, Any]:
        """Returns the body of a request to `/v1/embeddings`."""
        ...


def embedding_body(model: str, tokens: list[int]) -> dict[str, Any]:
    """Returns the body by which OpenAI-compatible servers embed tokens."""
    return {"model": model, "input": tokens, "encoding_format": "float"}


def decoded(data: bytes, kind: type[T], url: str) -> T:
    """Decodes JSON of a known form.

    Raises:
        EngineUnavailable: it is not JSON, or of another form.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise bad_answer(url, f"{error}") from None


def finish_of(reason: str | None, url: str) -> FinishReason | None:
    """Returns a reason to end as the protocol names it.

    Raises:
        EngineUnavailable: it is none that Deepwell knows.
    """
    if reason is None:
        return None
    if reason not in _FINISH:
        raise bad_answer(url, f"the finish reason {reason[:40]!r}")
    return _FINISH[reason]


def entry_of(
    token: int, logprob: float, others: Sequence[tuple[int, float]], alternatives: int
) -> TokenLogprob:
    """Returns the entry of a token. `others` are the alternatives in any order, perhaps with the token itself."""
    best = sorted(others, key=lambda one: -one[1])[:alternatives]
    rank = next((place for place, (other, _) in enumerate(best, 1) if other == token), 0)
    return TokenLogprob(token, logprob, rank, tuple(best))


def seed_of(request: GenerateRequest) -> int | None:
    """Returns the seed of a choice: the request's own for the first, another for each further one."""
    seed = request.params.seed
    if seed is None or request.choice == 0:
        return seed
    text = f"{seed} {request.choice}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") % _SEEDS


def salt_of(request: GenerateRequest) -> str:
    """Returns a digest of the request's salt, which tells nothing of it; empty if there is none."""
    salt = request.cache_salt
    return hashlib.sha256(salt.encode("utf-8", "surrogatepass")).hexdigest() if salt else ""
