"""The first hour of a new user as a script: sixty steps in terminals of two widths, in two languages."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report
from deepwell.errors import DeepwellError
from deepwell.messages import Language
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.terminal import Terminal
from deepwell_bench.suites.repository.first_hour_steps import CHAT, COMMANDS, KEYED, SDK, SHELL_START, Command
from deepwell_bench.suites.repository.suites import ANSWER_LINE, clean_environment

__all__ = ["Tally", "bench_first_hour", "install_clone"]

WIDTHS = (60, 120)
LOCALES: dict[Language, str] = {"en": "C.UTF-8", "zh": "zh_CN.UTF-8"}
_HANZI = re.compile(r"[\u4e00-\u9fff]")
_INSTALL_SECONDS = 1800


class StepFailed(DeepwellError):
    """Raised when a step of the first hour does not end as it should."""

    type = "step_failed"


@dataclass
class Tally:
    """The steps so far, and those that failed."""

    report: Report
    where: str = "install"
    steps: int = 0
    failures: int = 0

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Counts a step, and notes why it failed."""
        self.steps += 1
        try:
            yield
        except (DeepwellError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.failures += 1
            self.report.note(f"FAILED {self.where}: {name}: {str(error)[:700]}")


@dataclass(frozen=True)
class Desk:
    """The place of a user: a checkout that is installed, a home, a terminal, a language, and the port of the server."""

    clone: Path
    home: Path
    models: Path
    columns: int
    language: Language
    port: int

    @property
    def env(self) -> dict[str, str]:
        """The environment of the user's shell."""
        return clean_environment(
            HOME=str(self.home),
            LANG=LOCALES[self.language],
            LC_ALL=LOCALES[self.language],
            TERM="xterm-256color",
            DEEPWELL_PORT=str(self.port),
            DEEPWELL_MODELS_DIR=str(self.models),
        )

    def filled(self, text: str) -> str:
        """Returns a text with the places of this desk."""
        model = next((self.models / "smollm2").glob("*.gguf"))
        for name, value in {
            "PORT": self.port,
            "HOME": self.home,
            "GGUF": model,
            "FREE": _free_port(),
        }.items():
            text = text.replace(f"@{name}@", str(value))
        return text

    def open(self, line: str, seconds: float = 180) -> Terminal:
        """Opens a terminal in which a line of shell runs, in the environment that the guide's activation line gives."""
        command = ["bash", "-c", f"{SHELL_START}; {line}"]
        return Terminal(command, columns=self.columns, env=self.env, cwd=self.clone, seconds=seconds)

    def type_in(self, line: str, seconds: float = 180) -> tuple[int, str]:
        """Runs a line of shell; returns its exit code and what it printed."""
        terminal = self.open(self.filled(line), seconds)
        try:
            return terminal.end(), terminal.text
        finally:
            terminal.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check(condition: object, why: str) -> None:
    if not condition:
        raise StepFailed(why)


def install_clone(tally: Tally, clone: Path, home: Path, python: str) -> None:
    """Clones HEAD and runs `make run` until it has answered."""
    with tally.step("git clone"):
        subprocess.run(["git", "clone", "-q", str(repository()), str(clone)], check=True)
    with tally.step("make run answers a question"):
        env = clean_environment(HOME=str(home), DEEPWELL_PORT=str(_free_port()))
        terminal = Terminal(
            ["make", "run", f"PYTHON={python}"], columns=100, env=env, cwd=clone, seconds=_INSTALL_SECONDS
        )
        try:
            terminal.expect(re.escape(ANSWER_LINE))
            terminal.interrupt()
            terminal.expect("stopped")
            terminal.end()  # with make's own code for an interrupt
        finally:
            terminal.close()


def _run_command(tally: Tally, desk: Desk, command: Command) -> None:
    with tally.step(command.name):
        code, text = desk.type_in(command.line)
        _check(code == command.code, f"exit code {code}: {text[-500:]}")
        _check("Traceback" not in text, text[-700:])
        for said in command.says:
            _check(desk.filled(said) in text, f"{said!r} is missing in {text[-600:]!r}")
        for absent in command.not_says:
            _check(absent not in text, f"{absent!r} is in {text[-600:]!r}")
        if command.speaks:
            _check(bool(_HANZI.search(text)) == (desk.language == "zh"), f"another language: {text[-400:]}")


def _talk(tally: Tally, desk: Desk) -> None:
    """Plays a conversation, then starts another that remembers what was typed."""
    terminal = desk.open("deepwell chat --temperature 0 --max-tokens 24", 120)
    try:
        for turn in CHAT:
            with tally.step(f"chat: {turn.name}"):
                if turn.keys == "^C":
                    terminal.send("\x03")
                elif turn.keys:
                    terminal.send(desk.filled(turn.keys))
                terminal.expect(desk.filled(turn.expects[desk.language]))
        with tally.step("chat: /exit"):
            terminal.send("/exit\r")
            _check(terminal.end() == 0, terminal.text[-300:])
    finally:
        terminal.close()
    again = desk.open("deepwell chat --temperature 0 --max-tokens 8", 120)
    try:
        with tally.step("chat: the up arrow brings back what was typed before"):
            again.expect(r"/help.*\n>")
            again.send("\x1b[A")
            again.expect("/exit")
            again.send("\r")
            _check(again.end() == 0, again.text[-300:])
    finally:
        again.close()


def _get(url: str, language: Language = "en") -> tuple[int, str]:
    wanted = {"accept-language": "zh-CN,zh;q=0.9" if language == "zh" else "en"}
    try:
        answer = httpx.get(url, headers=wanted, timeout=60, trust_env=False)
    except httpx.HTTPError as error:
        raise StepFailed(f"{url}: {error}") from None
    return answer.status_code, answer.text


def _browse(tally: Tally, desk: Desk) -> None:
    base = f"http://127.0.0.1:{desk.port}"
    for path, said in (("/", "smollm2"), ("/docs", "/v1/chat/completions")):
        with tally.step(f"browser: {path}"):
            status, text = _get(f"{base}{path}", desk.language)
            _check(status == 200 and said in text, text[:300])
            _check(bool(_HANZI.search(text)) == (desk.language == "zh"), "another language")
            _check(not re.search(r"(src|href)=.?https?://", text), "it loads something from elsewhere")
    with tally.step("browser: /openapi.json"):
        _check("/v1/chat/completions" in json.loads(_get(f"{base}/openapi.json")[1])["paths"], "no paths")
    with tally.step("a base URL without /v1"):
        status, text = _get(f"{base}/models", desk.language)
        _check(status == 404 and "/v1/models" in text, text[:300])


def _sit_down(tally: Tally, desk: Desk) -> None:
    """Plays all steps behind the installation at one desk."""
    server = desk.open("exec deepwell serve", 180)
    try:
        with tally.step("deepwell serve says how to ask"):
            server.expect(rf"curl http://127\.0\.0\.1:{desk.port}/v1/chat/completions")
            server.expect("Ctrl-C")
        for command in COMMANDS:
            _run_command(tally, desk, command)
        _browse(tally, desk)
        _talk(tally, desk)
        for command in (*SDK, *KEYED):
            _run_command(tally, desk, command)
        with tally.step("Ctrl-C stops the server"):
            server.interrupt()
            _check(server.end() == 0, server.text[-400:])
    finally:
        server.close()


def bench_first_hour(report: Report, *, python: str, widths: Sequence[int] = WIDTHS) -> dict[str, Any]:
    """Clones HEAD, installs it in an empty home, and plays the steps at each width and in each language."""
    tally = Tally(report)
    with tempfile.TemporaryDirectory(prefix="deepwell-hour-") as folder:
        clone, home = Path(folder) / "clone", Path(folder) / "home"
        home.mkdir()
        install_clone(tally, clone, home, python)
        installed, failures = tally.steps, tally.failures
        if failures:  # there is nothing to go on with
            return {"steps": installed, "runs": 0, "failed": failures}
        rows: list[list[object]] = []
        for columns in widths:
            for language in LOCALES:
                own = Path(folder) / f"home-{columns}-{language}"
                own.mkdir()
                tally.steps, tally.failures = 0, 0
                tally.where = f"{columns} columns, {language}"
                models = home / ".cache" / "deepwell" / "models"
                _sit_down(tally, Desk(clone, own, models, columns, language, _free_port()))
                rows.append([columns, language, installed + tally.steps, tally.failures])
                failures += tally.failures
    report.table("The first hour", ["columns", "language", "steps", "failed"], rows)
    return {"steps": min(int(str(row[2])) for row in rows), "runs": len(rows), "failed": failures}
