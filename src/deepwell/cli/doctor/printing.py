"""The report of doctor as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepwell.cli.doctor.report import PACKAGES
from deepwell.cli.output import console
from deepwell.messages import language, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from deepwell.cli.doctor.findings import Finding

__all__ = ["print_report"]


def print_report(report: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Prints what `examine` returned, the problems last and in the language of the terminal."""
    out = console()
    kernels, threads, model = report["kernels"], report["threads"], report["model"]
    versions = report["versions"]
    table = _grid()
    table.add_row("deepwell", f"{versions['deepwell']}, Python {versions['python']}, {versions['system']}")
    table.add_row("packages", ", ".join(f"{name} {versions[name]}" for name in PACKAGES))
    available = ", ".join(kernels["available"]) or "none"
    table.add_row("kernels", f"{kernels['isa']} in use ({kernels['backend']}); available: {available}")
    table.add_row(
        "threads", f"{threads['used']} used, {threads['usable']} usable, {threads['machine']} in the machine"
    )
    table.add_row("model", f"{model['name']}  {model.get('path', 'not usable yet')}")
    for line in model["plan"]:
        table.add_row("", line)
    engine = report["engine"]
    table.add_row("engine", engine["engine"])
    table.add_row("", f"vLLM  {engine['vllm']}")
    table.add_row("", f"GPUs  {engine['gpus']}")
    if sampling := model.get("sampling"):
        drawn = ", ".join(f"{name} {value:g}" for name, value in sampling.items() if name != "source")
        table.add_row("sampling", f"{drawn}, where a request does not say ({sampling['source']})")
    table.add_row("store", f"{report['store']['folder']}: {', '.join(report['store']['models']) or 'empty'}")
    files = report["files"]
    beside = f" at {files['endpoint']}, copies in {files['copies']}" if "endpoint" in files else ""
    table.add_row("files", f"{files['place']}{beside}")
    recognition = report["recognition"]
    table.add_row("recognition", f"{recognition['model']}  {recognition['state']}")
    speech = report["speech"]
    table.add_row("speech", f"{speech['model']}  {speech['state']}")
    images = report["images"]
    table.add_row("images", f"{images['model']}  {images['state']}")
    table.add_row("", f"guard  {images['guard']}")
    table.add_row("", f"attached  {images['sight']}")
    table.add_row("server", f"{report['server']['url']}  {report['server']['state']}")
    lists = ", ".join(f"{name} ({state})" for name, state in report["guard"]["lists"].items())
    table.add_row("guard", f"{report['guard']['policy']}{'  lists: ' if lists else ''}{lists}")
    confinement = report["confinement"]
    table.add_row("confinement", f"{confinement['walls']}  {confinement['state']}")
    if "fix" in confinement:
        table.add_row("", confinement["fix"])
    sandbox = report["sandbox"]
    table.add_row("sandbox", f"{sandbox['way']}  {sandbox['state']}")
    if "fix" in sandbox:
        table.add_row("", sandbox["fix"])
    table.add_row("energy", report["energy"]["state"])
    if "fix" in report["energy"]:
        table.add_row("", report["energy"]["fix"])
    table.add_row("improve", _improve(report["improve"]))
    deploy = report["deploy"]
    table.add_row("deploy", f"{deploy['front']}  {deploy['state']}")
    if "fix" in deploy:
        table.add_row("", deploy["fix"])
    for extra, state in report["extras"].items():
        table.add_row(f"extra {extra}", state)
    out.print(table)
    out.print()
    settings = _grid()
    for name, entry in report["settings"].items():
        value = entry["value"]
        settings.add_row(name, "unset" if value is None else str(value), entry["origin"])
    out.print(settings)
    out.print()
    for done in report.get("mended", ()):
        out.print(say("doctor_mended", text=done), style="green", soft_wrap=True)
    for finding in findings:
        message, fix = finding.error.said(language())
        out.print(say("doctor_problem", text=message), style="bold red", soft_wrap=True)
        out.print(say("doctor_fix", text=fix), soft_wrap=True)
    if any(finding.mend is not None for finding in findings):
        out.print(say("doctor_fixable"), soft_wrap=True)
    if not findings:
        out.print(say("doctor_sound"), style="green")


def _improve(told: dict[str, Any]) -> str:
    trains = "trains here" if told["trains"] else f"trains not here: {', '.join(told['lacks'])} missing"
    sets = ", ".join(f"{count} {name}" for name, count in told["sets"].items()) or "cannot be read"
    free = f"{told['free_bytes'] / 1e9:.1f} GB free in {told['folder']}"
    return f"{trains}; frozen sets: {sets}; {free}"


def _grid() -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")  # a path is worth nothing with its end cut off
    return grid
