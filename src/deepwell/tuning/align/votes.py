"""Curation of votes: what people said of answers becomes data to train on and data to judge by, with an account of each vote.

Votes are data from strangers. One user who votes a lot, or for the same answer again and again, must not decide what a
model learns: repeated votes count once, users who disagree about an answer are counted by heads, and each user keeps a
limited number and share of the votes. Users are in one part alone, and no prompt of the held-out part is trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from deepwell.errors import InvalidRequest
from deepwell.tuning.data.near_duplicates import near_duplicates
from deepwell.tuning.data.records import content_text
from deepwell.tuning.data.report import DataReport, Example

__all__ = ["DROP_REASONS", "Curated", "CurationLimits", "Vote", "curate", "is_held_out"]

DROP_REASONS: Final = (
    "no_prompt",
    "no_answer",
    "replaced",
    "duplicate",
    "outvoted",
    "disputed",
    "user_limit",
    "user_share",
    "held_out_prompt",
)
"""Reasons for which a vote is dropped, in the order in which they are looked for."""

_Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Vote:
    """One user's opinion of one answer.

    Attributes:
        prompt: OpenAI chat messages in front of the answer, the oldest first.
        answer: the text of the answer.
        desirable: whether the user liked it.
        user: name of the user; empty: unknown, and all votes of unknown users count as those of one.
        correction: the answer that the user would have liked.
        source: where the vote comes from, such as the id of the feedback or the name of a file.
    """

    prompt: tuple[dict[str, Any], ...]
    answer: str
    desirable: bool
    user: str
    correction: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class CurationLimits:
    """Limits of what one user can do to the data, and the size of the held-out part.

    Attributes:
        max_votes_per_user: most votes that are kept of one user, the newest of them.
        max_user_share: greatest share of one user in the votes to train on. A share of 0.25 needs at least four users.
        max_user_share_held_out: greatest share of one user in the held-out votes. A share of 0.5 needs at least two users.
        held_out_share: share of the users whose votes are held out.
        salt: text that decides which users are held out. The same salt holds out the same users in every round.
        min_similarity: least Jaccard similarity of near-duplicates, of the prompts and of the answers.

    Raises:
        InvalidRequest: a limit is out of its range.
    """

    max_votes_per_user: int = 100
    max_user_share: float = 0.25
    max_user_share_held_out: float = 0.5
    held_out_share: float = 0.2
    salt: str = ""
    min_similarity: float = 0.9

    def __post_init__(self) -> None:
        """Checks the ranges."""
        ranges = (
            ("max_votes_per_user", self.max_votes_per_user >= 1, "a number of at least 1"),
            ("max_user_share", 0 < self.max_user_share <= 1, "above 0 and at most 1"),
            ("max_user_share_held_out", 0 < self.max_user_share_held_out <= 1, "above 0 and at most 1"),
            ("held_out_share", 0 <= self.held_out_share < 1, "from 0 to below 1"),
            ("min_similarity", 0 < self.min_similarity <= 1, "above 0 and at most 1"),
        )
        for name, holds, range_ in ranges:
            if not holds:
                raise InvalidRequest(f"{name} is {getattr(self, name)}", fix=f"give one {range_}", param=name)


@dataclass(frozen=True, slots=True)
class Curated:
    """Votes that are fit for use.

    Attributes:
        train: votes to train on, in the order of their arrival.
        held_out: votes to judge a candidate by, of other users and about other prompts.
        report: what became of each vote; the line of an example is the place of the vote, from 1.
    """

    train: tuple[Vote, ...]
    held_out: tuple[Vote, ...]
    report: DataReport

    def to_json(self) -> dict[str, Any]:
        """Returns the sizes of the parts and the report as plain values."""
        parts = {"train": self.train, "held_out": self.held_out}
        sizes = {
            name: {
                "votes": len(votes),
                "desirable": sum(one.desirable for one in votes),
                "corrections": sum(one.correction is not None for one in votes),
                "users": len({one.user for one in votes}),
            }
            for name, votes in parts.items()
        }
        return {**sizes, **self.report.to_json()}


def curate(votes: Sequence[Vote], limits: CurationLimits | None = None) -> Curated:
    """Returns the votes that are fit to train on and to judge by. The same votes and limits give the same parts everywhere.

    In this order: votes without a prompt or an answer are dropped; of a user's votes for one answer the newest counts; of
    near-duplicates, which have near-duplicate prompts and answers, one vote is kept, of the opinion that more users share,
    and none if as many users have the other; users are split by a hash of their names; each user keeps the newest votes up
    to the limits; votes to train on whose prompt is a near-duplicate of a held-out prompt are dropped.

    Args:
        votes: in the order of their arrival.
        limits: None: the defaults.
    """
    return _Curation(votes, limits or CurationLimits()).run()


def is_held_out(user: str, share: float, salt: str = "") -> bool:
    """Tells whether the votes of a user are held out, by a hash of the name: for a `share` of all users."""
    digest = sha256(f"{salt}\0{user}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * (1 << 64)


class _Curation:
    """The state of one curation: the places of the votes that are still in."""

    def __init__(self, votes: Sequence[Vote], limits: CurationLimits) -> None:
        self._votes = votes
        self._limits = limits
        self._dropped: dict[int, tuple[str, str]] = {}
        self._prompts: dict[
            int, int
        ] = {}  # the vote that stands for the prompt of each, near-duplicates together

    def run(self) -> Curated:
        """Runs all steps."""
        self._drop_unusable()
        self._drop_replaced()
        self._drop_duplicates()
        self._drop_above_number()
        self._drop_above_share()  # before prompts are held out, so that a flood holds out few
        self._drop_held_out_prompts([place for place in self._left() if self._is_held_out(place)])
        self._drop_above_share()  # of what is left
        held_out = [place for place in self._left() if self._is_held_out(place)]
        train = [place for place in self._left() if not self._is_held_out(place)]
        return Curated(self._of(train), self._of(held_out), self._report(len(train) + len(held_out)))

    def _drop_unusable(self) -> None:
        for place, vote in enumerate(self._votes):
            if not any(content_text(one).strip() for one in _spoken(vote.prompt)):
                self._drop(place, "no_prompt")
            elif not vote.answer.strip():
                self._drop(place, "no_answer")

    def _drop_replaced(self) -> None:
        """Drops all but the newest of the votes that a user gave for one answer."""
        newest: dict[tuple[str, str, str], int] = {}
        for place in self._left():
            vote = self._votes[place]
            key = (vote.user, _prompt_text(vote), vote.answer.strip())
            before = newest.get(key)
            if before is not None:
                self._drop(before, "replaced", self._named(place))
            newest[key] = place

    def _drop_duplicates(self) -> None:
        """Keeps one vote of those about nearly the same answer to nearly the same prompt."""
        left = list(self._left())
        self._prompts = self._leaders(left, [_prompt_text(self._votes[place]) for place in left])
        answers = self._leaders(left, [self._votes[place].answer for place in left])
        alike: dict[tuple[int, int], list[int]] = {}
        for place in left:
            alike.setdefault((self._prompts[place], answers[place]), []).append(place)
        counts = Counter(self._votes[place].user for place in left)
        for places in alike.values():
            if len(places) > 1:
                self._settle(places, counts)

    def _settle(self, places: Sequence[int], counts: Counter[str]) -> None:
        """Keeps one of some votes about one answer, of the opinion of most users; each user has the newest of his opinions."""
        newest = {self._votes[place].user: place for place in places}  # in order of arrival
        likes = sum(self._votes[place].desirable for place in newest.values())
        dislikes = len(newest) - likes
        if likes == dislikes:
            for place in places:
                self._drop(place, "disputed", f"{likes}:{dislikes}")
            return
        opinion = likes > dislikes
        # Of the user with the fewest votes, so that a flood of votes takes none from the others.
        agreeing = [place for place in newest.values() if self._votes[place].desirable == opinion]
        kept = min(agreeing, key=lambda place: (counts[self._votes[place].user], place))
        for place in places:
            if place != kept:
                same = self._votes[place].desirable == opinion
                self._drop(place, "duplicate" if same else "outvoted", self._named(kept))

    def _drop_above_number(self) -> None:
        """Drops the oldest votes of users who have more than a user may have."""
        most = self._limits.max_votes_per_user
        for places in self._by_user():
            for place in places[:-most]:
                self._drop(place, "user_limit", str(most))

    def _drop_above_share(self) -> None:
        """Drops the oldest votes of users who have a greater share of a part than a user may have."""
        limits = ((False, self._limits.max_user_share), (True, self._limits.max_user_share_held_out))
        for held_out, share in limits:
            users = [places for places in self._by_user() if self._is_held_out(places[0]) == held_out]
            most = _most_by_share([len(places) for places in users], share)
            for places in users:
                for place in places[: max(0, len(places) - most)]:
                    self._drop(place, "user_share", f"{most} = {share:g}")

    def _by_user(self) -> list[list[int]]:
        found: dict[str, list[int]] = {}
        for place in self._left():
            found.setdefault(self._votes[place].user, []).append(place)
        return list(found.values())

    def _drop_held_out_prompts(self, held_out: Iterable[int]) -> None:
        prompts = {self._prompts[place]: place for place in held_out}
        for place in list(self._left()):
            twin = prompts.get(self._prompts[place])
            if twin is not None and not self._is_held_out(place):
                self._drop(place, "held_out_prompt", self._named(twin))

    def _leaders(self, places: Sequence[int], texts: Sequence[str]) -> dict[int, int]:
        """Returns for each place that of the first vote whose text is nearly the same."""
        if not places:
            return {}
        dropped = near_duplicates(texts, self._limits.min_similarity).dropped
        return {
            place: places[dropped[index].kept if index in dropped else index]
            for index, place in enumerate(places)
        }

    def _is_held_out(self, place: int) -> bool:
        return is_held_out(self._votes[place].user, self._limits.held_out_share, self._limits.salt)

    def _left(self) -> Iterator[int]:
        return (place for place in range(len(self._votes)) if place not in self._dropped)

    def _of(self, places: Iterable[int]) -> tuple[Vote, ...]:
        return tuple(self._votes[place] for place in places)

    def _named(self, place: int) -> str:
        return self._votes[place].source or str(place + 1)

    def _drop(self, place: int, reason: str, detail: str = "") -> None:
        self._dropped[place] = (reason, detail)

    def _report(self, kept: int) -> DataReport:
        report = DataReport(read=len(self._votes), kept=kept)
        for place in sorted(self._dropped):
            reason, detail = self._dropped[place]
            report.drop(reason, Example(place + 1, self._votes[place].source, detail))
        report.check()
        return report


def _most_by_share(counts: Sequence[int], share: float) -> int:
    """Returns the most votes that each user may keep, so that none has more than a share of the votes that all keep."""
    low, high = 0, max(counts, default=0)
    while low < high:
        # If m votes fit the share, so do m - 1: min(n, m) / m falls as m rises.
        middle = (low + high + 1) // 2
        total = sum(min(count, middle) for count in counts)
        if middle <= share * total * (1 + 1e-12):
            low = middle
        else:
            high = middle - 1
    return low


def _spoken(messages: Iterable[_Message]) -> Iterator[_Message]:
    return (one for one in messages if one.get("role") not in ("system", "developer"))


def _prompt_text(vote: Vote) -> str:
    """Returns what was said in front of the answer, by whom; two prompts are alike by it."""
    return "\n".join(f"{one.get('role', '')}: {content_text(one).strip()}" for one in _spoken(vote.prompt))
