"""`deepwell batch`: answers a batch file of OpenAI's form without a server, here or on a Ray cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deepwell.cli.options import Context, Guard, KvTokens, ModelOption, ModelsDir, Precision, Threads
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.ray.options import LOCAL, Cpus, On, executor_on, print_tally, tally_json, there
from deepwell.messages import say

__all__ = ["batch", "register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(batch)


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Requests, one a line, as for /v1/batches: chat, completions or embeddings."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the answers, in the order of the requests.")
    ],
    model: ModelOption = None,
    on: On = LOCAL,
    cpus: Cpus = 1,
    piece: Annotated[
        int, typer.Option(min=1, max=10_000, help="Lines of a piece, which is finished as a whole and kept.")
    ] = 50,
    precision: Precision = None,
    context: Context = None,
    kv_tokens: KvTokens = None,
    guard: Guard = None,
    threads: Threads = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Answer a file of requests without a server; a run that was broken off goes on where it was.

    The same file gives the same bytes wherever it is answered: ids and seeds come from the lines, and `created` is the time of
    the file.
    """
    with reported_errors(as_json=json):
        from deepwell.cli.data.options import refuse_overwriting
        from deepwell.cli.progress import counting
        from deepwell.fleet.pieces.answers import AnswerLines
        from deepwell.fleet.pieces.batch import answer_file, check_batch
        from deepwell.settings import Settings

        refuse_overwriting([output], [file])
        settings = Settings.load(
            model=model,
            precision=precision,
            context=context,
            kv_tokens=kv_tokens,
            guard=guard,
            threads=threads,
            models_dir=models_dir,
        )
        named = there(settings.model)
        endpoint, lines = check_batch(file, Path(named).stem if named.startswith("/") else named)
        recipe = AnswerLines(
            named,
            endpoint,
            int(file.stat().st_mtime),
            settings.precision,
            settings.context,
            settings.kv_tokens,
            settings.guard,
            str(models_dir.resolve()) if models_dir else None,
            settings.threads if on == LOCAL else cpus,
        )
        begin = time.perf_counter()
        with (
            executor_on(on, cpus) as executor,
            counting(say("batch_answering"), lines, shown=not json) as advance,
        ):
            done = answer_file(file, output, recipe, executor, lines_per_piece=piece, advance=advance)
        seconds = round(time.perf_counter() - begin, 1)
        if json:
            counts = {"lines": done.lines, "failed": done.failed, "tokens": done.tokens, "seconds": seconds}
            write_json({**counts, **tally_json(on, done.tally), "output": str(output)})
            return
        out = console()
        told = say("batch_done", lines=done.lines, tokens=done.tokens, seconds=seconds, path=output)
        out.print(told, soft_wrap=True)
        if done.failed:
            out.print(say("batch_failed", failed=done.failed), style="yellow", soft_wrap=True)
        print_tally(on, done.tally)
