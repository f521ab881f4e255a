"""The packs by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.safety.compliance.checks import Function, Pack, pack_of

__all__ = ["PACKS", "load"]

PACKS: Final = ("cn", "eu", "owasp")


@cache
def load(name: str) -> Pack:
    """Returns a pack.

    Raises:
        InvalidRequest: there is none of this name.
    """
    if name not in PACKS:
        raise InvalidRequest(f"there is no pack {name!r}", fix=f"choose one of {', '.join(PACKS)}")
    return pack_of(name, _functions(name))


def _functions(name: str) -> Mapping[str, Function]:
    from deepwell.safety.compliance import labels, logs, owasp, person, supply
    from deepwell.safety.compliance.cn import banks, sampled, terms

    tables: dict[str, Mapping[str, Function]] = {
        "cn": {
            **terms.FUNCTIONS,
            **banks.FUNCTIONS,
            **sampled.FUNCTIONS,
            **labels.FUNCTIONS,
            "pipl-export": person.export_works,
            "pipl-erase": person.erase_works,
            "logs-kept": logs.six_months,
        },
        "eu": {
            "gdpr-export": person.export_works,
            "gdpr-erase": person.erase_works,
            "gdpr-retention": person.retention_is_finite,
            "gdpr-records": person.places_are_complete,
            "aia-events": logs.events_are_recorded,
            "aia-six-months": logs.six_months,
            "aia-chain": logs.chains_hold,
            "aia-tamper": logs.tampering_is_found,
            **{f"aia-{id}": function for id, function in labels.FUNCTIONS.items()},
        },
        "owasp": {**owasp.FUNCTIONS, "llm03-models": supply.models_are_as_pulled},
    }
    return tables[name]
