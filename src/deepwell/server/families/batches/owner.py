"""`payload_of`, `principal_of_job`: the limits that the lines of a batch are charged to, kept in the job that runs it."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from deepwell.server.access.principal import Principal
from deepwell.storage.database import LOCAL
from deepwell.storage.jobs import Job

__all__ = ["payload_of", "principal_of_job"]

_PRIORITY = -1  # of the engine requests: clients that wait for an answer go first


class _Owner(Struct, omit_defaults=True):
    """The key that made a batch. Jobs of older versions name none."""

    key_id: str = "batch"
    tokens_per_minute: int | None = None
    images_per_minute: int | None = None


def payload_of(principal: Principal) -> str:
    """Returns the payload of a job whose batch `principal` makes."""
    owner = _Owner(principal.key_id or "batch", principal.tokens_per_minute, principal.images_per_minute)
    return msgspec.json.encode(owner).decode()


def principal_of_job(job: Job) -> Principal:
    """Returns the principal of a batch's lines. Their use counts for its key if that has limits, or for its tenant."""
    owner = msgspec.json.decode(job.payload, type=_Owner)
    return Principal(
        job.tenant,
        "" if job.tenant == LOCAL else owner.key_id,
        priority=_PRIORITY,
        tokens_per_minute=owner.tokens_per_minute,
        images_per_minute=owner.images_per_minute,
    )
