"""Options of `deepwell compliance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AnswerBank",
    "GenerationBank",
    "Guard",
    "Judged",
    "MaxTokens",
    "Out",
    "Packs",
    "RefuseBank",
    "Samples",
    "Sheets",
]


Packs = Annotated[
    list[str] | None,
    typer.Option(
        help="Pack to take: cn, eu or owasp; repeatable; unset: all.", metavar="PACK", show_default=False
    ),
]
Guard = Annotated[
    str | None,
    typer.Option(
        help="Policy to check: a preset or a YAML file; unset: the setting `guard`.", metavar="POLICY"
    ),
]
GenerationBank = Annotated[
    Path | None,
    typer.Option(
        help="Bank of prompts for generated content (pack cn), one JSON object a line.", metavar="FILE"
    ),
]
RefuseBank = Annotated[
    Path | None,
    typer.Option(help="Bank of questions to refuse (pack cn), one JSON object a line.", metavar="FILE"),
]
AnswerBank = Annotated[
    Path | None,
    typer.Option(
        "--answer", help="Bank of questions to answer (pack cn), one JSON object a line.", metavar="FILE"
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=10,
        help="Sample fewer prompts of each bank than the standard asks for. The interval then has to hold, not the share.",
        metavar="N",
    ),
]
MaxTokens = Annotated[
    int, typer.Option(min=1, help="Longest answer of a sampled run, in tokens.", metavar="N")
]
Sheets = Annotated[
    Path | None,
    typer.Option(
        help="Folder to write sheets into, on which people judge the sampled answers.", metavar="FOLDER"
    ),
]
Judged = Annotated[
    Path | None,
    typer.Option(
        help="Folder with sheets that people filled in; they count in the place of a run.", metavar="FOLDER"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Markdown file to write besides; it must not exist.", metavar="FILE.md"),
]
