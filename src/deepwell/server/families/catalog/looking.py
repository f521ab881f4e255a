"""`python -m deepwell.server.families.catalog.looking`: asks for new revisions of stored models for a server, and ends with it.

It is told and tells as `child` does, and for the same reasons.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deepwell.errors import DeepwellError
from deepwell.models.revisions.look import look_for_updates
from deepwell.models.store.catalog import CatalogEntry
from deepwell.models.store.store import ModelStore
from deepwell.server.families.catalog.child import Told, run_order

__all__ = ["LookOrder"]


class LookOrder(msgspec.Struct):
    """An order to look for new revisions. `entries` are those of a catalog of one's own."""

    models_dir: str
    offline: bool
    entries: dict[str, CatalogEntry]


def _look(order: LookOrder, told: Told) -> dict[str, Any]:
    store = ModelStore(Path(order.models_dir))

    def progress(done: int, total: int) -> None:
        told.note({"done": done, "total": total, "unit": "sources"})

    try:
        report = look_for_updates(store, catalog=order.entries, offline=order.offline, progress=progress)
        store.root.mkdir(parents=True, exist_ok=True)
        report.write(store.root)
    except DeepwellError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"the model store cannot be written: {error}"}
    states = [model.state for model in report.models]
    return {
        "result": {
            "checked": report.checked,
            "models": len(states),
            "new": [model.name for model in report.models if model.state == "new"],
            "unasked": states.count("unasked"),
        }
    }


if __name__ == "__main__":
    run_order(LookOrder, _look)
