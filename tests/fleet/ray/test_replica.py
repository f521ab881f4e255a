"""A replica refuses to serve where `deepwell serve` would."""

from __future__ import annotations

import pytest

from deepwell.errors import InvalidRequest
from deepwell.fleet.ray.replica import Replica
from deepwell.process.confinement import launch


def test_a_replica_refuses_where_required_confinement_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = launch.Walls("none", "user namespaces: Operation not permitted", 4, filtered=True)
    monkeypatch.setattr(launch, "walls", lambda: weak)
    with pytest.raises(InvalidRequest, match="Operation not permitted"):
        Replica({"confinement": "required", "model": "nowhere"})
