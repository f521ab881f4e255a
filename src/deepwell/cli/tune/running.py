"""The verbs of `deepwell tune` that train: a configuration from a file and options, and its worker's events on the screen."""

from __future__ import annotations

import json as jsons
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from deepwell.cli.output import console, typed_model, write_json
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.train.config import TuneConfig

__all__ = ["configured", "print_end", "trained"]

_STOPPED = 75
_LOG = "worker.log"

_C = TypeVar("_C", bound="TuneConfig")


def configured(
    kind: type[_C],
    path: Path | None,
    given: Mapping[str, Any],
    steps: int | None,
    assignments: Sequence[str],
) -> _C:
    """Returns the configuration of a file with what the options say in its place.

    Args:
        kind: class of the configuration.
        given: values of options by key; None: not given.
        assignments: values of any keys, `train.seed=1` each.

    Raises:
        InvalidRequest: an assignment is none, there is no data, or as `parse_config_as`.
    """
    import yaml

    from deepwell.errors import InvalidRequest
    from deepwell.tuning.train.config import parse_config_as, read_config_as

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
    base = read_config_as(kind, path).to_json() if path else {}
    for section, value in values.items():
        if isinstance(value, dict):
            values[section] = {**(base.get(section) or {}), **value}
    if "output" not in {**base, **values} and values.get("data"):
        values["output"] = f"runs/{Path(values['data'][0]).stem}"
    if path is None and "data" not in values:
        raise InvalidRequest.of(
            "tune_no_data" if kind.algorithm == "sft" else "align_no_data", verb=kind.algorithm
        )
    found = parse_config_as(kind, {**base, **values}, where=path.name if path else "")
    return found.model_copy(
        update={
            "data": [one.absolute() for one in found.data],
            "validation": [one.absolute() for one in found.validation]
            if isinstance(found.validation, list)
            else found.validation,
            "output": found.output.absolute(),
        }
    )


def trained(run: TuneConfig, command: Sequence[str], *, json: bool) -> Path:
    """Runs the worker to its end, showing its events, and returns the folder of the artefact.

    Args:
        command: the worker, which finds the configuration in the folder of the run.

    Raises:
        DeepwellError: the worker said so, or died.
    """
    from deepwell.tuning.train.config import write_config

    folder = run.output
    folder.mkdir(parents=True, exist_ok=True)
    write_config(run, folder / "config.json")
    shown = _JsonEvents() if json else _ShownEvents(run.algorithm)
    with (folder / _LOG).open("ab") as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        last: dict[str, Any] = {}
        with _signals_to(child):
            try:
                with shown:
                    for event in _events(child):
                        last = event
                        shown.show(event | {"output": str(folder)} if event["event"] == "done" else event)
            finally:
                code = child.wait()
    return folder / _artefact_of(last, code, folder)


@contextmanager
def _signals_to(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hands SIGINT and SIGTERM on to a worker, which ends behind a checkpoint: they may reach this process alone."""

    def stop(*_: object) -> None:
        child.terminate()
        console(stderr=True).print(say("tune_stopping"))

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _events(child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        with suppress(ValueError):
            event = jsons.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


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
    if code in (_STOPPED, -signal.SIGTERM, -signal.SIGINT):  # the latter two before it could take the signal
        console(stderr=True).print(say("tune_stopped", folder=_short(folder)))
        raise typer.Exit(_STOPPED)
    raise DeepwellError.of("tune_died", code=code, log=str(folder / _LOG))


def print_end(run: TuneConfig, artefact: Path) -> None:
    """Prints where the artefact is, and the command that serves it."""
    out = console()
    shown = _short(artefact)
    out.print(say("tune_written", folder=shown), soft_wrap=True)
    record = jsons.loads((artefact / "deepwell.json").read_text(encoding="utf-8"))
    if run.method == "full":
        command = f"deepwell serve {typed_model(Path(shown))}"
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

    def __init__(self, algorithm: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._validation = "tune_validation" if algorithm == "sft" else f"tune_validation_{algorithm}"
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        err = console(stderr=True)
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
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
            case "reference":
                left = f"{say('tune_reference')} {event['done']}/{event['total']}"
                self._bar.update(self._task, left=left)
            case "step" if "reward" in event:
                self._bar.update(self._task, completed=event["step"], left=_reinforced(event))
                if self._bar.disable:  # nothing else tells of the iterations in a log
                    line = f"{event['step']}/{event['steps']}  {_reinforced(event)}"
                    self._bar.console.print(line, soft_wrap=True)
            case "step":
                minutes, seconds = divmod(round(event["seconds_left"]), 60)
                left = say(
                    "tune_progress",
                    loss=f"{event['loss']:.3f}",
                    speed=f"{event['tokens_per_second']:.0f}",
                    left=f"{minutes}:{seconds:02}",
                )
                self._bar.update(self._task, completed=event["step"], left=left)
            case "validation" if "reward" in event:
                text = say(
                    "tune_validation_ppo",
                    step=event["step"],
                    reward=f"{event['reward']:.3f}",
                    kl=f"{event['kl']:.3f}",
                )
                self._bar.console.print(text, soft_wrap=True)
            case "validation":
                accuracy = event.get("token_accuracy", event.get("accuracy", 0.0))
                text = say(
                    self._validation,
                    step=event["step"],
                    loss=f"{event['loss']:.3f}",
                    accuracy=f"{accuracy:.1%}",
                )
                self._bar.console.print(text, soft_wrap=True)


def _reinforced(event: Mapping[str, Any]) -> str:
    """Returns the line behind the progress bar of a reinforcement."""
    minutes, seconds = divmod(round(event["seconds_left"]), 60)
    return say(
        "tune_progress_ppo",
        reward=f"{event['reward']:.3f}",
        kl=f"{event['kl']:.3f}",
        left=f"{minutes}:{seconds:02}",
    )


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
    if "answers" in plan:
        yield say(
            "tune_plan_ppo",
            steps=plan["steps"],
            answers=plan["answers"],
            tokens=plan["new_tokens"],
            precision=plan["precision"],
            peak=f"{plan['peak_bytes'] / 1e9:.1f} GB",
        )
        return
    yield say(
        "tune_plan_run",
        steps=plan["steps"],
        tokens=f"{plan['tokens']:,}",
        labelled=f"{plan['labelled']:,}",
        precision=plan["precision"],
        device=plan["device"],
        peak=f"{plan['peak_bytes'] / 1e9:.1f} GB",
    )
