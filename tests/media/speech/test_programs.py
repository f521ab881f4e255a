"""Programs speak: espeak-ng itself where it is installed, a stand-in for Piper, hostile programs, and voices of strangers."""

from __future__ import annotations

import io
import json
import os
import sys
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.needs import ESPEAK, SECCOMP
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.errors import EngineUnavailable, InvalidModelFile, InvalidRequest, MissingDependency
from deepwell.media.speech.options import SpeechModel, open_speech_model, planned_speech, stored_speech_models
from deepwell.media.speech.programs.backends import read_piper_voice
from deepwell.media.speech.programs.process import ProgramSpeaker
from deepwell.media.speech.programs.resample import Resampler
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.store import ModelStore
from deepwell.process.confinement.launch import innermost

espeak_here = pytest.mark.needs(ESPEAK)
linux = pytest.mark.needs(SECCOMP)
ESPEAK = SpeechModel("espeak", Path("/"), "espeak")
PIPER = {"audio": {"sample_rate": 24_000}, "language": {"code": "en_US"}}
TOLD = """
import json, sys
data = json.dumps({"argv": sys.argv[1:], "text": sys.stdin.buffer.read().decode()}).encode()
sys.stdout.buffer.write(data + b" " * (len(data) % 2))
"""


def piper_voice(folder: Path, config: Any = PIPER, name: str = "en_US-tester-low") -> SpeechModel:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(b"weights")
    (folder / f"{name}.onnx.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return SpeechModel.at("tester", folder)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes a program that is found as Piper."""

    def write(code: str) -> None:
        program = tmp_path / "bin" / "piper"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!{sys.executable}\n{code}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return write


@pytest.fixture
async def speaker(tmp_path: Path) -> AsyncIterator[ProgramSpeaker]:
    speaker = ProgramSpeaker(piper_voice(tmp_path / "voice"))
    yield speaker
    await speaker.close()


async def said(speaker: ProgramSpeaker, text: str, **asked: Any) -> bytes:
    request = planned_speech(speaker.model, text, **{"format": "pcm"} | asked)
    async with aclosing(speaker.speak("t", request)) as sounds:
        found = [sound async for sound in sounds]
    assert [sound.last for sound in found] == [*[False] * (len(found) - 1), True]
    return b"".join(sound.data for sound in found)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_sound_of_another_rate_stays_what_it_was(rate: int) -> None:
    times = np.arange(rate) / rate
    samples = (8_000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
    whole, parts = Resampler(rate), Resampler(rate)
    found = np.concatenate((whole.add(samples), whole.end()))
    cuts = np.split(samples, [1, 50, 51, 4_000])
    pieces = np.concatenate([*(parts.add(cut) for cut in cuts), parts.end()])
    assert np.array_equal(found, pieces) and abs(len(found) - 24_000) <= 1
    wanted = 8_000 * np.sin(2 * np.pi * 440 * np.arange(len(found)) / 24_000)
    assert np.abs(found - wanted)[200:-200].max() < 40


async def test_the_text_goes_to_standard_input_and_options_into_arguments(
    speaker: ProgramSpeaker, stand_in: Callable[[str], None]
) -> None:
    stand_in(TOLD)
    text = "--help; $(touch /tmp/x) `id` [[h@]] <break/>. And a second one."
    told = json.loads(await said(speaker, text, speed=2.0))
    file = str(speaker.model.folder / "en_US-tester-low.onnx")
    assert told["argv"] == [
        *("--model", file, "--config", f"{file}.json", "--output_raw"),
        *("--length_scale", "0.5000", "--sentence_silence", "0.2"),
    ]
    words = text.replace("[[", "[ [").split()
    assert told["text"].split() == words


async def test_a_voice_of_several_speakers_has_a_voice_for_each(
    tmp_path: Path, stand_in: Callable[[str], None]
) -> None:
    stand_in(TOLD)
    model = piper_voice(tmp_path / "many", PIPER | {"speaker_id_map": {"low": 1, "high": 0}})
    assert [voice.name for voice in model.voices] == ["high", "low"]
    speaker = ProgramSpeaker(model)
    told = json.loads(await said(speaker, "Good morning.", voice="low"))
    assert told["argv"][-2:] == ["--speaker", "1"]
    assert json.loads(await said(speaker, "Good morning.", voice="alloy"))["argv"][-1] == "0"
    with pytest.raises(InvalidRequest, match="no voice 'middle'"):
        await said(speaker, "Good morning.", voice="middle")
    with pytest.raises(InvalidRequest, match="reads no Chinese"):
        await said(speaker, "今天天气很好。")
    await speaker.close()


@linux
async def test_a_program_can_neither_write_nor_reach_the_network_nor_start_another(
    speaker: ProgramSpeaker, stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    stand_in(f"""
import os, socket, subprocess, sys
found = []
def tried(name, work):
    try:
        work()
        found.append(name)
    except OSError:
        pass
tried("write", lambda: open({str(tmp_path / "written")!r}, "w").write("x"))
tried("remove", lambda: os.unlink({str(tmp_path / "voice" / "en_US-tester-low.onnx")!r}))
tried("network", lambda: socket.socket())
tried("fork", lambda: os.fork())
tried("program", lambda: subprocess.run(["/bin/true"]))
tried("kill", lambda: os.kill(os.getppid(), 0))
found.append("secret" if "TEST_API_KEY" in os.environ else "")
data = ("found:" + ",".join(found)).ljust(60).encode()
sys.stdout.buffer.write(data)
""")
    os.environ["TEST_API_KEY"] = "secret"
    try:
        assert (await said(speaker, "Good morning.")).decode().strip() == "found:"
    finally:
        del os.environ["TEST_API_KEY"]
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("import sys\nwhile True: sys.stdout.buffer.write(bytes(1 << 16))", InvalidRequest, "s of sound"),
        ("import sys\nsys.exit('the voice is damaged')", EngineUnavailable, "the voice is damaged"),
        ("import signal\nsignal.pause()", EngineUnavailable, "no sound for"),
        ("import sys\nsys.stderr.write('x' * 9_000_000)\nsys.exit(3)", EngineUnavailable, "piper failed: x"),
        ("import sys\nsys.stdin.close()", InvalidRequest, "no word that can be said"),
        ("x = bytearray(3 << 30)", EngineUnavailable, "MemoryError"),
    ],
)
async def test_a_program_that_misbehaves_is_ended(
    tmp_path: Path, stand_in: Callable[[str], None], code: str, error: type[Exception], words: str
) -> None:
    stand_in(code)
    silence_s = 1.0 if "pause" in code else 60.0
    speaker = ProgramSpeaker(piper_voice(tmp_path / "voice"), silence_s=silence_s)
    with pytest.raises(error, match=words):
        await said(speaker, "Good morning.")
    stand_in(TOLD)
    assert b"Good morning" in await said(speaker, "Good morning."), "the next text is said"
    await speaker.close()


async def test_a_listener_that_leaves_ends_the_program(
    speaker: ProgramSpeaker, stand_in: Callable[[str], None]
) -> None:
    stand_in("import signal, sys\nsys.stdout.buffer.write(bytes(60))\nsys.stdout.flush()\nsignal.pause()")
    async with aclosing(speaker.speak("t", planned_speech(speaker.model, "Hello.", format="pcm"))) as sounds:
        await anext(sounds)
        (pid,) = [one for one in map(innermost, children()) if "bin/piper" in command_of(one)]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def children() -> list[int]:
    files = Path("/proc/self/task").glob("*/children")
    return [int(pid) for file in files for pid in file.read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_a_program_that_is_not_here_is_named(
    speaker: ProgramSpeaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="program piper") as raised:
        await said(speaker, "Good morning.")
    assert "pipx install piper-tts" in raised.value.fix
    with pytest.raises(MissingDependency, match="espeak-ng"):
        planned_speech(ESPEAK, "Good morning.")


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        {},
        {"audio": {"sample_rate": "24000"}},
        {"audio": {"sample_rate": 0}},
        {"audio": {"sample_rate": 10**9}},
        {"audio": {"sample_rate": 24_000}, "language": 5},
        PIPER | {"speaker_id_map": {"a": "--help"}},
        PIPER | {"speaker_id_map": [1]},
        PIPER | {"padding": "x" * (2 << 20)},
    ],
)
def test_settings_of_strangers_are_judged(tmp_path: Path, config: Any) -> None:
    with pytest.raises(InvalidModelFile, match="voice of Piper"):
        read_piper_voice(piper_voice(tmp_path / "voice", config).folder)


def test_a_voice_of_piper_is_a_speech_model(tmp_path: Path) -> None:
    folder = piper_voice(tmp_path / "tester").folder
    assert kind_of(folder) == "speech"
    store = ModelStore(tmp_path / "models")
    store.pull(str(folder))
    assert stored_speech_models(store) == ["tester"]
    assert open_speech_model(store, "tester").backend == "piper"
    assert open_speech_model(store, "espeak").backend == "espeak"
    (folder / "second.onnx").write_bytes(b"x")
    (folder / "second.onnx.json").write_text("{}")
    assert kind_of(folder) == "text"


@espeak_here
async def test_espeak_reads_many_languages_aloud() -> None:
    speaker = ProgramSpeaker(ESPEAK)
    seconds: dict[tuple[str, str, float], float] = {}
    for text, voice, speed in (
        ("The meeting starts at half past ten.", "alloy", 1.0),
        ("The meeting starts at half past ten.", "alloy", 2.0),
        ("The meeting starts at half past ten.", "alloy", 4.0),
        ("会议在十点半开始。", "alloy", 1.0),
        ("Доброе утро.", "ru", 1.0),
        ("会議は十時半に始まります。", "ja", 1.0),
    ):
        request = planned_speech(ESPEAK, text, voice=voice, speed=speed)
        data = await said(speaker, text, voice=voice, speed=speed, format="wav")
        seconds[text, request.voice.name, speed] = (len(data) - 44) / 48_000
        samples = np.frombuffer(data[44:], "<i2")
        assert np.abs(samples.astype(int)).max() > 3_000
        with wave.open(io.BytesIO(data)) as file:
            assert file.getframerate() == 24_000
    assert [key[1] for key in seconds] == ["en-us", "en-us", "en-us", "cmn", "ru", "ja"]
    normal, fast, fastest, *others = seconds.values()
    assert normal > 1.5 * fast > 2 * fastest and all(0.3 < one < 8 for one in others)
    for asked, words in (
        ({"speed": 0.3}, "speed 0.3 is not between 0.46"),
        ({"voice": "xx"}, "no voice"),
        ({"voice": "-w/tmp/x"}, "no voice"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            await said(speaker, "Good morning.", **asked)
    with pytest.raises(InvalidRequest, match="mostly Chinese"):
        await said(speaker, "今天天气很好。", voice="en-us")
    await speaker.close()


@espeak_here
def test_the_terminal_speaks_with_espeak(tmp_path: Path) -> None:
    out = tmp_path / "morning.wav"
    found = CliRunner().invoke(
        app, ["media", "speak", "Good morning.", "--model", "espeak", "-o", str(out), "--json"]
    )
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    with wave.open(str(out)) as file:
        assert file.getnframes() / 24_000 == pytest.approx(report["seconds"], abs=0.01)
    listed = CliRunner().invoke(app, ["media", "voices", "--model", "espeak", "--json"])
    assert {"en-us", "cmn", "fr-fr"} <= {one["name"] for one in json.loads(listed.stdout)["voices"]}
