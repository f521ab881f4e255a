"""`FairQueue`: the order of waiting sequences. Higher ranks first, then fair shares of tenants by virtual time.

Each tenant has a number, the cost of its service so far, and the tenant with the smallest number is next (start-time fair
queueing, Goyal, Vin and Cheng 1996). The shares are those of deficit round robin, without a quantum to choose. Two tenants
that both keep waiting never drift further apart than one request of each. A request costs its prompt and the tokens that
it may generate.

Nothing here depends on a clock or on chance. The order affects when an answer comes, but never the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from deepwell.engine.core.sequence import Sequence

__all__ = ["FairQueue", "cost_of"]

_FORGET_ABOVE = 256  # idle tenants whose service a level remembers


def cost_of(sequence: Sequence) -> int:
    """Returns the tokens that a request may take: its prompt, and all that it may generate."""
    return sequence.num_prompt + sequence.max_tokens


class _Level:
    """The waiting sequences of one rank."""

    __slots__ = ("clock", "given", "queues", "returned")

    def __init__(self) -> None:
        self.returned: deque[Sequence] = (
            deque()
        )  # preempted sequences, which are already charged and come first
        self.queues: dict[str, deque[Sequence]] = {}  # queues of waiting tenants, in order of arrival
        self.given: dict[str, int] = {}  # service of each tenant, in virtual time
        self.clock = 0  # virtual start time of the last served request

    def append(self, sequence: Sequence) -> None:
        queue = self.queues.get(sequence.tenant)
        if queue is None:
            queue = self.queues[sequence.tenant] = deque()
            # A tenant cannot save up service while it is idle.
            self.given[sequence.tenant] = max(self.given.get(sequence.tenant, 0), self.clock)
        queue.append(sequence)

    def head(self) -> Sequence:
        if self.returned:
            return self.returned[0]
        return self.queues[self._next()][0]

    def pop(self) -> Sequence:
        if self.returned:
            return self.returned.popleft()
        tenant = self._next()
        sequence = self.queues[tenant].popleft()
        self.clock = self.given[tenant]
        self.given[tenant] += cost_of(sequence)
        self._tidy(tenant)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        queue = self.queues.get(sequence.tenant)
        if queue is not None and sequence in queue:
            queue.remove(sequence)
            self._tidy(sequence.tenant)
        else:
            self.returned.remove(sequence)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.returned
        for queue in self.queues.values():
            yield from queue

    def __bool__(self) -> bool:
        return bool(self.returned or self.queues)

    def _next(self) -> str:
        given = self.given
        return min(self.queues, key=given.__getitem__)  # on a tie, the tenant that has waited longer

    def _tidy(self, tenant: str) -> None:
        if not self.queues[tenant]:
            del self.queues[tenant]
        if len(self.given) - len(self.queues) > _FORGET_ABOVE:
            self.given = {
                name: given for name, given in self.given.items() if name in self.queues or given > self.clock
            }


class FairQueue:
    """Waiting sequences, in the order in which they will run."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}  # none is empty

    def append(self, sequence: Sequence) -> None:
        """Queues a sequence after those of its tenant and rank."""
        self._level(sequence.rank).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Queues a preempted sequence in front of its rank."""
        self._level(sequence.rank).returned.appendleft(sequence)

    def head(self) -> Sequence:
        """Returns the next sequence without removing it."""
        return self._levels[max(self._levels)].head()

    def pop(self) -> Sequence:
        """Removes and returns the next sequence, and charges its tenant."""
        rank = max(self._levels)
        level = self._levels[rank]
        sequence = level.pop()
        if not level:  # without waiting sequences there is no one to be fair to, so past service is forgotten
            del self._levels[rank]
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Removes a waiting sequence without charging its tenant.

        Raises:
            ValueError: the sequence does not wait.
        """
        level = self._levels.get(sequence.rank)
        if level is None:
            raise ValueError("the sequence does not wait")
        level.remove(sequence)
        if not level:
            del self._levels[sequence.rank]

    def waiting_by_tenant(self) -> tuple[tuple[str, int], ...]:
        """Returns the number of waiting sequences of priority 0 and above per tenant. Other threads may call it."""
        counts: dict[str, int] = {}
        for rank, level in list(self._levels.items()):
            if rank >= 0:
                for tenant, queue in list(level.queues.items()):
                    counts[tenant] = counts.get(tenant, 0) + len(queue)
        return tuple(counts.items())

    def __iter__(self) -> Iterator[Sequence]:
        for rank in sorted(self._levels, reverse=True):
            yield from self._levels[rank]

    def __contains__(self, sequence: object) -> bool:
        return any(sequence is one for one in self)

    def __len__(self) -> int:
        levels = list(self._levels.values())
        return sum(len(level.returned) + sum(map(len, list(level.queues.values()))) for level in levels)

    def __bool__(self) -> bool:
        return bool(self._levels)

    def _level(self, rank: int) -> _Level:
        level = self._levels.get(rank)
        if level is None:
            level = self._levels[rank] = _Level()
        return level
