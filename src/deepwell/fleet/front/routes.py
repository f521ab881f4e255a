"""`Routes`: which release a request gets. One value, which a front takes over at once.

The rules, which every front follows:

1. Headers `x-deepwell-*` from outside are removed. Before that, `x-deepwell-release: candidate` asks for a preview.
2. A conversation that began on a release stays there as long as this release is kept.
3. Others are drawn as the server draws them: by the hash of roll-out, tenant and user (`storage/registry/split.py`), so that a
   vote counts on the side that its user had. A share of 1 takes those without an identity too.
4. The release that was chosen is passed on to the replica, and told to the client, as `x-deepwell-release`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from deepwell.safety.privacy.places import end_user_of
from deepwell.storage.database import LOCAL
from deepwell.storage.registry.split import identity_of, takes_candidate

__all__ = [
    "GENERATING",
    "RELEASE_HEADER",
    "SLOTS",
    "Asked",
    "KeyOwner",
    "Routes",
    "Slot",
    "asked_by",
    "choose",
]

Slot = Literal["blue", "green"]
"""The two places that a release can have. A roll-out fills the free one."""

SLOTS: Final[tuple[Slot, Slot]] = ("blue", "green")

RELEASE_HEADER: Final = "x-deepwell-release"

GENERATING: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/rerank",
    "/api/chat",
    "/api/generate",
    "/tokenize",
)
"""Paths whose requests may be sent again to another replica, as long as nothing of an answer has come."""

_SYSTEM: Final = ("system", "developer")


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The tenant and the id of an API key, as the server has them."""

    tenant: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Routes:
    """The releases, as a front knows them.

    Attributes:
        releases: name of the release in each slot that is in use.
        candidate: slot of the candidate; None: none is ready.
        rollout: id of the roll-out under way; empty: there is none.
        share: share of the users that get the candidate, 0 to 1.
        kept: slots whose conversations stay there. Those of a slot that is neither the current one nor the candidate go on
            there until it ends, but none begins.
        keys: owners of API keys by the SHA-256 of the key, in hex; None: the servers need no keys.
    """

    releases: Mapping[Slot, str]
    current: Slot = "blue"
    candidate: Slot | None = None
    rollout: str = ""
    share: float = 0.0
    kept: frozenset[Slot] = frozenset(SLOTS)
    keys: Mapping[str, KeyOwner] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as a front reads it.

    Attributes:
        conversation: what tells a conversation from others, as one text; empty: the request belongs to none.
        affinity: what requests with the same beginning of a prompt have in common; empty: nothing is known.
        begins: whether it is the first turn of a chat. Another one may have begun with the same words.
    """

    tenant: str
    identity: str
    conversation: str
    affinity: str
    preview: str = ""
    begins: bool = False


def asked_by(path: str, body: Any, key: bytes, preview: str, keys: Mapping[str, KeyOwner] | None) -> Asked:
    """Reads a request.

    Args:
        body: the decoded body; anything but an object counts as none.
        key: the API key; empty: none.
    """
    told: Mapping[str, Any] = body if isinstance(body, dict) else {}
    owner = KeyOwner(LOCAL, "")
    if keys is not None:
        owner = keys.get(hashlib.sha256(key).hexdigest(), KeyOwner("", ""))
    identity = identity_of(end_user_of(told), owner.key_id) if owner.tenant else ""
    first, second = _beginning(told)
    talk = _talk(told)
    conversation = ""
    if talk or first:
        conversation = "\0".join((owner.tenant, identity, talk or f"{first}\0{second}"))
    elif path.startswith("/v1/responses") and identity:
        # A chain of responses names the one before, which no front has seen made: its user stays on one side
        conversation = f"{owner.tenant}\0{identity}"
    model = told.get("model")
    affinity = f"{model}\0{first}\0{second}" if first else ""
    begins = bool(first) and not talk and not _goes_on(told)
    return Asked(owner.tenant, identity, conversation, affinity, preview, begins)


def choose(routes: Routes, asked: Asked, kept_on: Slot | None) -> Slot:
    """Returns the slot that a request goes to.

    Args:
        kept_on: slot that its conversation went to before.
    """
    candidate = routes.candidate
    if asked.preview == "candidate" and candidate is not None:
        return candidate
    if asked.preview == "current":
        return routes.current
    ends = kept_on not in (routes.current, candidate)
    if kept_on is not None and kept_on in routes.kept and not (ends and asked.begins):
        return kept_on
    if candidate is not None and (
        routes.share >= 1
        or (asked.identity and takes_candidate(routes.rollout, routes.share, asked.tenant, asked.identity))
    ):
        return candidate
    return routes.current


def _talk(told: Mapping[str, Any]) -> str:
    talk: Any = told.get("conversation")
    if isinstance(talk, dict):
        talk = talk.get("id")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return talk if isinstance(talk, str) else ""


def _beginning(told: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the first message, and the second one if the first is the system's: later turns begin with the same."""
    messages: Any = told.get("messages")
    if not isinstance(messages, list) or not messages:
        return "", ""
    some: list[Any] = messages[:2]  # pyright: ignore[reportUnknownVariableType]
    first, second = [*map(_content, some), ""][:2]
    system = isinstance(some[0], dict) and some[0].get("role") in _SYSTEM  # pyright: ignore[reportUnknownMemberType]
    return first, second if system else ""


def _goes_on(told: Mapping[str, Any]) -> bool:
    """Tells whether a chat has a message behind its first one, or its first two if that is the system's."""
    messages: list[Any] = told["messages"]
    behind = 2 if isinstance(messages[0], dict) and messages[0].get("role") in _SYSTEM else 1  # pyright: ignore[reportUnknownMemberType]
    found = messages[behind] if len(messages) > behind else None
    return isinstance(found, dict) and isinstance(found.get("role"), str)  # pyright: ignore[reportUnknownMemberType]


def _content(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(content, list):
        texts: list[Any] = content  # pyright: ignore[reportUnknownVariableType]
        content = next(
            (one["text"] for one in texts if isinstance(one, dict) and isinstance(one.get("text"), str)), ""
        )  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return content if isinstance(content, str) else ""
