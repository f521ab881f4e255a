"""`deepwell tune sft`: supervised fine-tuning in a process of its own, then what it changed on the engine that serves."""

from __future__ import annotations

import json as jsons
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.train.config import TuneConfig

__all__ = ["sft"]

_STOPPED = 75
_LOG = "worker.log"


def sft(
    config: Annotated[
        Path | None,
        typer.Argument(help="YAML or JSON file of a run; unset: the options alone.", metavar="CONFIG"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to train: a name in the store, or a path; unset: the one of CONFIG, else smollm2.",
            autocompletion=stored_models,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="File of conversations to train on; repeatable.", metavar="FILE"),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="File of held-out conversations, or the share of the data to hold out, such as 0.1.",
            metavar="FILE|SHARE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; a run that was stopped there continues. Unset: runs/ and the name of the data."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Optimiser steps; unset: those of train.epochs, which is 3 passes over the data."
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of processes on this machine that train together; they divide the data unless train.strategy "
            "is fsdp2 or tensor.",
        ),
    ] = 1,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Value of any key of the configuration, such as train.seed=1; repeatable.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Whether to compare the result with its base on held-out conversations.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Train an adapter, or every weight, on conversations; print what it changed and the command that serves it."""
    with reported_errors(as_json=json):
        given = {"model": model, "data": data, "validation": validation, "output": output}
        run = _configured(config, given, steps, set or [])
        if processes > 1 and run.train.strategy == "single":
            run = run.model_copy(update={"train": run.train.model_copy(update={"strategy": "ddp"})})
        artefact = _trained(run, processes, json=json)
        if compare:
            _compare(run, artefact, json=json)
        if not json:
            _print_end(run, artefact)


def _configured(
    path: Path | None, given: Mapping[str, Any], steps: int | None, assignments: Sequence[str]
) -> TuneConfig:
    """Returns the configuration of a file with what the options say in its place."""
    import yaml

    from deepwell.errors import InvalidRequest
    from deepwell.tuning.train.config import parse_config, read_config

    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InvalidRequest(
                f"--set {assignment!r} has no =", fix="write --set KEY=VALUE, as train.seed=1"
            )
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise InvalidRequest(f"--set {key!r} is inside of a value", fix="name one key")
        with suppress(yaml.YAMLError):
            text = yaml.safe_load(text)
        place[name] = text
    if steps is not None:
        values.setdefault("train", {})["steps"] = steps
    for name, value in given.items():
        if value is not None:
            values[name] = [str(one) for one in value] if isinstance(value, list) else str(value)
    if isinstance(values.get("validation"), str):
        try:
            values["validation"] = float(values["validation"])
        except ValueError:
            values["validation"] = [values["validation"]]
    base = read_config(path).to_json() if path else {}
    for section in ("train", "lora"):
        if isinstance(values.get(section), dict):
            values[section] = {**base.get(section, {}), **values[section]}
    if "output" not in {**base, **values} and values.get("data"):
        values["output"] = f"runs/{Path(values['data'][0]).stem}"
    if path is None and "data" not in values:
        raise InvalidRequest.of("tune_no_data")
    found = parse_config({**base, **values}, where=path.name if path else "")
    return found.model_copy(
        update={
            "data": [one.absolute() for one in found.data],
            "validation": [one.absolute() for one in found.validation]
            if isinstance(found.validation, list)
            else found.validation,
            "output": found.output.absolute(),
        }
    )


def _trained(run: TuneConfig, processes: int, *, json: bool) -> Path:
    """Runs the worker to its end, showing its events, and returns the folder of the artefact."""
    from deepwell.tuning.train.config import write_config
    from deepwell.tuning.train.distributed.launch import command

    folder = run.output
    folder.mkdir(parents=True, exist_ok=True)
    write_config(run, folder / "config.json")
    shown = _JsonEvents() if json else _ShownEvents()
    with (folder / _LOG).open("ab") as log:
        child = subprocess.Popen(
            command(str(folder), processes),
            stdout=subprocess.PIPE,
            stderr=log,
        )
        last: dict[str, Any] = {}
        try:
            with shown:
                for event in _events(child):
                    last = event
                    shown.show(event)
        finally:
            code = _waited(child)
    return folder / _artefact_of(last, code, folder)


def _events(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Yields the events of a worker. Ctrl-C, which reaches the worker too, waits for its checkpoint."""
    assert child.stdout is not None
    while True:
        try:
            line = child.stdout.readline()
        except KeyboardInterrupt:
            console(stderr=True).print(say("tune_stopping"))
            continue
        if not line:
            return
        with suppress(ValueError):
            event = jsons.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def _waited(child: subprocess.Popen[bytes]) -> int:
    while True:
        with suppress(KeyboardInterrupt):
            return child.wait()


def _artefact_of(last: Mapping[str, Any], code: int, folder: Path) -> str:
    """Returns the name of the artefact, or raises what the worker said, or what its end means."""
    from deepwell.errors import DeepwellError, InvalidRequest, MissingDependency

    if last.get("event") == "done":
        return str(last["adapter"])
    if last.get("event") == "error":
        if last.get("code") == "tune_missing":
            raise MissingDependency.of("tune_missing", package=last.get("param") or "torch")
        raise InvalidRequest(
            str(last.get("message")), fix=str(last.get("fix") or ""), param=last.get("param")
        )
    if code == _STOPPED:
        console(stderr=True).print(say("tune_stopped", folder=_short(folder)))
        raise typer.Exit(_STOPPED)
    raise DeepwellError.of("tune_died", code=code, log=str(folder / _LOG))


def _compare(run: TuneConfig, artefact: Path, *, json: bool) -> None:
    from deepwell.dialogue.text import Codec
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings
    from deepwell.tuning.train.dataset import load_dataset
    from deepwell.tuning.train.delta import compare as measured

    settings = run.train
    most = 1024 if settings.max_tokens == "auto" else settings.max_tokens
    path = ModelStore(Settings.load().models_dir).resolve(run.model).path
    err = console(stderr=True)
    with err.status(say("tune_comparing")) if err.is_terminal and not json else nullcontext():
        held = load_dataset(run, Codec.load(path), most)
        delta = measured(run.model, artefact, held.held_out, held.held_out_records) if held.held_out else None
    if delta is None:
        if not json:
            console().print(say("tune_nothing_held_out"))
        return
    if json:
        write_json({"event": "compared", **delta.to_json()})
        return
    from rich.table import Table

    out = console()
    title = say("tune_table", scored=delta.scored, answered=delta.answered, precision=delta.precision)
    out.print(title, style="italic", soft_wrap=True)  # a title of the table would wrap at the table's width
    table = Table()
    for column in ("", say("tune_base"), say("tune_tuned"), say("tune_change")):
        table.add_column(column, justify="left" if not column else "right")
    for name, shape in (
        ("loss", "{:.3f}"),
        ("exact", "{:.1%}"),
        ("ended", "{:.1%}"),
        ("answer_tokens", "{:.1f}"),
    ):
        before, after = getattr(delta.base, name), getattr(delta.tuned, name)
        signed = shape.replace(":", ":+")
        table.add_row(
            say(f"tune_row_{name}"), shape.format(before), shape.format(after), signed.format(after - before)
        )
    out.print(table)


def _print_end(run: TuneConfig, artefact: Path) -> None:
    out = console()
    shown = _short(artefact)
    out.print(say("tune_written", folder=shown), soft_wrap=True)
    record = jsons.loads((artefact / "deepwell.json").read_text(encoding="utf-8"))
    if run.method == "full":
        command = f"deepwell serve {shown if '/' in shown else './' + shown}"
    elif record.get("served") == "merged":
        command = f"deepwell tune merge {shown} --output {_short(run.output / 'merged')}"
    else:
        command = f"deepwell serve {run.model} --adapter {run.output.name}={shown}"
    out.print(say("tune_serve", command=command), soft_wrap=True)


def _short(path: Path) -> str:
    """Returns a path as the user would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


class _JsonEvents:
    """Hands the worker's events on, a line each."""

    def __enter__(self) -> _JsonEvents:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, event: Mapping[str, Any]) -> None:
        """Prints an event; an error is printed by whoever reports it."""
        if event["event"] != "error":
            write_json(event)


class _ShownEvents:
    """Shows the plan, a progress bar with the time left, and every validation."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._out = console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=console(stderr=True), transient=True)
        self._task = self._bar.add_task(say("tune_training"), total=None, left="")

    def __enter__(self) -> _ShownEvents:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def show(self, event: Mapping[str, Any]) -> None:
        """Shows an event."""
        match event["event"]:
            case "plan":
                for line in _plan_lines(event):
                    self._bar.console.print(line, soft_wrap=True)
                self._bar.update(self._task, total=event["steps"])
            case "step":
                minutes, seconds = divmod(round(event["seconds_left"]), 60)
                left = say(
                    "tune_progress",
                    loss=f"{event['loss']:.3f}",
                    speed=f"{event['tokens_per_second']:.0f}",
                    left=f"{minutes}:{seconds:02}",
                )
                self._bar.update(self._task, completed=event["step"], left=left)
            case "validation":
                text = say(
                    "tune_validation",
                    step=event["step"],
                    loss=f"{event['loss']:.3f}",
                    accuracy=f"{event['token_accuracy']:.1%}",
                )
                self._bar.console.print(text, soft_wrap=True)


def _plan_lines(plan: Mapping[str, Any]) -> Iterator[str]:
    report = plan["data"]
    yield say(
        "tune_plan_data",
        read=report["read"],
        kept=report["kept"],
        dropped=report["dropped"],
        cut=sum(report["cut_by_reason"].values()),
        held_out=plan["held_out"],
    )
    share = plan["trainable"] / plan["parameters"]
    yield say(
        "tune_plan_model",
        trainable=f"{plan['trainable']:,}",
        parameters=f"{plan['parameters']:,}",
        share=f"{share:.3%}",
    )
    yield say(
        "tune_plan_run",
        steps=plan["steps"],
        tokens=f"{plan['tokens']:,}",
        labelled=f"{plan['labelled']:,}",
        precision=plan["precision"],
        device=plan["device"],
        peak=f"{plan['peak_bytes'] / 1e9:.1f} GB",
    )
