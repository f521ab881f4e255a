"""`deepwell media transcribe`: recordings become text, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.progress import counted
from deepwell.process.calls import SINGLE_TENANT

if TYPE_CHECKING:
    from deepwell.media.recognition.options import RecognitionOptions, Segment
    from deepwell.media.recognition.process import Hearing, Recogniser
    from deepwell.settings import Settings

__all__ = ["transcribe"]

Format = Literal["text", "srt", "vtt"]


def transcribe(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Recordings: WAV, MP3, M4A, MP4, AAC, FLAC, OGG, Opus, WebM, AIFF, AMR."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Recognition model: a name in the store, or a path; left out: that of the setting recognition_model.",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="Language that is spoken, such as en or zh; left out: it is detected."
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="Shape of the text: plain, or the subtitles of SubRip or WebVTT.")
    ] = "text",
    translate: Annotated[
        bool, typer.Option("--translate", help="Write English text, whatever language is spoken.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that gets a file with the text of each recording; left out: standard output.",
        ),
    ] = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Turn recordings into text on this machine. Recordings that fail are named, and the status is 1."""
    failed = 0
    with reported_errors(as_json=json):
        from deepwell.media.recognition.options import RecognitionOptions
        from deepwell.settings import Settings

        settings = Settings.load(models_dir=models_dir)
        recogniser = _recogniser(settings, model or settings.recognition_model)
        options = RecognitionOptions(language, translate)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        failed = asyncio.run(_all(recogniser, files, options, _Teller(format, out, len(files), json)))
    if failed:
        raise typer.Exit(1)


def _recogniser(settings: Settings, name: str) -> Recogniser:
    from deepwell.media.recognition.model import RecognitionModel
    from deepwell.media.recognition.process import Recogniser, RecogniserLimits, check_installed
    from deepwell.models.store.store import ModelStore

    check_installed()
    stored = ModelStore(settings.models_dir).resolve(name)
    limits = RecogniserLimits(settings.threads or 0, settings.recognition_most_s)
    return Recogniser(RecognitionModel.of(stored.name, stored.path), limits)


async def _all(
    recogniser: Recogniser, files: Sequence[Path], options: RecognitionOptions, teller: _Teller
) -> int:
    """Recognises all recordings. Returns how many failed; what concerns the model ends the work."""
    from deepwell.cli.output import print_error
    from deepwell.errors import InvalidFile, UnsupportedFile

    failed = 0
    try:
        for file in files:
            try:
                with counted(f"{file.name}: seconds heard", shown=not teller.json) as update:
                    async with recogniser.hear(SINGLE_TENANT, file, options) as hearing:
                        segments = await _heard(hearing, update)
            except (InvalidFile, UnsupportedFile) as error:
                if len(files) == 1:
                    raise
                failed += 1
                if teller.json:
                    told = {
                        "message": error.message,
                        "fix": error.fix,
                        "type": error.type,
                        "code": error.code,
                    }
                    write_json({"file": str(file), "error": told})
                else:
                    console(stderr=True).print(f"{file}:", soft_wrap=True)
                    print_error(error)
                continue
            teller.tell(file, hearing, segments)
    finally:
        await recogniser.close()
    return failed


async def _heard(hearing: Hearing, update: Callable[[int, int], None]) -> list[Segment]:
    segments: list[Segment] = []
    total = int(hearing.seconds)
    update(0, total)
    async for segment in hearing.segments():
        segments.append(segment)
        update(min(int(segment.end), total), total)
    return segments


class _Teller:
    """Writes the text of each recording where it belongs.

    Args:
        count: number of recordings; each of several is headed by its name.
    """

    def __init__(self, format: Format, out: Path | None, count: int, json: bool) -> None:
        assert format in get_args(Format)
        self._format = format
        self._out = out
        self._count = count
        self.json = json

    def tell(self, file: Path, hearing: Hearing, segments: Sequence[Segment]) -> None:
        from deepwell.media.recognition.written import srt, text_of, vtt

        if self._format == "text":
            text = text_of(segments) + "\n"
        else:
            text = srt(segments) if self._format == "srt" else vtt(segments)
        body: dict[str, Any] = {
            "file": str(file),
            "language": hearing.language,
            "seconds": round(hearing.seconds, 3),
            "text": text_of(segments),
            "segments": [{"start": one.start, "end": one.end, "text": one.text.strip()} for one in segments],
        }
        if self._out is not None:
            suffix = ".txt" if self._format == "text" else f".{self._format}"
            target = self._out / f"{file.stem}{suffix}"
            target.write_text(text, encoding="utf-8")
            body["written"] = str(target)
            text = f"{target}: {hearing.seconds:.1f} s, {hearing.language}\n"
        elif self._count > 1 and not self.json:
            text = f"# {file}\n{text}"
        if self.json:
            write_json(body)
        else:
            console().print(text, end="", soft_wrap=True)
