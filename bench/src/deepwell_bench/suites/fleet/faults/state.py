"""`deepwell bench fleet-faults-state`: a promoted standby, wrong clocks, and a full disk, with servers that share or do not."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.postgres import NAME, postgres_pair
from deepwell_bench.suites.fleet.faults.clocks import wrong_clocks
from deepwell_bench.suites.fleet.faults.disk import full_disk
from deepwell_bench.suites.fleet.faults.servers import Server, running
from deepwell_bench.suites.fleet.faults.work import Writers, begin_batch, begun, client, finished, missing

__all__ = ["bench_faults_state"]

_LINES: Final = 60
_AWAY_S: Final = 2.0


def bench_faults_state(report: Report, model: Path) -> dict[str, Any]:
    """Kills a primary and promotes its standby, sets clocks wrong by two hours, and fills the disk of one host.

    Raises:
        PeerError: PostgreSQL, haproxy or libfaketime are missing, or a server does not come back.
    """
    value: dict[str, Any] = {}
    for faults in (_promotion, wrong_clocks, full_disk):
        with tempfile.TemporaryDirectory(prefix="dw-faults-", ignore_cleanup_errors=True) as folder:
            value |= faults(model, Path(folder))
    value["lost"] = sum(found for name, found in value.items() if name.endswith("_lost"))
    value["untyped"] = sum(found for name, found in value.items() if name.endswith("_untyped"))
    report.table(
        "Faults of the state", ["figure", "value"], [[name, str(one)] for name, one in value.items()]
    )
    return value


def _promotion(model: Path, folder: Path) -> dict[str, Any]:
    """Kills the primary by SIGKILL while two servers write and a batch runs, and promotes the synchronous standby."""
    with postgres_pair() as (primary, standby):
        hosts = f"host={primary.folder}&host={standby.folder}&target_session_attrs=read-write"
        env = {"DEEPWELL_DATABASE_URL": f"postgresql://{NAME}@/postgres?{hosts}"}
        servers = [
            Server(name, model, folder / "data", folder / f"{name}.log", env) for name in ("one", "two")
        ]
        with running(*servers), client(servers[0].url) as http:
            with Writers([partial(client, one.url) for one in servers]) as writers:
                if not writers.until(60):
                    raise PeerError(f"nothing is written: {dict(writers.refused)}")
                batch = begin_batch(http, _LINES)
                begun(http, batch)
                before = len(writers.kept)
                primary.kill()
                time.sleep(_AWAY_S)
                standby.promote()
                promoted = time.monotonic()
                if not writers.until(60):
                    raise PeerError(f"nothing is written after the promotion: {dict(writers.refused)}")
                took = time.monotonic() - promoted
            lines = finished(http, batch)
            with client(servers[1].url) as other:
                lost = len(missing(http, writers.kept)) + len(missing(other, writers.kept[:before]))
    return {
        "promotion_acknowledged": len(writers.kept),
        "promotion_lost": lost + _LINES - lines,
        "promotion_refused": sum(writers.refused.values()),
        "promotion_untyped": writers.untyped + writers.broken,
        "promotion_gap_s": rounded(writers.longest_gap_s, 2),
        "promotion_60_writes_s": rounded(took, 2),
    }
