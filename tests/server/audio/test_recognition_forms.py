"""The forms of recognition: what cannot be done is refused by name, with the fix, before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from deepwell.server.context import ServerContext

PATH = "/v1/audio/transcriptions"
FILE = ("a.wav", b"RIFF")


def form(*fields: tuple[str, str], file: Any = FILE) -> list[tuple[str, Any]]:
    return [("file", file), *((name, (None, value)) for name, value in fields)]


MODEL = ("model", "whisper-tiny.en")


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ([], "missing parameter 'model'", "model"),
        ([("model", "")], "missing parameter 'model'", "model"),
        ([MODEL, ("response_format", "diarized_json")], "speakers are not told apart", "response_format"),
        ([MODEL, ("response_format", "xml")], "response_format cannot be 'xml'", "response_format"),
        ([MODEL, ("temperature", "hot")], "send a number from 0 to 1", "temperature"),
        ([MODEL, ("temperature", "1.1")], "send a number from 0 to 1", "temperature"),
        ([MODEL, ("temperature", "nan")], "send a number from 0 to 1", "temperature"),
        ([MODEL, ("stream", "maybe")], "stream cannot be 'maybe'", "stream"),
        ([MODEL, ("stream", "true"), ("response_format", "srt")], "a stream has text alone", "stream"),
        (
            [MODEL, ("timestamp_granularities[]", "word")],
            "response_format verbose_json",
            "timestamp_granularities[]",
        ),
        ([MODEL, ("timestamp_granularities[]", "letter")], "cannot be 'letter'", "timestamp_granularities[]"),
        ([MODEL, ("include[]", "logprobs")], "no log probabilities of tokens", "include"),
        ([MODEL, ("keywords[]", "a"), ("keywords[]", "b")], "comes twice", "keywords[]"),
        ([MODEL, ("keywords[]", "a")], "write the words into prompt", "keywords"),
        ([MODEL, ("languages[]", "en")], "send language", "languages"),
        ([MODEL, ("known_speaker_names[]", "a")], "speakers are not told apart", "known_speaker_names"),
        ([MODEL, ("chunking_strategy", "sometimes")], "cannot be 'sometimes'", "chunking_strategy"),
        ([MODEL, ("chunking_strategy[threshold]", "0.5")], "server_vad", "chunking_strategy[type]"),
        (
            [MODEL, ("chunking_strategy[type]", "server_vad"), ("chunking_strategy[threshold]", "2")],
            "from 0 to 1",
            "chunking_strategy[threshold]",
        ),
        (
            [MODEL, ("chunking_strategy", "auto"), ("chunking_strategy[type]", "server_vad")],
            "comes twice",
            "chunking_strategy",
        ),
        ([MODEL, ("color", "blue")], "unknown parameter 'color'", "color"),
        ([MODEL, MODEL], "'model' comes twice", "model"),
    ],
)
async def test_a_field_is_refused_by_name(
    http: httpx.AsyncClient, fields: list[tuple[str, str]], said: str, param: str
) -> None:
    answer = await http.post(PATH, files=form(*fields))
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"] and error["param"] == param


@pytest.mark.parametrize("name", ["language", "stream", "timestamp_granularities[]", "chunking_strategy"])
async def test_translations_have_fewer_fields(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.post("/v1/audio/translations", files=form(MODEL, (name, "x")))
    assert answer.status_code == 400 and f"unknown parameter '{name}'" in answer.json()["error"]["message"]


async def test_a_form_needs_its_file(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, files=[("model", (None, "x"))])
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "file"
    answer = await http.post(PATH, files=form(MODEL, file=("a.wav", b"")))
    assert answer.status_code == 400 and "empty file" in answer.json()["error"]["message"]
    answer = await http.post(PATH, json={"model": "whisper-1"})
    assert answer.status_code == 400 and "not a form" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("whisper-tiny.en", "deepwell pull whisper-tiny.en"),
        ("whisper-1", "deepwell pull whisper-tiny.en"),
        ("gpt-4o-transcribe", "name one of whisper-tiny.en"),
        ("toy", "there is no recognition model"),
        ("/etc", "there is no recognition model '/etc'"),
        ("../models", "there is no recognition model"),
    ],
)
async def test_a_model_that_is_not_here_is_named_with_the_fix(
    http: httpx.AsyncClient, name: str, said: str
) -> None:
    answer = await http.post(PATH, files=form(("model", name)))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert said in error["message"]


async def test_no_recording_stays_behind(http: httpx.AsyncClient, service: ServerContext) -> None:
    await http.post(PATH, files=form(("model", "none")))
    await http.post(PATH, files=form())
    drafts: list[Path] = [*service.state.folder.rglob("drafts/*")]
    assert drafts == []
