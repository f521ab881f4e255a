"""The cases of failing guards: each failure in each layer, both ends and ways, under policies that are valid."""

from __future__ import annotations

import json
from pathlib import Path

from deepwell.safety.policy import Policy
from deepwell_bench.suites.safety.failures import cases, policy_of


def test_every_failure_is_tried_in_every_layer_that_can_have_it() -> None:
    found = cases()
    assert len(found) == len({one.name for one in found}) == 92
    pairs = {(one.failure, one.layer) for one in found}
    assert {layer for _, layer in pairs} == {"input", "context", "output"}
    assert ("late", "output") not in pairs and len(pairs) == 23


def test_policies_declare_the_end_of_the_case_for_its_layer(tmp_path: Path) -> None:
    for one in cases():
        path = tmp_path / "policy.json"
        path.write_text(json.dumps(policy_of(one, "http://127.0.0.1:9/v1/moderations")), encoding="utf-8")
        policy = Policy.load(path)
        outside = policy.external.get("own")
        declared = policy.on_failure(one.layer) if outside is None else outside.on_failure
        assert declared == one.declared, one.name
