"""`hidden_kinds`: the kinds of jobs that a key may neither see nor end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deepwell.safety.privacy.rows import ERASE_JOB
from deepwell.server.access.principal import Principal
from deepwell.server.families.catalog.updates import UPDATES_JOB
from deepwell.server.families.catalog.worker import PULL_JOB
from deepwell.server.families.compliance.worker import COMPLIANCE_JOB
from deepwell.storage.knowledge.files import INGEST_JOB
from deepwell.storage.knowledge.sources import FOLLOW_JOB
from deepwell.storage.tuning.evals import EVAL_JOB
from deepwell.storage.tuning.fine_tuning import PARKED_JOB, TUNE_JOB
from deepwell.storage.tuning.works import COMPRESS_JOB, OPTIMISE_JOB

__all__ = ["hidden_kinds"]

_OF_NOBODY: Final = (ERASE_JOB,)
"""Kinds that are the operator's, although their rows name a tenant: it must not stop its own erasure."""

_SCOPES: Final[Mapping[str, str]] = {
    COMPLIANCE_JOB: "admin",
    PULL_JOB: "admin",
    UPDATES_JOB: "admin",
    INGEST_JOB: "files",
    FOLLOW_JOB: "files",
    TUNE_JOB: "tuning",
    PARKED_JOB: "tuning",
    EVAL_JOB: "tuning",
    OPTIMISE_JOB: "tuning",
    COMPRESS_JOB: "admin",
}
"""Scopes of the families that make the jobs, where they are not this family's own."""


def hidden_kinds(principal: Principal) -> tuple[str, ...]:
    """Returns the kinds that a key may not see: whoever may not ask for such work may neither read nor end it."""
    return (*_OF_NOBODY, *(kind for kind, scope in _SCOPES.items() if not principal.may(scope)))
