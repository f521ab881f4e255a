"""The kinds of child processes, each started by its real parent class with the call for actions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from deepwell.process.calls import CallEnded, CallProcess
from deepwell.process.confinement.launch import base_python, end_program, program_command, walls
from deepwell_bench.workers.confinement import actions
from deepwell_bench.workers.confinement.child import OUTCOMES, magic, write_module

__all__ = ["KINDS", "Kind", "open_kind"]

_CALL_S: Final = 0.5
_VICTIM, _ATTACKER = "victim", "attacker"
_EXITED: Final = f"exited with status {actions.EXIT_REACHED}"
_WAIT_S: Final = 6.0


class Kind(Protocol):
    """A kind of child."""

    def start(self) -> bool:
        """Starts it; returns whether the machine gives it every wall."""
        ...

    def prime(self, handed: Path) -> bool:
        """Has it read a file of another tenant; returns whether it could."""
        ...

    def attempt(self, name: str, world: str) -> str:
        """Tries an action in it; returns the outcome."""
        ...

    def end(self) -> None:
        """Ends the process; the next attempt starts another."""
        ...

    def close(self) -> None:
        """Ends it for good."""
        ...

    @property
    def pid(self) -> int:
        """Process id; 0: it does not stay."""
        ...


def _refused(error: BaseException) -> str:
    return actions.REACHED if _EXITED in str(error) else f"ended({error})"


class _Called:
    """A child that answers calls."""

    def __init__(self, calls: CallProcess, folder: Path, prime: Callable[[Path], Any] | None = None) -> None:
        self._calls, self._prime = calls, prime
        name = "attacked_" + calls._module.rpartition("deepwell.")[2].replace(".", "_")  # pyright: ignore[reportPrivateUsage]
        write_module(folder, name, calls._module)  # pyright: ignore[reportPrivateUsage]
        calls._module = name  # pyright: ignore[reportPrivateUsage]
        decode = calls._decode  # pyright: ignore[reportPrivateUsage]

        def either(body: bytes) -> Any:
            try:
                return decode(body)
            except msgspec.MsgspecError:  # what an action says
                return body

        calls._decode = either  # pyright: ignore[reportPrivateUsage]

    def start(self) -> bool:
        self._calls.start(_ATTACKER)
        return walls().whole

    def prime(self, handed: Path) -> bool:
        if self._prime is None:
            return False
        with contextlib.suppress(Exception):  # the file need not be sound: it has been read
            self._prime(handed)
        return True

    def attempt(self, name: str, world: str) -> str:
        try:
            return self._calls.call(magic(name, world), _CALL_S, tenant=_ATTACKER).decode(errors="replace")
        except CallEnded as error:
            return _refused(error)
        except Exception as error:  # it is the server that fails
            return f"{actions.REACHED} (the server failed: {type(error).__name__}: {error})"

    def end(self) -> None:
        self._calls.close()

    def close(self) -> None:
        self._calls.close()

    @property
    def pid(self) -> int:
        return self._calls.pid


class _Forked:
    """The server of forks, an action a fork."""

    def __init__(self, folder: Path) -> None:
        from deepwell.engine.grammar import trial

        self._trials = trial.Trials()
        self._forks = self._trials._forks  # pyright: ignore[reportPrivateUsage]
        write_module(folder, "attacked_trial", trial.__name__)
        self._forks._module = "attacked_trial"  # pyright: ignore[reportPrivateUsage]

    def start(self) -> bool:
        return self._trials.compile('start: "a"') >= 0

    def prime(self, handed: Path) -> bool:
        with contextlib.suppress(Exception):
            self._trials.compile(f'start: "{handed.read_text()}"')
        return True

    def attempt(self, name: str, world: str) -> str:
        try:
            found = self._forks._run(magic(name, world))  # pyright: ignore[reportPrivateUsage]
        except CallEnded as error:
            return _refused(error)
        return "refused" if found is None or found < 0 else OUTCOMES[found]

    def end(self) -> None:
        pass  # each fork has ended

    def close(self) -> None:
        self._trials.close()

    @property
    def pid(self) -> int:
        return 0


class _Commanded:
    """A program that is started for each action, with the action's name and world as JSON on its standard input."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def start(self) -> bool:
        return True

    def prime(self, handed: Path) -> bool:
        return False

    def attempt(self, name: str, world: str) -> str:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            said = process.communicate(json.dumps([name, world]).encode(), timeout=_WAIT_S)[0].decode()
        except subprocess.TimeoutExpired:
            end_program(process.pid)
            process.communicate()
            return "ended(it did not answer in time)"
        if process.returncode == actions.EXIT_REACHED:
            return actions.REACHED
        return said.strip() or f"ended(status {process.returncode})"

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def pid(self) -> int:
        return 0


class _Sandboxed:
    """A program of an agent."""

    def __init__(self) -> None:
        from deepwell.agents.sandbox import Sandbox, SandboxLimits

        self._sandbox = Sandbox(SandboxLimits(seconds=5.0, processor_s=4))
        self._files = {"actions.py": Path(actions.__file__).read_bytes()}

    def start(self) -> bool:
        return "42" in asyncio.run(self._sandbox.run("print(42)")).stdout

    def prime(self, handed: Path) -> bool:
        asyncio.run(self._sandbox.run("open('left', 'w').write(input())", stdin=handed.read_bytes()))
        return True

    def attempt(self, name: str, world: str) -> str:
        source = f"import actions\nprint(actions.attempt({name!r}, actions.World.of({world!r})))"
        found = asyncio.run(self._sandbox.run(source, files=self._files))
        if found.exit_code == actions.EXIT_REACHED:
            return actions.REACHED
        lines = found.stdout.strip().splitlines()
        return lines[-1] if lines else f"ended(status {found.exit_code})"

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def pid(self) -> int:
        return 0


def _images(models: Path, folder: Path) -> Kind:
    from deepwell.media.images.reader import ImageReader

    reader = ImageReader()

    def prime(handed: Path) -> None:
        asyncio.run(reader.read(_VICTIM, _png(folder, handed), 32, 256))

    return _Called(reader._calls, folder, prime)  # pyright: ignore


def _documents(models: Path, folder: Path) -> Kind:
    from deepwell.knowledge.parse.process import ParseProcess

    parser = ParseProcess()
    return _Called(
        parser._calls,  # pyright: ignore
        folder,
        lambda handed: parser.parse_blocking(_VICTIM, handed, "handed.txt"),
    )


def _texts(models: Path, folder: Path) -> Kind | None:
    from deepwell.models.text.text_process import TextProcess

    path = models / "smollm2"
    if not path.exists():
        return None
    text = TextProcess(next(path.glob("*.gguf"), path))
    return _Called(text._calls, folder, lambda handed: text.encode([handed.read_text()]))  # pyright: ignore


def _recognition(models: Path, folder: Path) -> Kind | None:
    from deepwell.media.recognition.model import RecognitionModel
    from deepwell.media.recognition.options import RecognitionOptions
    from deepwell.media.recognition.process import Recogniser

    path = models / "whisper-tiny.en"
    if not path.exists():
        return None
    recogniser = Recogniser(RecognitionModel("whisper-tiny.en", path))

    async def hear(handed: Path) -> None:
        async with recogniser.hear(_VICTIM, _wave(folder, handed), RecognitionOptions()):
            pass

    return _Called(
        recogniser._turns._calls,  # pyright: ignore
        folder,
        lambda handed: asyncio.run(hear(handed)),
    )


def _speech(models: Path, folder: Path) -> Kind | None:
    from deepwell.media.speech.options import SpeechModel
    from deepwell.media.speech.process import Speaker

    path = models / "kokoro"
    if not path.exists():
        return None
    speaker = Speaker(SpeechModel("kokoro", path))
    return _Called(speaker._turns._calls, folder)  # pyright: ignore


def _encoding(models: Path, folder: Path) -> Kind:
    from deepwell.media.speech.options import SpeechModel
    from deepwell.media.speech.programs.process import ProgramSpeaker

    speaker = ProgramSpeaker(SpeechModel("espeak", folder, "espeak"))
    return _Called(speaker._turns._calls, folder)  # pyright: ignore


def _painting(models: Path, folder: Path) -> Kind:
    from deepwell.media.images.flow import FlowConfig, FlowModel
    from deepwell.media.images.options import ImageModel
    from deepwell.media.images.process import Painter

    FlowModel.random(FlowConfig(width=32, depth=1, heads=2), 0).write(folder / "draw")
    painter = Painter(ImageModel("draw", folder / "draw"))
    return _Called(painter._turns._calls, folder)  # pyright: ignore


def _space(models: Path, folder: Path) -> Kind:
    from deepwell.media.space.options import SenseModels
    from deepwell.media.space.process import Sensing

    safety = models / "opennsfw"
    sensing = Sensing(SenseModels(None, None, safety if safety.exists() else None))
    return _Called(
        sensing._turns._calls,  # pyright: ignore
        folder,
        lambda handed: asyncio.run(sensing.look(_VICTIM, _png(folder, handed).read_bytes())),
    )


def _rules(models: Path, folder: Path) -> Kind:
    from deepwell.agents.rules.logic.wire import Examine
    from deepwell.agents.rules.process import RuleProcess

    rules = RuleProcess()

    def prime(handed: Path) -> None:
        rules.examine(Examine(f"% {handed.read_text()}"))  # pyright: ignore

    return _Called(rules._calls, folder, prime)  # pyright: ignore


def _sql(models: Path, folder: Path) -> Kind:
    import sqlite3

    from deepwell.agents.tools.files.folder import ConfinedFolder
    from deepwell.agents.tools.sql import tools

    place = folder / "tables"
    place.mkdir()
    database = sqlite3.connect(place / "a.db")
    database.execute("CREATE TABLE t (a TEXT)")
    database.close()
    tools._CHILD = folder / "attacked_sql.py"  # pyright: ignore
    tools._CHILD.write_text(_program_text())  # pyright: ignore
    command, _ = tools._Databases(ConfinedFolder(place), tools.SqlLimits())._call("a.db", None, 5.0)  # pyright: ignore
    return _Commanded(command)


def _speech_program(models: Path, folder: Path) -> Kind:
    path = folder / "attacked_program.py"
    path.write_text(_program_text())
    return _Commanded(program_command([base_python(), "-I", "-S", str(path)], 2 << 30, 60, [path]))


def _program_text() -> str:
    source = Path(actions.__file__).read_text(encoding="utf-8").partition("def _main()")[0]
    return (
        f"{source}\nname, world = json.load(sys.stdin)\nprint(attempt(name, World.of(world)), flush=True)\n"
    )


KINDS: Final[dict[str, Callable[[Path, Path], Kind | None]]] = {
    "documents": _documents,
    "images": _images,
    "painting": _painting,
    "space": _space,
    "recognition": _recognition,
    "speech": _speech,
    "speech encoding": _encoding,
    "speech program": _speech_program,
    "texts": _texts,
    "grammar trial": lambda _, folder: _Forked(folder),
    "rules": _rules,
    "sql": _sql,
    "agent sandbox": lambda _, __: _Sandboxed(),
}
"""Makers of each kind, given the folder of the models and one to write in; None: what it needs is not here."""


def open_kind(name: str, models: Path, folder: Path) -> Kind | None:
    """Returns a kind of child that is not started yet; None: what it needs is not here."""
    modules = folder / "modules"
    modules.mkdir(exist_ok=True)
    sys.path.append(str(modules))
    folder.chmod(0o755)
    return KINDS[name](models, modules)


def _png(folder: Path, handed: Path) -> Path:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 96, 8, 2, 0, 0, 0))
    text = chunk(b"tEXt", b"key\0" + handed.read_bytes())
    pixels = chunk(b"IDAT", zlib.compress(bytes(96 * (96 * 3 + 1))))
    path = folder / "handed.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + text + pixels + chunk(b"IEND", b""))
    return path


def _wave(folder: Path, handed: Path) -> Path:
    samples = bytes(64_000)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    text = handed.read_bytes().ljust(128, b"\0")
    body = b"WAVE" + form + b"LIST" + struct.pack("<I", len(text)) + text
    body += b"data" + struct.pack("<I", len(samples)) + samples
    path = folder / "handed.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path
