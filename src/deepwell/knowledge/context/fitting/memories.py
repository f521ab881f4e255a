"""`Memories`: the forgotten turns of conversations, indexed once and kept between requests.

A request carries its whole conversation, so nothing has to be kept for an answer to be right: what is kept saves the time of
embedding the same turns again. A memory belongs to one tenant, one model and one conversation, which is known by its first
forgotten turn. One that differs from the request in any turn is made anew, so that a request recalls nothing but its own text.
A request that has forgotten less than an earlier one, because it leaves more room, recalls from the beginning of what is there.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from deepwell.knowledge.context.history import History, Recalled
from deepwell.knowledge.context.tokens import Tokens
from deepwell.knowledge.protocols import Embedder

__all__ = ["Forgotten", "Memories", "MemoryKey"]


@dataclass(frozen=True, slots=True)
class MemoryKey:
    """The owner of a memory: a tenant, and the model that counts its tokens."""

    tenant: str
    model: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The text of a message that the model does not read, and its identity."""

    role: str
    text: str
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        said = f"{self.role}\0{self.text}".encode("utf-8", "replace")
        object.__setattr__(self, "digest", hashlib.blake2b(said, digest_size=16).digest())


_ANSWERS: Final = (
    64  # recalls that a memory keeps: the passages of earlier questions are asked for at every turn
)

_Asked = tuple[int, str, int, int | None, frozenset[int]]


@dataclass(slots=True)
class _Memory:
    history: History
    digests: list[bytes] = field(default_factory=list[bytes])
    answers: OrderedDict[_Asked, Recalled] = field(default_factory=OrderedDict[_Asked, Recalled])
    # Held by a thread whose event loop does nothing else, so that waiting for it stalls nobody.
    lock: threading.Lock = field(default_factory=threading.Lock)


def _agree(known: Sequence[bytes], asked: Sequence[bytes]) -> bool:
    """Returns whether two runs of messages are equal as far as both go."""
    both = min(len(known), len(asked))
    return known[:both] == asked[:both]


_Place = tuple[str, str, str, bytes]


class Memories:
    """The memories of one process. The least recently used are dropped beyond the bounds.

    Args:
        most: conversations of all tenants together.
        most_of_tenant: conversations of one tenant.
        most_tokens: tokens of all memories together.
    """

    def __init__(self, *, most: int = 128, most_of_tenant: int = 32, most_tokens: int = 1 << 20) -> None:
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._most_tokens = most_tokens
        self._kept: OrderedDict[_Place, _Memory] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Returns the number of memories."""
        return len(self._kept)

    def clear(self) -> None:
        """Drops every memory: somebody's data were erased."""
        with self._lock:
            self._kept.clear()

    async def recall(
        self,
        key: MemoryKey,
        turns: Sequence[Forgotten],
        query: str,
        budget: int,
        *,
        tokens: Tokens,
        embedder: Embedder,
        focus: int | None = None,
        shown: frozenset[int] = frozenset(),
    ) -> Recalled:
        """Recalls from exactly these messages. Those that the memory does not know yet are added to it first.

        Called on a thread of its own; see `fit.Fitter`. A passage's `turn` is the number of its message in `turns`.

        Args:
            focus: see `History.recall`.
            shown: sentences that stand in front of earlier questions; see `History.recall`.
        """
        digests = [one.digest for one in turns]
        memory = self._of(key, digests, tokens, embedder)
        asked = (len(turns), query, budget, focus, shown)
        with memory.lock:
            if not _agree(memory.digests, digests):  # another request has just added to it
                memory = _Memory(History(tokens, embedder))
            if (known := memory.answers.get(asked)) is not None:
                memory.answers.move_to_end(asked)
                return known
            try:
                for number in range(len(memory.digests), len(turns)):
                    await memory.history.add(number, turns[number].text, turns[number].role)
                    memory.digests.append(digests[number])
            except BaseException:  # it may hold half of a message
                self._drop(memory)
                raise
            found = await memory.history.recall(query, budget, before=len(turns), shown=shown, focus=focus)
            memory.answers[asked] = found
            if len(memory.answers) > _ANSWERS:
                memory.answers.popitem(last=False)
        self._shrink(key.tenant)
        return found

    def _drop(self, memory: _Memory) -> None:
        with self._lock:
            for place in [place for place, one in self._kept.items() if one is memory]:
                del self._kept[place]

    def _of(self, key: MemoryKey, digests: Sequence[bytes], tokens: Tokens, embedder: Embedder) -> _Memory:
        place = (key.tenant, key.model, embedder.hash, digests[0])
        with self._lock:
            found = self._kept.get(place)
            if found is None or not _agree(found.digests, digests):
                found = self._kept[place] = _Memory(History(tokens, embedder))
            self._kept.move_to_end(place)
            return found

    def _shrink(self, tenant: str) -> None:
        with self._lock:
            own = [place for place in self._kept if place[0] == tenant]
            for place in own[: max(0, len(own) - self._most_of_tenant)]:
                del self._kept[place]
            tokens = sum(one.history.tokens for one in self._kept.values())
            while len(self._kept) > 1 and (len(self._kept) > self._most or tokens > self._most_tokens):
                _, gone = self._kept.popitem(last=False)
                tokens -= gone.history.tokens
