"""`deepwell ask`: one question, one answer."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated

import typer

from deepwell.cli.options import TEMPERATURE, ModelOption, Port, Speculation
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(ask)


def ask(
    question: Annotated[str, typer.Argument(help="What to ask; - reads it from standard input.")],
    model: ModelOption = None,
    system: Annotated[str | None, typer.Option(help="A system message in front of the question.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens the answer may have.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0: always the likeliest token.")
    ] = TEMPERATURE,
    seed: Annotated[int | None, typer.Option(help="Makes a drawn answer repeatable.")] = None,
    port: Port = None,
    speculation: Speculation = None,
    json: JsonFlag = False,
) -> None:
    """Ask one question; the answer streams to standard output.

    A running `deepwell serve` that serves the model answers; without one the model is loaded for this question.
    """
    with reported_errors(as_json=json):
        from deepwell.cli.answers import Asked, cut_note, last_of, open_answers, warn_of_language
        from deepwell.errors import InvalidRequest
        from deepwell.settings import Settings

        text = sys.stdin.read().strip() if question == "-" else question
        if not text:
            raise InvalidRequest("the question is empty", fix='deepwell ask "Who was Ada Lovelace?"')
        settings = Settings.load(model=model, port=port, speculation=speculation)
        messages = [{"role": "system", "content": system}] if system else []
        asked = Asked([*messages, {"role": "user", "content": text}], max_tokens, temperature, seed)
        with closing(open_answers(settings)) as answers:
            if not json:
                warn_of_language(answers.model, text)
            answer = ""
            last = None
            with closing(answers.stream(asked)) as parts:
                for part in parts:
                    answer += part.text
                    last = part
                    if not json:
                        sys.stdout.write(part.text)
                        sys.stdout.flush()
            if json:
                write_json(
                    {"model": answers.model, "where": answers.where, "answer": answer, **last_of(last)}
                )
            else:
                sys.stdout.write("\n")
                if note := cut_note(last):
                    console(stderr=True).print(note, style="yellow", soft_wrap=True)
