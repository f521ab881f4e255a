"""The OWASP pack: a strict configuration passes, an open one fails, and a broken detector is no pass."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.safety.compliance.conftest import Make

from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.safety.compliance import owasp, supply
from deepwell.safety.compliance.probes import ATTACKS, BENIGN, secrets_of
from deepwell.safety.guard import Guard

STRICT = """version: 1
extends: strict
input: {rules: {patterns: block}}
context: {rules: {patterns: block}}
output:
  rules: {patterns: redact, personal: redact, secret: redact}
"""
LIMITS = {"requests_per_minute": 60, "tokens_per_minute": 60_000}
GUARDED = [id for id in owasp.FUNCTIONS if id not in ("llm08-tenants", "llm10-limits", "llm01-harmless")]


@pytest.mark.parametrize("id", GUARDED)
def test_a_strict_policy_stops_what_an_open_one_lets_through(make: Make, id: str):
    outcome = owasp.FUNCTIONS[id](make(STRICT))
    assert outcome.status == "pass", outcome
    assert owasp.FUNCTIONS[id](make("open")).status == "fail"
    assert owasp.FUNCTIONS[id](make(None)).status == "fail"


def test_harmless_requests_pass_under_a_policy_that_blocks_attacks_alone(make: Make):
    lax = "version: 1\nextends: open\ninput: {rules: {patterns.ignore_instructions: block}}\n"
    assert owasp.harmless_requests(make(lax)).status == "pass"
    assert owasp.harmless_requests(make(None)).status == "pass"
    blocking = make("version: 1\nextends: open\n", [("chess", "illicit", "block")])
    strict = make(
        "version: 1\nextends: open\ninput: {rules: {terms: block}}\n", [("chess", "illicit", "block")]
    )
    assert owasp.harmless_requests(blocking).status == "pass"
    outcome = owasp.harmless_requests(strict)
    assert outcome.status == "fail"
    assert "chess" in str(outcome.facts[1].value)


@pytest.mark.parametrize("policy", ["standard", "strict"])
def test_harmless_requests_pass_under_the_presets(make: Make, policy: str):
    outcome = owasp.harmless_requests(make(policy))
    assert outcome.status == "pass", outcome


def test_a_detector_that_does_not_work_is_no_pass(make: Make):
    context = make(STRICT)
    assert context.guard is not None
    lacking = Guard(context.guard.detectors, context.guard.policy, {"input": ["terms:other"]})
    outcome = owasp.injection(replace(context, guard=lacking))
    assert outcome.status == "fail"
    assert "terms:other" in str(outcome.facts[-1].value)


def test_tenants_are_apart(make: Make, monkeypatch: pytest.MonkeyPatch):
    from deepwell.storage.knowledge.stores import VectorStores

    assert owasp.isolation(make()).status == "pass"
    own = VectorStores.get

    async def shared(self, _tenant, id):
        return await own(self, "check-a", id)  # type: ignore[arg-type]

    monkeypatch.setattr(VectorStores, "get", shared)
    assert owasp.isolation(make()).status == "fail"


@pytest.mark.parametrize("name", [*LIMITS, "request_timeout_s", "max_wait_s"])
def test_every_limit_has_to_be_set(make: Make, name: str):
    assert owasp.limits(make(settings=LIMITS)).status == "pass"
    assert owasp.limits(make(settings=LIMITS | {name: 0})).status == "fail"


def test_a_body_without_a_bound_fails(make: Make):
    assert owasp.limits(make(settings=LIMITS | {"max_body_bytes": 1 << 30})).status == "fail"


def test_probes_are_many_and_distinct():
    assert len(set(ATTACKS)) >= 10 and len(set(BENIGN)) >= 10
    assert secrets_of(1) == secrets_of(1) != secrets_of(2)


def stored_model(folder: Path, text: bytes = b"weights") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(text)
    files = (ModelFile("config.json", len(text), hashlib.sha256(text).hexdigest()),)
    Manifest("toy", "pypi:toy", "1", "MIT", "llama", None, "2026-01-01", files).write(folder)


def test_the_served_models_are_compared_with_their_manifests(make: Make, tmp_path: Path):
    root = tmp_path / "models"
    settings = {"models_dir": root, "model": "toy"}
    assert supply.models_are_as_pulled(make(settings=settings)).status == "fail"
    stored_model(root / "toy")
    outcome = supply.models_are_as_pulled(make(settings=settings))
    assert outcome.status == "pass"
    assert "1 files, 7 bytes, from pypi:toy 1" in str(outcome.facts[0].value)
    other = supply.models_are_as_pulled(make(settings=settings | {"embedding_model": "none"}))
    assert other.status == "fail"
    for changed in (b"wEights", b"weights and more"):
        (root / "toy" / "config.json").write_bytes(changed)
        outcome = supply.models_are_as_pulled(make(settings=settings))
        assert outcome.status == "fail"
        assert "DIFFERENT: config.json" in str(outcome.facts[0].value)
    outside = supply.models_are_as_pulled(make(settings=settings | {"model": f"{root}/toy/"}))
    assert outside.status == "fail"
