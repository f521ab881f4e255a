"""`deepwell data label`: label the texts of a file with single keys, or measure what active learning would save on it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from deepwell.tuning.data.active.features import Vectors
    from deepwell.tuning.data.active.session import LabelSession
    from deepwell.tuning.data.records import Record

__all__ = ["label"]

_KEY = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|.", re.DOTALL)
_ARROWS = {"\x1b[C": "s", "\x1b[D": "u"}

Kind = Literal["hashed", "embeddings", "likelihoods"]


def label(
    file: Annotated[
        Path, typer.Argument(help="File of records: JSON lines of texts or conversations.", metavar="FILE")
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes with commas between them, in the order of their keys; unset: the labels of the file.",
            metavar="A,B",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File for the labelled records, which a later call goes on with; unset: FILE with .labels.jsonl.",
            metavar="OUTPUT",
        ),
    ] = None,
    strategy: Annotated[
        Literal["margin", "entropy", "random"],
        typer.Option(help="Texts to ask about first: those that the learner is least sure of, or any."),
    ] = "margin",
    features: Annotated[
        Kind,
        typer.Option(
            help="Features that the learner sees: hashed words, or a model's embeddings or likelihoods of the classes."
        ),
    ] = "hashed",
    model: Annotated[
        str | None,
        typer.Option(help="Model for embeddings or likelihoods; unset: minilm or smollm2.", metavar="MODEL"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first draw.")] = 0,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="Ask nobody: use the labels of the file and print learning curves."),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs that a learning curve averages.")] = 5,
    budget: Annotated[int, typer.Option(min=10, help="Most labels of a learning curve.")] = 200,
    json: JsonFlag = False,
) -> None:
    """Label texts with single keys; a learner chooses the texts that teach it most."""
    with reported_errors(as_json=json):
        records = _records(file)
        given = [one.label for one in records if one.label is not None]
        names = [one.strip() for one in classes.split(",")] if classes else sorted(set(given))
        vectors = _vectors_of(features, model, names)
        if simulate:
            _simulate(records, names, vectors, strategy, seeds=seeds, budget=budget, as_json=json)
            return
        from deepwell.tuning.data.active.session import LabelSession

        kept = output or file.with_name(f"{file.stem}.labels.jsonl")
        session = LabelSession(records, names, kept, vectors=vectors, strategy=strategy, seed=seed)
        asked = _ask(session, console(stderr=json))
        done = {
            "labelled": session.labelled,
            "left": len(records) - session.labelled,
            "asked": asked,
            "stable": session.stable,
            "output": str(kept),
        }
        if json:
            write_json(done)
        else:
            console().print(f"{session.labelled} of {len(records)} labelled: {kept}", soft_wrap=True)


def _records(file: Path) -> list[Record]:
    """Returns the records of a file. What cannot be read is told on standard error."""
    from deepwell.tuning.data.records import BadRecord, read_records

    found: list[Record] = []
    for one in read_records([file]):
        if isinstance(one, BadRecord):
            place = f" {one.field}" if one.field else ""
            text = f"line {one.line}{place} is left out: {one.problem}"
            console(stderr=True).print(text, style="yellow", soft_wrap=True)
        else:
            found.append(one)
    return found


def _vectors_of(kind: Kind, name: str | None, classes: Sequence[str]) -> Vectors | None:
    """Returns what makes dense features of texts. The model is opened when it is asked, and closed at once."""
    if kind == "hashed":
        return None

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        from deepwell.llm import LLM
        from deepwell.tuning.data.active.engine_features import choice_log_likelihoods, embedding_vectors

        with LLM(name or ("minilm" if kind == "embeddings" else "smollm2")) as model:
            if kind == "embeddings":
                return embedding_vectors(model, texts, progress=True)
            return choice_log_likelihoods(model, texts, classes, progress=True)

    return vectors


def _ask(session: LabelSession, out: Console) -> int:
    """Asks about one text after the other until all are labelled or somebody quits. Returns the number of answers."""
    keys = [str((place + 1) % 10) for place in range(10)] if len(session.classes) <= 10 else None
    names = "  ".join(
        f"{keys[place] if keys else place + 1} {name}" for place, name in enumerate(session.classes)
    )
    asked, told = 0, False
    with _reader(single=keys is not None) as read:
        while (record := session.next()) is not None:
            if session.stable and not told:
                told = True
                out.print(
                    f"The last learners agree (kappa {session.agreement:.3f}): further labels change little. "
                    "q ends here.",
                    style="green",
                    soft_wrap=True,
                )
            out.print()
            out.print(record.text.strip(), soft_wrap=True)
            status = f"{session.labelled} of {len(session.records)} labelled"
            out.print(f"{names}  s skip  u undo  q quit    {status}", style="dim", soft_wrap=True)
            answer = read()
            if answer in ("q", "\x04", None):
                break
            if answer == "s":
                session.skip()
            elif answer == "u":
                if not session.undo():
                    out.print("There is nothing to take back.", style="yellow")
            elif (place := _place(answer, keys, len(session.classes))) is not None:
                session.label(session.classes[place])
                asked += 1
                out.print(session.classes[place], style="bold")
            else:
                out.print(f"{answer!r} is no key here.", style="yellow")
    return asked


def _place(answer: str, keys: Sequence[str] | None, classes: int) -> int | None:
    """Returns the place of the class that a key or a number stands for; None: it stands for none."""
    if not (answer.isascii() and answer.isdecimal()) or len(answer) > 3:
        return None
    place = keys.index(answer) if keys and answer in keys else int(answer) - 1
    return place if 0 <= place < classes else None


@contextmanager
def _reader(*, single: bool) -> Iterator[Callable[[], str | None]]:
    """Gives a function that reads an answer: one key of a terminal, or a line; None at the end of the input."""
    import sys

    def line() -> str | None:
        text = sys.stdin.readline()
        return text.strip().lower() if text else None

    if not (single and sys.stdin.isatty()):
        yield line
        return
    import os
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    typed: deque[str] = deque()

    def key() -> str | None:
        while not typed:
            data = os.read(descriptor, 64)
            if not data:
                return None
            typed.extend(_KEY.findall(data.decode("utf-8", "replace")))
        pressed = typed.popleft()
        return _ARROWS.get(pressed, pressed.lower())

    tty.setcbreak(descriptor, termios.TCSADRAIN)  # Ctrl-C still interrupts, and what was typed ahead counts
    try:
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _simulate(
    records: Sequence[Record],
    classes: Sequence[str],
    vectors: Vectors | None,
    strategy: Literal["margin", "entropy", "random"],
    *,
    seeds: int,
    budget: int,
    as_json: bool,
) -> None:
    from deepwell.cli.progress import counting
    from deepwell.tuning.data.active.experiment import experiment

    strategies = dict.fromkeys((strategy, "margin", "entropy", "random"))
    with counting("runs", seeds * len(strategies), shown=not as_json) as tell:
        found = experiment(
            records,
            classes,
            vectors,
            tuple(strategies),
            seeds=seeds,
            budget=budget,
            tell=lambda: tell(1),
        )
    if as_json:
        write_json(found.to_json())
        return
    arms = list(found.curves.values())
    budgets = arms[0].budgets
    shown = [at for at, labels in enumerate(budgets) if labels in _SHOWN or at == len(budgets) - 1]
    rows: list[list[str]] = [
        [str(budgets[at]), *(f"{100 * arm.mean[at]:.1f} %" for arm in arms)] for at in shown
    ]
    rows.append(["stop rule", *(_stops(arm.stops) for arm in arms)])
    out = console()
    out.print(
        f"{found.pool} texts to draw from, {found.held_out} held out, {found.unlabelled} without a label left out; "
        f"mean of {seeds} seeds",
        soft_wrap=True,
    )
    print_table(["labels", *(arm.strategy for arm in arms)], rows, folded=[arm.strategy for arm in arms])


_SHOWN = (10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)


def _stops(stops: Sequence[Any]) -> str:
    return " ".join("never" if one is None else str(one) for one in stops)
