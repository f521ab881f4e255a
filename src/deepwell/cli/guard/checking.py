"""`deepwell guard check`, `scan` and `policy`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counting
from deepwell.errors import InvalidRequest

if TYPE_CHECKING:
    from deepwell.safety.findings import Decision, Layer
    from deepwell.safety.guard import Guard
    from deepwell.safety.policy import Policy

__all__ = ["check", "policy", "scan"]

_WINDOW = 16_384  # characters of a file that are read at a time
_OVERLAP = 512
_MOST_BYTES = 64 << 20

PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="Policy to apply: open, standard, strict, cn-public, or a YAML file.",
    ),
]
LayerOption = Annotated[
    str,
    typer.Option(
        "--layer",
        help="Place of the text: input (of users), context (from searches and tools) or output (of the model).",
    ),
]
TenantOption = Annotated[
    str, typer.Option("--tenant", help="Tenant whose own rules of the policy apply as well.")
]


def check(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="Text to check; - reads it from standard input.")
    ],
    policy: PolicyOption = "standard",
    layer: LayerOption = "input",
    tenant: TenantOption = "",
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Show what the guard would do with a text, and why. The status is 3 if it would be blocked."""
    with reported_errors(as_json=json):
        guard = _guard(policy, models_dir)
        given = sys.stdin.read() if text == "-" else text
        decision = guard.check(given, _layer(layer), tenant)
        if json:
            write_json(_body(decision, given))
        else:
            _tell(decision, given)
    if decision.action == "block":
        raise typer.Exit(3)


def scan(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Text files, or folders of them.")],
    policy: PolicyOption = "standard",
    layer: LayerOption = "context",
    tenant: TenantOption = "",
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Read files with the guard, such as documents or training data. The status is 3 if anything would be blocked."""
    blocked = 0
    with reported_errors(as_json=json):
        guard, place = _guard(policy, models_dir), _layer(layer)
        files = sorted(set(_files(paths)))
        rows: list[dict[str, Any]] = []
        with counting("reading", len(files), shown=not json) as advance:
            for path in files:
                row = _scanned(guard, path, place, tenant)
                rows.append(row)
                blocked += row["action"] == "block"
                if not json and (row["action"] != "allow" or row.get("error")):
                    told = row.get("error") or _summary(row["findings"])
                    console().print(f"{row['action']:7} {path}: {told}", soft_wrap=True)
                advance(1)
        if json:
            write_json({"files": rows, "blocked": blocked})
        else:
            console().print(f"{len(files)} files read, {blocked} would be blocked", soft_wrap=True)
    if blocked:
        raise typer.Exit(3)


def policy(
    name: Annotated[
        str,
        typer.Argument(
            metavar="POLICY", help="Policy to apply: open, standard, strict, cn-public, or a YAML file."
        ),
    ],
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Check a policy and show it whole, with what it takes over from presets."""
    with reported_errors(as_json=json):
        import yaml

        from deepwell.safety.policy import Policy

        found = Policy.load(name)
        body = found.model_dump(mode="json", exclude_defaults=True)
        if json:
            missing = _missing(found, models_dir)
            write_json({"name": name, "hash": found.hash, "missing_lists": missing, "policy": body})
        else:
            console().print(f"# {name}: valid, hash {found.hash[:16]}", soft_wrap=True)
            for entry in _missing(found, models_dir):
                console().print(f"# the list {entry} is not here: run `deepwell guard terms pull {entry}`")
            console().print(yaml.safe_dump(body, allow_unicode=True, sort_keys=False), soft_wrap=True, end="")


def _missing(policy: Policy, models_dir: Path | None) -> list[str]:
    """Returns the lists that a policy names and that are not here, or damaged."""
    from deepwell.errors import InvalidFile, TermListNotFound
    from deepwell.safety.terms.lists import read_list
    from deepwell.safety.terms.pull import lists_folder
    from deepwell.settings import Settings

    folder = lists_folder(Settings.load(models_dir=models_dir).models_dir)
    missing: list[str] = []
    for name in policy.terms:
        try:
            read_list(folder, name)
        except (TermListNotFound, InvalidFile):
            missing.append(name)
    return missing


def _guard(policy: str, models_dir: Path | None) -> Guard:
    from deepwell.safety.guard import Guard
    from deepwell.safety.policy import Policy
    from deepwell.safety.terms.pull import lists_folder
    from deepwell.settings import Settings

    settings = Settings.load(models_dir=models_dir)
    return Guard.of(Policy.load(policy), lists_folder(settings.models_dir))


def _layer(name: str) -> Layer:
    if name == "input" or name == "context" or name == "output":
        return name
    raise InvalidRequest.of("layer_unknown", name=name)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (one for one in path.rglob("*") if one.is_file() and not one.is_symlink())
        elif path.is_file():
            yield path
        else:
            raise InvalidRequest.of("scan_missing", path=path)


def _scanned(guard: Guard, path: Path, layer: Layer, tenant: str) -> dict[str, Any]:
    """Returns the strictest action on a file, with its findings; places are characters of the whole file."""
    from deepwell.safety.policy import strictest

    row: dict[str, Any] = {"path": str(path), "action": "allow", "findings": []}
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {**row, "error": f"it has more than {_MOST_BYTES >> 20} MB"}
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return {**row, "error": "it is not UTF-8 text; documents are read by `deepwell knowledge`"}
    except OSError as error:
        return {**row, "error": str(error)}
    seen: set[tuple[str, int]] = set()
    for start in range(0, max(len(text), 1), _WINDOW - _OVERLAP):
        decision = guard.check(text[start : start + _WINDOW], layer, tenant)
        row["action"] = strictest(row["action"], decision.action)
        for one in _body(decision, text[start : start + _WINDOW])["findings"]:
            one["start"], one["end"] = one["start"] + start, one["end"] + start
            if (one["rule"], one["start"]) not in seen:
                seen.add((one["rule"], one["start"]))
                row["findings"].append(one)
    return row


def _body(decision: Decision, text: str) -> dict[str, Any]:
    return {
        "action": decision.action,
        "layer": decision.layer,
        "policy": decision.policy,
        "failed": list(decision.failed),
        "findings": [
            {
                "action": action,
                "rule": finding.rule,
                "category": finding.category,
                "score": round(finding.score, 3),
                "start": finding.start,
                "end": finding.end,
                "view": finding.view,
                "text": text[finding.start : finding.end],
            }
            for finding, action in decision.findings
        ],
    }


def _tell(decision: Decision, text: str) -> None:
    console().print(decision.action, soft_wrap=True)
    for name in decision.failed:
        state = "is missing" if name.startswith("terms:") else "did not answer"
        console().print(f"  {name} {state}: `on_failure` of the policy decided", soft_wrap=True)
    for one in _body(decision, text)["findings"]:
        shown = " ".join(one["text"].split())
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        reading = "" if one["view"] in ("plain", "folded") else f", read as {one['view']}"
        console().print(
            f"  {one['action']:7} {one['rule']} ({one['category']}, {one['score']:.2f}{reading}): {shown}",
            soft_wrap=True,
        )


def _summary(findings: list[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for one in findings:
        counts[one["rule"]] = counts.get(one["rule"], 0) + 1
    return ", ".join(f"{rule} x{count}" if count > 1 else rule for rule, count in sorted(counts.items()))
