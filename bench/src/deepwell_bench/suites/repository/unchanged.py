"""This checkout beside an earlier commit: golden data, tests and assertions, the OpenAPI document, and stored data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.revisions import Revision, open_revision, this_checkout, tracked_blobs
from deepwell_bench.suites.repository.api_difference import compare_documents
from deepwell_bench.suites.repository.assertions import RENAMED, compare_scopes, missing_tests, scopes_of_tree
from deepwell_bench.suites.repository.stored import compare_stored

__all__ = ["PARTS", "bench_unchanged", "blob_id"]

GOLDEN_FOLDERS = ("tests", "bench/data")
_DOCUMENT = "import json; from {} import document; print(json.dumps(document()))"
_LISTED = 40  # differences of a part, printed in full


def bench_unchanged(
    report: Report, model: Path, *, against: str, parts: Sequence[str] = ()
) -> dict[str, Any]:
    """Compares this checkout with an earlier commit, part by part; all parts where none is named.

    Raises:
        PeerError: the commit's environment cannot be made, or one of the trees fails at a part.
    """
    old, new = open_revision(against, report.console), this_checkout()
    value: dict[str, Any] = {"against": old.name}
    for name in parts or PARTS:
        with report.console.status(f"{name}: {old.name} and this checkout"):
            value |= PARTS[name](report, old, new, model)
    return value


def blob_id(data: bytes) -> str:
    """Returns the id that git gives a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _golden(report: Report, old: Revision, new: Revision, model: Path) -> dict[str, Any]:
    blobs = {
        path: blob
        for path, blob in tracked_blobs(old.commit, GOLDEN_FOLDERS).items()
        if not path.endswith((".py", ".md"))
    }
    changed = [
        path
        for path, blob in blobs.items()
        if not (new.root / path).is_file() or blob_id((new.root / path).read_bytes()) != blob
    ]
    report.note(f"golden data: {len(blobs)} files compared, {len(changed)} different")
    _list(report, changed)
    return {"golden_files": len(blobs), "golden_different": len(changed)}


def _tests(report: Report, old: Revision, new: Revision, model: Path) -> dict[str, Any]:
    before, after = _collected(old), _collected(new)
    gone, fresh = missing_tests(before, after)
    report.note(f"tests: {len(before)} collected before, {len(gone)} of them missing now, {fresh} new")
    _list(report, gone)
    scopes = scopes_of_tree(old.root)
    differences, fresh_scopes = compare_scopes(scopes, scopes_of_tree(new.root))
    assertions = sum(len(scope.assertions) for scope in scopes)
    report.note("names read as renamed: " + (", ".join(f"{a} -> {b}" for a, b in RENAMED.items()) or "none"))
    different = sum(difference.count for difference in differences)
    report.note(
        f"assertions: {assertions} in {len(scopes)} functions and modules compared, {different} different in "
        f"{len(differences)} of them; {fresh_scopes} functions and modules are new"
    )
    _list(report, [line for difference in differences for line in difference.lines()])
    return {
        "tests": len(before),
        "tests_missing": len(gone),
        "tests_new": fresh,
        "assertions": assertions,
        "assertions_different": different,
    }


def _collected(revision: Revision) -> list[str]:
    said = revision.output(["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"])
    return [line for line in said.partition("\n\n")[0].splitlines() if "::" in line]


def _openapi(report: Report, old: Revision, new: Revision, model: Path) -> dict[str, Any]:
    before, after = (
        json.loads(revision.output(["-c", _DOCUMENT.format(revision.module("api_docs"))]))
        for revision in (old, new)
    )
    found = compare_documents(before, after)
    operations = sum(map(len, before["paths"].values()))
    components = len(before["components"]["schemas"])
    report.note(
        f"OpenAPI document: {operations} operations and {components} components compared, {len(found)} different"
    )
    _list(report, found)
    return {"operations": operations, "components": components, "openapi_different": len(found)}


def _list(report: Report, lines: Sequence[str]) -> None:
    for line in lines[:_LISTED]:
        report.note(f"  {line}")
    if len(lines) > _LISTED:
        report.note(f"  and {len(lines) - _LISTED} lines more")


PARTS: dict[str, Callable[[Report, Revision, Revision, Path], dict[str, Any]]] = {
    "golden": _golden,
    "tests": _tests,
    "openapi": _openapi,
    "stored": compare_stored,
}
