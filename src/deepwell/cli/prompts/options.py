"""Options of `deepwell prompts optimise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from deepwell.cli.options import stored_models

__all__ = [
    "SHARES",
    "AnswerField",
    "Calls",
    "Candidates",
    "Data",
    "HeldOut",
    "InputField",
    "MaxExamples",
    "MaxTokens",
    "MetricName",
    "Output",
    "Save",
    "Seed",
    "SharesText",
    "StartPrompt",
    "SubjectOption",
    "Use",
]

SHARES: Final = "train=0.4,development=0.3,held_out=0.3"

StartPrompt = Annotated[
    str,
    typer.Argument(
        help="Prompt to begin with: a pack (TOML file), or the id of a stored or shipped prompt.",
        metavar="PROMPT",
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        help='Rows of the task: JSON lines with an input and a label, such as {"input": "...", "label": "..."}.',
        metavar="FILE",
    ),
]
MetricName = Annotated[
    str,
    typer.Option(
        help="Measure to raise: label (the likeliest of the labels), exact (the greedy answer equals the row's), or a "
        "JSON file with one of OpenAI's graders.",
        metavar="METRIC",
    ),
]
Calls = Annotated[
    int,
    typer.Option(
        min=1,
        help="Most questions that the search asks, 100 or more; at the end each held-out row costs two more.",
    ),
]
SubjectOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Model to ask: a name in the store or a path, with :ADAPTER behind it for an adapter; unset: smollm2.",
        metavar="MODEL[:ADAPTER]",
        autocompletion=stored_models,
    ),
]
Save = Annotated[
    str | None,
    typer.Option(
        help="Id under which a better prompt is stored; a prompt that has this id gets a new version.",
        metavar="ID",
    ),
]
Use = Annotated[
    bool, typer.Option("--use", help="Make the stored version current: requests that name none get it.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the search: the same seed finds the same prompt.")]
Candidates = Annotated[
    Path | None,
    typer.Option(
        help="File of further instructions to try: JSON lines of texts, or plain text parted by lines of ---.",
        metavar="FILE",
    ),
]
SharesText = Annotated[
    str,
    typer.Option(
        help="Shares of the parts that rows are split into, by the hash of their input.", metavar="SHARES"
    ),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        help="File of held-out rows, read at the end of the search; unset: a part of the rows.",
        metavar="FILE",
    ),
]
MaxExamples = Annotated[
    int, typer.Option(min=0, max=24, help="Most examples in a prompt; 0: instructions alone.")
]
MaxTokens = Annotated[
    int, typer.Option(min=1, help="Longest answer in tokens, where the metric reads answers.")
]
InputField = Annotated[
    str | None,
    typer.Option(help="Field of a row with the input; unset: input, text or question.", metavar="NAME"),
]
AnswerField = Annotated[
    str | None,
    typer.Option(help="Field of a row with the answer; unset: label, answer or target.", metavar="NAME"),
]
Output = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the split, the journal, the report and the winner; unset: prompt-ID. The same command goes on there.",
        metavar="FOLDER",
    ),
]
