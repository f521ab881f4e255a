"""`deepwell chat`: a conversation in the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import TEMPERATURE, Port, Speculation
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.cli.answers import Answers

__all__ = ["Conversation", "register"]

HELP = """\
/help          this list
/clear         forget the conversation (the system message stays)
/system TEXT   set the system message and start over; without TEXT, show it
/save FILE     write the conversation as JSON messages
/exit          leave; Ctrl-D does too
Ctrl-C stops an answer. The up arrow brings back what you typed, from earlier sessions too."""

_HISTORY_LINES = 1000


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(chat)


def chat(
    model: Annotated[
        str | None, typer.Argument(help="A name in the store, or a path; unset: smollm2.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens an answer may have.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="0: always the likeliest token.")
    ] = TEMPERATURE,
    port: Port = None,
    speculation: Speculation = None,
    json: JsonFlag = False,
) -> None:
    """Talk with a model; /help lists the commands.

    A running `deepwell serve` that serves the model answers; without one the model is loaded here.

    With --json, every line of standard input is a turn and every answer a line of JSON.
    """
    with reported_errors(as_json=json):
        from deepwell.cli.answers import open_answers
        from deepwell.settings import Settings

        settings = Settings.load(model=model, port=port, speculation=speculation)
        with closing(open_answers(settings)) as answers, _line_editing(_history_file()):
            conversation = Conversation(
                answers, system or "", max_tokens=max_tokens, temperature=temperature, as_json=json
            )
            if not json:
                console().print(f"{answers.model} from {answers.where}. /help lists the commands.")
            conversation.run(_lines("" if json else "> "))


class Conversation:
    """Turns with one model, and the commands between them."""

    def __init__(
        self,
        answers: Answers,
        system: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        as_json: bool = False,
    ) -> None:
        self._answers = answers
        self._system = system
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._as_json = as_json
        self._turns: list[dict[str, str]] = []
        self._warned = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._say(HELP),
            "/clear": self._clear,
            "/system": self._set_system,
            "/save": self._save,
        }

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, as the API takes it."""
        system = [{"role": "system", "content": self._system}] if self._system else []
        return system + self._turns

    def run(self, lines: Iterator[str]) -> None:
        """Take turns until the lines end or one says /exit."""
        for line in lines:
            text = line.strip()
            command, _, argument = text.partition(" ")
            if command in ("/exit", "/quit"):
                return
            if command in self._commands:
                self._commands[command](argument.strip())
            elif text.startswith("/"):
                self._say(f"there is no command {command}: /help lists them")
            elif text:
                self._turn(text)

    def _turn(self, text: str) -> None:
        from deepwell.cli.answers import Asked, cut_note, last_of, warn_of_language
        from deepwell.errors import DeepwellError

        if not (self._as_json or self._warned):
            self._warned = warn_of_language(self._answers.model, text)
        self._turns.append({"role": "user", "content": text})
        asked = Asked(self.messages, self._max_tokens, self._temperature)
        answer = ""
        last = None
        try:
            with closing(self._answers.stream(asked)) as parts:
                for part in parts:
                    answer += part.text
                    last = part
                    if not self._as_json:
                        sys.stdout.write(part.text)
                        sys.stdout.flush()
        except KeyboardInterrupt:
            self._say(" [stopped]")
        except DeepwellError as error:
            del self._turns[-1]
            self._fail(error)
            return
        else:
            if not self._as_json:
                sys.stdout.write("\n")
                if note := cut_note(last):
                    self._say(note)
        self._turns.append({"role": "assistant", "content": answer})
        if self._as_json:
            write_json({"answer": answer, **last_of(last)})

    def _fail(self, error: Exception) -> None:
        from deepwell.errors import ContextLengthExceeded

        hint = ": /clear starts over" if isinstance(error, ContextLengthExceeded) else ""
        if self._as_json:
            write_json({"error": {"message": f"{error}{hint}"}})
        else:
            console(stderr=True).print(f"error: {error}{hint}", style="bold red", soft_wrap=True)

    def _say(self, text: str) -> None:
        if self._as_json:
            write_json({"info": text})
        else:
            sys.stdout.write(text + "\n")

    def _clear(self, _: str) -> None:
        self._turns.clear()
        self._say("the conversation is forgotten")

    def _set_system(self, text: str) -> None:
        if text:
            self._system = text
            self._clear("")
        else:
            self._say(self._system or "there is no system message")

    def _save(self, name: str) -> None:
        import json

        if not name:
            self._say("/save needs a file name")
            return
        try:
            Path(name).expanduser().write_text(
                json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n", "utf-8"
            )
        except OSError as error:
            self._say(f"could not write {name}: {error.strerror}")
        else:
            self._say(f"{len(self.messages)} messages written to {name}")


def _lines(prompt: str) -> Iterator[str]:
    while True:
        try:
            yield input(prompt)
        except KeyboardInterrupt:  # at the prompt it takes back the line, as in a shell
            sys.stdout.write("\n")
        except EOFError:
            return


def _history_file() -> Path:
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "data" / "chat_history"
    return (
        Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        / "deepwell"
        / "chat_history"
    )


@contextmanager
def _line_editing(history: Path) -> Iterator[None]:
    """Cursor keys and history for `input`, where this is a terminal and Python has readline."""
    try:
        import readline
    except ImportError:
        readline = None
    if readline is None or not sys.stdin.isatty():
        yield
        return
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY_LINES)
    readline.set_auto_history(True)
    try:
        yield
    finally:
        with suppress(OSError):  # an unwritable home must not spoil the goodbye
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
            history.chmod(0o600)
