"""`deepwell evaluate run`: the measures of models and adapters, and their differences in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import Context, ModelsDir, Precision, Threads
from deepwell.cli.output import JsonFlag, console, extra_command, print_table, reported_errors, write_json
from deepwell.cli.ray.options import LOCAL, Cpus, On, executor_on, print_tally, tally_json, there

if TYPE_CHECKING:
    from deepwell.fleet.pieces.piece import Tally
    from deepwell.tuning.evaluate.comparison import Comparison
    from deepwell.tuning.evaluate.latency import Latency
    from deepwell.tuning.evaluate.run import Evaluation, Work
    from deepwell.tuning.evaluate.subjects import SubjectName

__all__ = ["run"]

_SPREAD_ROWS = 512  # that are under way on a cluster together


Models = Annotated[
    list[str],
    typer.Argument(
        help="Model to measure: a name in the store or a path, with :ADAPTER behind it for an adapter; repeatable.",
        metavar="MODEL[:ADAPTER]...",
    ),
]
Tasks = Annotated[
    list[Path] | None,
    typer.Option(
        "--task",
        help="Task file in lm-eval's form, JSON or YAML, over local data; repeatable.",
        metavar="FILE",
    ),
]
Texts = Annotated[
    list[Path] | None,
    typer.Option(
        "--text", help="Text file whose loss and perplexity are measured; repeatable.", metavar="FILE"
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="File of prompts, one a line or JSON lines, whose answers are measured for variety and endings.",
        metavar="FILE",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(help="Model to compare with, first in the table of differences.", metavar="MODEL[:ADAPTER]"),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Ask the tasks in the model's chat template, as the server does.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Most rows of each task, and pieces of each text.")]
Rounds = Annotated[
    int, typer.Option(min=0, help="Rounds that time both models in turns; 0: none.", metavar="ROUNDS")
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the report: configuration, metrics, samples, plots and TensorBoard's events.",
        metavar="FOLDER",
    ),
]


def run(
    models: Models,
    task: Tasks = None,
    text: Texts = None,
    prompts: Prompts = None,
    against: Against = None,
    chat: Chat = False,
    limit: Limit = None,
    latency: Rounds = 0,
    output: Output = None,
    precision: Precision = None,
    context: Context = None,
    threads: Threads = None,
    models_dir: ModelsDir = None,
    on: On = LOCAL,
    cpus: Cpus = 1,
    json: JsonFlag = False,
) -> None:
    """Measure models and adapters on tasks, texts and prompts, on the engine that serves them.

    With --against, one table has every difference with the 95 % interval of a paired bootstrap, and says which are within
    noise. With --on, models without adapters answer on a cluster; with --output, too, a run that was broken off goes on.
    """
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidRequest
        from deepwell.tuning.evaluate.comparison import compare
        from deepwell.tuning.evaluate.report import report_json, save
        from deepwell.tuning.evaluate.run import Plan, read_prompts, work_of
        from deepwell.tuning.evaluate.subjects import parse_subject
        from deepwell.tuning.evaluate.tasks import read_task

        options: dict[str, Any] = {
            "precision": precision,
            "context": context,
            "threads": threads,
            "models_dir": models_dir,
        }
        given: list[str] = [against, *models] if against else models
        names = [parse_subject(one) for one in dict.fromkeys(given)]
        if latency and len(names) < 2:
            raise InvalidRequest("one model alone has no latency to compare", fix="give --against")
        if on != LOCAL:
            _check_spread(names, latency)
        plan = Plan(
            tuple(map(read_task, task or [])),
            tuple(text or []),
            read_prompts(prompts) if prompts else (),
            chat,
            limit,
        )
        work = work_of(plan)
        if on == LOCAL:
            evaluations, tally = _evaluated(names, work, options, shown=not json), None
        else:
            evaluations, tally = _spread(names, work, options, (on, cpus, output), shown=not json)
        comparisons: list[Comparison] = []
        if against:
            for name, evaluation in zip(names[1:], evaluations[1:], strict=True):
                timed = _timed(names[0], name, latency, options, shown=not json) if latency else None
                comparisons.append(compare(evaluations[0], evaluation, timed))
        missing = save(output, work, evaluations, comparisons) if output else []
        if json:
            write_json(report_json(work, evaluations, comparisons) | (tally_json(on, tally) if tally else {}))
            return
        if against:
            for one in comparisons:
                _print_comparison(one)
        else:
            _print_values(evaluations)
        if tally:
            print_tally(on, tally)
        else:
            _print_memory(evaluations)
        if output:
            console().print(f"\nsaved in {output}", soft_wrap=True)
        if missing:
            extra = extra_command("eval")
            console(stderr=True).print(f"without {' and '.join(missing)}: {extra}", soft_wrap=True)


def _evaluated(
    names: Sequence[SubjectName], work: Work, options: dict[str, Any], *, shown: bool
) -> list[Evaluation]:
    """Measures every model; those of one base are opened together."""
    from deepwell.cli.progress import counting
    from deepwell.tuning.evaluate.run import evaluate
    from deepwell.tuning.evaluate.subjects import open_subjects

    found: dict[str, Evaluation] = {}
    with counting("evaluating", work.total * len(names), shown=shown) as counted:
        for base in dict.fromkeys(name.model for name in names):
            with open_subjects([name for name in names if name.model == base], _given(options)) as subjects:
                for subject in subjects:
                    found[subject.name.label] = evaluate(subject, work, counted)
    return [found[name.label] for name in names]


def _check_spread(names: Sequence[SubjectName], latency: int) -> None:
    """Refuses what no cluster measures."""
    from deepwell.errors import InvalidRequest

    if any(name.adapter for name in names):
        raise InvalidRequest.of("evaluate_spread_adapter")
    if latency:
        raise InvalidRequest.of("evaluate_spread_latency")


def _spread(
    names: Sequence[SubjectName],
    work: Work,
    options: dict[str, Any],
    place: tuple[str, int, Path | None],
    *,
    shown: bool,
) -> tuple[list[Evaluation], Tally]:
    """Measures every model on a cluster. Pieces are kept beside the output, or, without one, until the command ends."""
    from tempfile import TemporaryDirectory

    from deepwell.cli.progress import counting
    from deepwell.fleet.pieces.asking import AskModel, SpreadLLM
    from deepwell.fleet.pieces.kept import KeptPieces, folder_for
    from deepwell.fleet.pieces.piece import Tally
    from deepwell.tuning.evaluate.run import evaluate
    from deepwell.tuning.evaluate.subjects import open_subjects

    on, cpus, output = place
    found: list[Evaluation] = []
    tallies: list[Tally] = []
    with ExitStack() as stack:
        executor = stack.enter_context(executor_on(on, cpus))
        folder = folder_for(output) if output else Path(stack.enter_context(TemporaryDirectory())) / "pieces"
        counted = stack.enter_context(counting("evaluating", work.total * len(names), shown=shown))
        kept = KeptPieces(folder)
        for name in names:
            models_dir = options["models_dir"]
            recipe = AskModel(
                there(name.model),
                options["precision"],
                options["context"],
                str(models_dir.resolve()) if models_dir else None,
                cpus,
            )
            with open_subjects([name], _given(options)) as (subject,):
                far = SpreadLLM(subject.llm, executor, recipe, kept)
                spread: Any = far
                found.append(evaluate(replace(subject, llm=spread, at_once=_SPREAD_ROWS), work, counted))
                tallies.append(far.tally)
        kept.remove()
    return found, Tally.sum_of(tallies)


def _timed(
    first: SubjectName, second: SubjectName, rounds: int, options: dict[str, Any], *, shown: bool
) -> Latency:
    from deepwell.cli.progress import counting
    from deepwell.tuning.evaluate.latency import compare_latency
    from deepwell.tuning.evaluate.subjects import open_subjects

    with ExitStack() as stack, counting("timing", rounds + 1, shown=shown) as counted:
        if first.model == second.model:
            one, other = stack.enter_context(open_subjects([first, second], _given(options)))
        else:
            one = stack.enter_context(open_subjects([first], _given(options)))[0]
            other = stack.enter_context(open_subjects([second], _given(options)))[0]
        return compare_latency(one, other, rounds=rounds, counted=counted)


def _given(options: dict[str, Any]) -> Any:
    return {name: value for name, value in options.items() if value is not None}


def _print_comparison(comparison: Comparison) -> None:
    from deepwell.tuning.evaluate.report import shown

    rows = [
        (
            row.task,
            _metric(row.metric, row.unit),
            shown(row.change.first, row.unit),
            shown(row.change.second, row.unit),
            shown(row.change.value, row.unit, signed=True),
            _interval(
                row.change.low, row.change.high, lambda value, unit=row.unit: shown(value, unit, signed=True)
            ),
            row.change.verdict,
        )
        for row in comparison.rows
    ]
    out = console()
    out.print(f"{comparison.second} against {comparison.first}", style="bold", soft_wrap=True)
    columns = ("task", "metric", "against", "model", "change", "95 % interval", "verdict")
    print_table(columns, rows, folded=("task",), optional=("against",))
    if comparison.latency is not None:
        _print_latency(comparison.latency)


def _print_latency(latency: Latency) -> None:
    def line(name: str, unit: str, pair: tuple[float, float], ratio: Any) -> str:
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        return f"{name}: {pair[0]:.1f} and {pair[1]:.1f} {unit}, ratio {ratio.value:.3f} ({interval})"

    out = console()
    out.print(line("time to first token", "ms", latency.first_ms, latency.first_ratio), soft_wrap=True)
    out.print(line("speed", "tokens/s", latency.rate, latency.rate_ratio), soft_wrap=True)


def _print_values(evaluations: Sequence[Evaluation]) -> None:
    from deepwell.tuning.evaluate.report import shown, values_of

    rows = [
        (
            evaluation.label,
            task,
            _metric(name, one["unit"]),
            shown(one["value"], one["unit"]),
            _interval(one["low"], one["high"], lambda value, unit=one["unit"]: shown(value, unit)),
            str(one["samples"]),
        )
        for evaluation in evaluations
        for task, metrics in values_of(evaluation).items()
        for name, one in metrics.items()
    ]
    print_table(("model", "task", "metric", "value", "95 % interval", "rows"), rows, folded=("model",))


def _print_memory(evaluations: Sequence[Evaluation]) -> None:
    known = [one for one in evaluations if one.facts.get("peak_bytes")]
    if known:
        said = ", ".join(f"{one.facts['peak_bytes'] / 1e6:,.0f} MB ({one.label})" for one in known)
        console().print(f"peak memory: {said}", soft_wrap=True)


def _metric(name: str, unit: str) -> str:
    return f"{name} %" if unit == "share" else name


def _interval(low: float, high: float, written: Callable[[float], str]) -> str:
    return f"{written(low)} .. {written(high)}"
