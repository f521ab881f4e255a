"""The pages of the learning path as programs: their commands are run in order, and what they print can be put into the page."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx

from deepwell.errors import DeepwellError

__all__ = ["PORT", "Block", "Played", "Player", "blocks_of", "commands_of", "step_pages", "with_outputs"]

PORT: Final = 8000
"""Port that the pages name."""

Kind = Literal["console", "server", "tune", "python"]
_FENCE: Final = re.compile(r"```(console server|console tune|console|python)\n(.*?)```", re.DOTALL)
_FILE: Final = re.compile(r"# ([a-z_]+\.py)\n")
_START_S: Final = 300.0
_COMMAND_S: Final = 1500.0


class PageFailed(DeepwellError):
    """Raised when a command of a page does not end as it should."""

    type = "page_failed"


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page that is run.

    Attributes:
        kind: `console`: commands; `server`: a server that stays until the next one; `tune`: commands that need PyTorch;
            `python`: a program whose first line names its file.
        start: place of the text in the page; `end` is behind it.
    """

    kind: Kind
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Played:
    """A command that was run, what it printed, its exit code and its seconds."""

    command: str
    output: str
    code: int
    seconds: float


def step_pages(docs: Path, language: str) -> list[Path]:
    """Returns the pages of the steps in a language, in order."""
    chinese = language == "zh"
    pages = sorted((docs / "learn").glob("[0-9][0-9]-*.md"))
    return [page for page in pages if page.name.endswith(".zh-CN.md") == chinese]


def blocks_of(page: str) -> list[Block]:
    """Returns the blocks of a page that are run, in order."""
    found: list[Block] = []
    for match in _FENCE.finditer(page):
        word = match[1].split()[-1]
        kind: Kind = "server" if word == "server" else "tune" if word == "tune" else "console"
        found.append(Block("python" if word == "python" else kind, match[2], match.start(2), match.end(2)))
    return found


def commands_of(block: str) -> list[str]:
    """Returns the commands of a console block, which begin with `$`, each with the lines that continue it."""
    return [command for command, _ in _parsed(block)]


def _parsed(block: str) -> list[tuple[str, str]]:
    """Returns the commands of a block, each with the output below it."""
    found: list[tuple[list[str], list[str]]] = []
    until: str | None = None
    is_open = False
    for line in block.splitlines():
        if until is not None:
            found[-1][0].append(line)
            until = None if line == until else until
        elif is_open:
            found[-1][0].append(line)
            is_open = line.endswith(("\\", "; do"))
            continue
        elif line.startswith("$ "):
            found.append(([line[2:]], []))
            here = re.search(r"<<'(\w+)'", line)
            until = here[1] if here else None
        elif found:
            found[-1][1].append(line)
        is_open = until is None and bool(found) and not found[-1][1] and line.endswith(("\\", "; do"))
    return [("\n".join(command), "\n".join(output)) for command, output in found]


def with_outputs(page: str, played: Mapping[int, list[Played]]) -> str:
    """Returns a page whose blocks show what their commands printed. `played` has the commands of each block by its number."""
    text = page
    for number, block in reversed(list(enumerate(blocks_of(page)))):
        if number not in played or block.kind == "python":
            continue
        lines: list[str] = []
        for one in played[number]:
            lines.append(f"$ {one.command}")
            if one.output.strip():
                lines.append(one.output.rstrip())
        text = text[: block.start] + "\n".join(lines) + "\n" + text[block.end :]
    return text


class Player:
    """Runs the pages of one learner: a folder, an environment, and the server that the pages start.

    Args:
        folder: where the learner begins; `examples` of the checkout lie in it.
        env: environment of the learner's shell, with `DEEPWELL_PORT`.
        bin: folder of the programs of the environment that serves.
        tune: the same of the environment with PyTorch; None: blocks that need it are left out.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], bin: Path, tune: Path | None = None) -> None:
        self._folder = folder
        self._port = int(env["DEEPWELL_PORT"])
        self._bin, self._tune = bin, tune
        self._env = dict(env)
        self._state = folder / ".shell"
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / ".server.log"

    @contextmanager
    def at_work(self) -> Generator[Player]:
        """Ends the server that is left at the end."""
        try:
            yield self
        finally:
            self.stop()

    def play(self, page: str, *, strict: bool = True) -> dict[int, list[Played]]:
        """Runs the blocks of a page. Returns the commands that were run, by the number of their block.

        Raises:
            PageFailed: a command failed; with `strict` false it is returned instead.
        """
        found: dict[int, list[Played]] = {}
        for number, block in enumerate(blocks_of(page)):
            if block.kind == "python":
                self._write(block.text)
            elif block.kind == "server":
                (command,) = commands_of(block.text)
                found[number] = [self._serve(command)]
            elif block.kind != "tune" or self._tune is not None:
                found[number] = [self._run(one, block.kind, strict=strict) for one in commands_of(block.text)]
        return found

    def program(self, path: Path, seconds: float) -> str:
        """Runs a Python program that asks the server; returns what it said if it failed, else an empty text."""
        env = {**self._env, "DEEPWELL_URL": f"http://127.0.0.1:{self._port}"}
        done = subprocess.run(
            [str(self._bin / "python"), str(path)],
            cwd=path.parent,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        return (done.stdout + done.stderr)[-900:] if done.returncode else ""

    def stop(self) -> None:
        """Stops the server, as Ctrl-C does."""
        if self._server is None:
            return
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(self._server.pid, signal.SIGINT)
        try:
            self._server.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = None

    def _here(self) -> Path:
        place = self._state.with_name(".place")
        return Path(place.read_text(encoding="utf-8").strip()) if place.exists() else self._folder

    def _write(self, text: str) -> None:
        match = _FILE.match(text)
        if match is None:
            raise PageFailed(f"a program does not name its file in its first line: {text[:60]!r}")
        code = text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self._port}")
        (self._here() / match[1]).write_text(code, encoding="utf-8")

    def _shell(self, command: str, kind: Kind) -> list[str]:
        first = self._tune if kind == "tune" else self._bin
        state, place = shlex.quote(str(self._state)), shlex.quote(str(self._state.with_name(".place")))
        text = command.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self._port}")
        script = (
            f"[ -f {state} ] && . {state}\nexport PATH={shlex.quote(str(first))}:$PATH\n{text}\ncode=$?\n"
        )
        script += f"export -p | grep -v ' PATH=' > {state}\npwd > {place}\nexit $code\n"
        return ["bash", "-c", script]

    def _run(self, command: str, kind: Kind, *, strict: bool) -> Played:
        began = time.monotonic()
        done = subprocess.run(
            self._shell(command, kind),
            cwd=self._here(),
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_S,
            check=False,
        )
        output = self._shown(done.stdout.decode(errors="replace"))
        played = Played(command, output, done.returncode, time.monotonic() - began)
        if strict and played.code:
            raise PageFailed(f"`{command[:200]}` ends with {played.code}: {output[-900:]}")
        return played

    def _serve(self, command: str) -> Played:
        self.stop()
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                self._shell(f"exec {command}", "server"),
                cwd=self._here(),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() - began > _START_S:
                said = self._log.read_text(encoding="utf-8", errors="replace")
                raise PageFailed(f"`{command}` does not serve: {said[-900:]}")
            time.sleep(0.2)
        said = self._log.read_text(encoding="utf-8", errors="replace")
        shown = said.partition("\nConsole")[0].partition("\n控制台")[0].rstrip() + "\n..."
        return Played(command, self._shown(shown), 0, time.monotonic() - began)

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._port}/readyz", timeout=5, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def _shown(self, text: str) -> str:
        """Returns an output as a page shows it: with the page's port, and the places of nobody's machine."""
        text = text.replace(f"127.0.0.1:{self._port}", f"127.0.0.1:{PORT}")
        for path, word in (
            (self._env.get("DEEPWELL_MODELS_DIR", ""), "~/.cache/deepwell/models"),
            (f"{self._env.get('DEEPWELL_HOME', '-')}/cache/models", "~/.cache/deepwell/models"),
            (self._env.get("DEEPWELL_HOME", ""), "~/.local/share/deepwell"),
            (self._bin, "~/deepwell/.venv/bin"),
            (self._folder, "~/deepwell"),
        ):
            if str(path):
                text = text.replace(str(path), word)
        lines = [line.rstrip() for line in text.splitlines()]
        return "\n".join(line for line in lines if "warning: setlocale" not in line)
