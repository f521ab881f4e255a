"""`deepwell media speak` and `voices`: text becomes speech, without a server."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from deepwell.cli.options import ModelsDir
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.progress import counted
from deepwell.process.calls import SINGLE_TENANT

if TYPE_CHECKING:
    from deepwell.media.speech.options import SpeechModel, SpeechRequest
    from deepwell.media.speech.programs.process import AnySpeaker
    from deepwell.settings import Settings

__all__ = ["speak", "voices"]

Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Speech model: a name in the store, or a path; left out: that of the setting speech_model.",
    ),
]
_SUFFIXES = {"ogg": "opus"}


def speak(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE", help="File that gets the sound; its ending names the format."
        ),
    ],
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Text to read aloud, in Chinese, English or both.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="Text file to read aloud, in UTF-8; - is standard input."
        ),
    ] = None,
    voice: Annotated[
        str | None,
        typer.Option(
            metavar="VOICE",
            help="Voice, as `deepwell media voices` lists them; left out: the default of the text's language.",
        ),
    ] = None,
    speed: Annotated[
        float, typer.Option(metavar="FACTOR", help="Speed from 0.25 to 4; 1 is the voice's own.")
    ] = 1.0,
    format: Annotated[
        Format | None, typer.Option(help="Format of the sound; left out: that of the file's ending.")
    ] = None,
    model: Model = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Read a text aloud into a file, on this machine."""
    with reported_errors(as_json=json):
        from deepwell.media.speech.options import open_speech_model, planned_speech
        from deepwell.media.speech.process import check_installed
        from deepwell.models.store.store import ModelStore
        from deepwell.settings import Settings

        said, shape = _text(text, file), _format(out, format)
        settings = Settings.load(models_dir=models_dir)
        name, store = model or settings.speech_model, ModelStore(settings.models_dir)
        opened = open_speech_model(store, name)
        if opened.backend == "kokoro":
            check_installed()
        request = planned_speech(opened, said, voice=voice, speed=speed, format=shape)
        report = asyncio.run(_spoken(_speaker(settings, opened), request, out, shown=not json))
        if json:
            write_json(report)
        else:
            console().print(
                f"{out}: {report['seconds']:.1f} s, {report['voice']}", soft_wrap=True, markup=False
            )


def voices(model: Model = None, models_dir: ModelsDir = None, json: JsonFlag = False) -> None:
    """List the voices of the speech model, and the names of OpenAI's that stand for them."""
    with reported_errors(as_json=json):
        from deepwell.media.speech.options import open_speech_model
        from deepwell.media.speech.voices import ALIASES, DEFAULT_VOICES
        from deepwell.messages import say
        from deepwell.models.store.store import ModelStore
        from deepwell.settings import Settings

        settings = Settings.load(models_dir=models_dir)
        opened = open_speech_model(ModelStore(settings.models_dir), model or settings.speech_model)
        found = [
            {
                "name": one.name,
                "language": one.accent,
                "gender": one.gender,
                "aliases": [alias for alias, pair in ALIASES.items() if one.name in pair],
                "default": one.name in DEFAULT_VOICES.values(),
            }
            for one in opened.voices
        ]
        if json:
            write_json({"model": opened.name, "voices": found})
            return
        rows = [
            (
                f"{one['name']}{' *' if one['default'] else ''}",
                str(one["language"]),
                say(f"voice_{one['gender']}"),
                ", ".join(cast("list[str]", one["aliases"])),
            )
            for one in found
        ]
        print_table(say("voices_columns").split("|"), rows)
        if opened.backend == "kokoro":
            console().print(f"\n{say('voices_note')}", soft_wrap=True)


def _text(text: str | None, file: Path | None) -> str:
    from deepwell.errors import InvalidRequest

    if (text is None) == (file is None):
        raise InvalidRequest.of("speech_text_or_file")
    if text is not None:
        return text
    assert file is not None
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise InvalidRequest.of("speech_file", file=file, reason=error.strerror) from error
    except UnicodeDecodeError as error:
        raise InvalidRequest.of("speech_file", file=file, reason="UTF-8") from error


def _format(out: Path, format: Format | None) -> Format:
    from deepwell.errors import InvalidRequest

    ending = out.suffix.lower().removeprefix(".")
    found = format or _SUFFIXES.get(ending, ending)
    if found not in get_args(Format):
        raise InvalidRequest.of("speech_format", file=out, known=", ".join(get_args(Format)))
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InvalidRequest.of("speech_out", file=out)
    return cast("Format", found)


def _speaker(settings: Settings, model: SpeechModel) -> AnySpeaker:
    from deepwell.media.speech.process import SpeakerLimits
    from deepwell.media.speech.programs.process import speaker_of

    return speaker_of(model, SpeakerLimits(settings.threads or 0))


async def _spoken(speaker: AnySpeaker, request: SpeechRequest, out: Path, *, shown: bool) -> dict[str, Any]:
    """Writes the sound beside the file, and gives it its name when it is whole."""
    from deepwell.errors import InvalidRequest
    from deepwell.media.speech.encode import fill_wav_lengths

    seconds, done = 0.0, 0
    total = sum(len(piece.text) for piece in request.pieces)
    part = out.with_name(f".{out.name}.part")
    try:
        with counted("characters said", shown=shown) as update, part.open("w+b") as target:
            update(0, total)
            async for sound in speaker.speak(SINGLE_TENANT, request):
                target.write(sound.data)
                seconds += sound.seconds
                done = min(done + sound.characters, total)
                update(done, total)
            if request.format == "wav":
                fill_wav_lengths(target)
        part.replace(out)
    except OSError as error:
        raise InvalidRequest.of("speech_file", file=out, reason=error.strerror) from error
    finally:
        part.unlink(missing_ok=True)
        await speaker.close()
    return {
        "file": str(out),
        "format": request.format,
        "seconds": round(seconds, 3),
        "voice": request.voice.name,
        "language": request.language,
        "characters": total,
    }
