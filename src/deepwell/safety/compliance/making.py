"""`make_report`: runs the checks of packs, and puts them together with the answers of people."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from deepwell.safety.compliance.answers import answered
from deepwell.safety.compliance.checks import Pack, Result, run
from deepwell.safety.compliance.context import Context
from deepwell.safety.compliance.packs import load
from deepwell.safety.compliance.report import PackReport, Report
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.safety.answers import AnswerStore
from deepwell.version import deepwell_version

__all__ = ["make_report"]


def make_report(names: Sequence[str], context: Context, database: Database) -> Report:
    """Returns the report of some packs. Blocks for seconds: for a thread, or without a loop.

    Raises:
        InvalidRequest: there is no pack of a name.
    """
    policy = context.policy
    facts = {
        "deepwell": deepwell_version(),
        "policy": "none" if policy is None else f"{policy.name}, sha256 {policy.hash}",
        "data_dir": str(context.settings.data_dir),
        "packs": ", ".join(names),
    }
    packs = [_pack_report(load(name), context, database) for name in names]
    return Report(datetime.now(UTC).isoformat(timespec="seconds"), facts, packs)


def _pack_report(pack: Pack, context: Context, database: Database) -> PackReport:
    runnable = [one for one in pack.checks if one.kind == "executable"]
    results: list[Result] = []
    for number, result in enumerate(run(runnable, context), 1):
        results.append(result)
        context.progress(f"pack {pack.name}", number, len(runnable))
    newest = asyncio.run(AnswerStore(database).newest(LOCAL, pack.name))
    return PackReport(pack, results, answered(pack.checks, newest))
