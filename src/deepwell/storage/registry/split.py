"""The split of users between the model of an alias and its candidate, by hash: nothing is kept about anybody.

A user stays on one side for a whole roll-out, on every server, because the side follows from the roll-out's random id, the
tenant and the user alone. Another roll-out draws anew.
"""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["identity_of", "takes_candidate"]

_POINTS: Final = 1 << 64


def identity_of(end_user: str, key_id: str) -> str:
    """Returns the identity that a request is split by: its end user, else its key. Empty: it has neither."""
    if end_user:
        return f"user:{end_user}"
    return f"key:{key_id}" if key_id else ""


def takes_candidate(rollout: str, share: float, tenant: str, identity: str) -> bool:
    """Returns whether a user is one of the `share` (0 to 1) that gets the candidate.

    Without an identity nobody does: a person would meet another model with every request.
    """
    if not identity:
        return False
    # Lengths in front, so that no two users of two tenants have one text.
    text = f"{len(rollout)}:{rollout}{len(tenant)}:{tenant}{identity}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * _POINTS
