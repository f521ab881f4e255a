"""`requirements.lock` is the base install and its extras by hash, from no index in particular, and within the floors."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKED_EXTRAS = ("postgres", "valkey", "otel", "knowledge", "s3", "agents")
TEXT = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked() -> dict[str, list[str]]:
    """Versions by name: one for each Python that a marker names."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", TEXT, re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


def wanted() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(one for extra in LOCKED_EXTRAS for one in extras[extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", wanted(), ids=lambda one: one.name)
def test_the_lock_has_every_dependency_within_its_range(requirement: Requirement) -> None:
    versions = locked().get(canonicalize_name(requirement.name))
    assert versions, f"{requirement.name} is not locked: run `make lock`"
    assert all(requirement.specifier.contains(version) for version in versions), "run `make lock`"


def test_every_locked_release_has_hashes_and_no_address() -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", TEXT.strip())
    assert len(entries) >= len(locked()) > 40
    for entry in entries:
        hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}(?= |$)", entry, re.MULTILINE)
        assert hashes and len(hashes) == entry.count("--hash="), entry.split("==")[0]
    assert "://" not in TEXT and "--index" not in TEXT and "--find-links" not in TEXT


def test_what_only_training_needs_is_not_locked() -> None:
    assert not {"torch", "transformers", "peft"} & locked().keys()


def test_vulnerable_releases_are_out_of_range() -> None:
    floors = {canonicalize_name(one.name): one.specifier for one in wanted()}
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| ([a-z0-9, -]+?)(?: \([^|]*\))? \| ([0-9., ]+) \| [^|]*(?:CVE|GHSA|PYSEC)", page, re.MULTILINE
    )
    assert len(rows) >= 10
    for names, versions in rows:
        for name, floor in zip(names.split(", "), versions.split(", "), strict=True):
            assert f">={floor}" in str(floors[canonicalize_name(name)]), name
