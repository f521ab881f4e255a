"""`deepwell chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import (
    TEMPERATURE,
    ApiKeyOption,
    ServerPort,
    Speculation,
    Url,
    stored_models,
)
from deepwell.cli.output import JsonFlag, print_error, reported_errors, system_error, write_json
from deepwell.messages import nearest, say
from deepwell.paths import user_path

if TYPE_CHECKING:
    from deepwell.cli.answers import Answers
    from deepwell.errors import DeepwellError
    from deepwell.knowledge.context.fitting.policy import ContextPolicy
    from deepwell.settings import Settings

__all__ = ["Conversation", "converse", "is_stuck", "register"]

_ROLES = ("system", "user", "assistant")
_STUCK_TAIL, _STUCK_CYCLE = 800, 80  # characters


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(chat)


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model to talk with: a name in the store, or a path; unset: the server's own, or smollm2.",
            autocompletion=stored_models,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message of the conversation.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Longest answer, in tokens; unset: up to the context, unless the answer only repeats itself.",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sampling temperature; 0 always takes the likeliest token.")
    ] = TEMPERATURE,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    speculation: Speculation = None,
    json: JsonFlag = False,
) -> None:
    """Talk with a model; /help lists the commands.

    A running `deepwell serve` answers with its own model, or with the one that is named; without one the model is loaded here.

    With --json, every line of standard input is a turn and every answer a line of JSON.
    """
    with reported_errors(as_json=json):
        from deepwell.settings import Settings

        settings = Settings.load(model=model, url=url, port=port, api_key=api_key, speculation=speculation)
        converse(settings, system or "", max_tokens=max_tokens, temperature=temperature, as_json=json)


def converse(
    settings: Settings, system: str, *, max_tokens: int | None, temperature: float, as_json: bool
) -> None:
    """Runs a conversation on the terminal until its input ends."""
    from deepwell.cli.answers import open_answers, policy_of
    from deepwell.cli.lines import history_file, typed_lines

    with closing(
        Conversation(
            open_answers(settings),
            system,
            max_tokens=max_tokens,
            temperature=temperature,
            as_json=as_json,
            policy=policy_of(settings, "auto"),
            reopen=lambda name: open_answers(settings.with_model(name)),
        )
    ) as conversation:
        if not as_json:
            conversation.greet()
        prompt = "" if as_json else "> "
        conversation.run(typed_lines(prompt, conversation.commands, history_file()))


def is_stuck(answer: str) -> bool:
    """Returns whether an answer's last 800 characters are one piece of at most 80, again and again.

    Small models that fall into such a cycle under greedy decoding do not leave it before the context is full.
    """
    tail = answer[-_STUCK_TAIL:]
    return len(tail) == _STUCK_TAIL and any(
        tail[cycle:] == tail[:-cycle] for cycle in range(1, _STUCK_CYCLE + 1)
    )


class Conversation:
    """Turns with one model, and the commands between them.

    Args:
        policy: what is done when the conversation outgrows the context; None: it ends in an error.
        reopen: returns the answers of another model, by its name; None: there is only this one.
    """

    def __init__(
        self,
        answers: Answers,
        system: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        as_json: bool = False,
        policy: ContextPolicy | None = None,
        reopen: Callable[[str], Answers] | None = None,
    ) -> None:
        self._answers = answers
        self._system = system
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._as_json = as_json
        self._policy: ContextPolicy | None = policy
        self._reopen = reopen
        self._turns: list[dict[str, str]] = []
        self._warned = False
        self._actions: dict[str, Callable[[str], None]] = {
            "/help": lambda _: self._say("chat_help"),
            "/clear": self._clear,
            "/system": self._set_system,
            "/model": self._set_model,
            "/retry": self._retry,
            "/save": self._save,
            "/load": self._load,
        }

    @property
    def commands(self) -> list[str]:
        """The commands, each with its slash."""
        return [*self._actions, "/exit"]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation so far, as the API takes it."""
        system = [{"role": "system", "content": self._system}] if self._system else []
        return system + self._turns

    def greet(self) -> None:
        """Says which model answers, and from where."""
        from deepwell.cli.answers import HERE

        where = self._answers.where
        shown = say("this_process") if where == HERE else where
        self._say("chat_opened", model=self._answers.model, where=shown)

    def close(self) -> None:
        """Leaves the model."""
        self._answers.close()

    def run(self, lines: Iterator[str]) -> None:
        """Takes turns until the lines end or one says /exit."""
        for line in lines:
            text = line.strip()
            command, _, argument = text.partition(" ")
            if command in ("/exit", "/quit", "/bye"):
                return
            if command in self._actions:
                self._act(command, argument.strip())
            elif text.startswith("/") and "\n" not in text and "/" not in command[1:]:
                right = nearest(command, self.commands)
                self._say("chat_near_command" if right else "chat_no_command", wrong=command, right=right)
            elif text:
                self._turn(text)

    def _act(self, command: str, argument: str) -> None:
        from deepwell.errors import DeepwellError

        try:
            self._actions[command](argument)
        except DeepwellError as error:
            self._fail(error)
        except OSError as error:
            self._fail(system_error(error))

    def _turn(self, text: str) -> None:
        from deepwell.cli.answers import Asked, context_note, cut_note, last_of, warn_of_language
        from deepwell.errors import DeepwellError

        if not (self._as_json or self._warned):
            self._warned = warn_of_language(self._answers, text, "chat")
        self._turns.append({"role": "user", "content": text})
        asked = Asked(self.messages, self._max_tokens, self._temperature, policy=self._policy)
        answer = ""
        last = None
        stuck = False
        try:
            with closing(self._answers.stream(asked)) as parts:
                for part in parts:
                    answer += part.text
                    last = part
                    if not self._as_json:
                        sys.stdout.write(part.text)
                        sys.stdout.flush()
                    if stuck := self._max_tokens is None and part.report is None and is_stuck(answer):
                        break
        except KeyboardInterrupt:
            self._say("chat_stopped")
        except DeepwellError as error:
            del self._turns[-1]
            self._fail(error)
            return
        else:
            if not self._as_json:
                sys.stdout.write("\n")
                for note in (context_note(last, chat=True), cut_note(last)):
                    if note:
                        self._print(note)
                if stuck:
                    self._say("answer_stuck")
        if stuck:
            del self._turns[-1]  # an answer that repeats itself leads the next one to do the same
        else:
            self._turns.append({"role": "assistant", "content": answer})
        if self._as_json:
            write_json({"answer": answer, **({"finish_reason": "repetition"} if stuck else last_of(last))})

    def _fail(self, error: DeepwellError) -> None:
        from deepwell.errors import ContextLengthExceeded

        too_long = isinstance(error, ContextLengthExceeded)
        if self._as_json:
            hint = ": /clear starts over" if too_long else ""
            write_json({"error": {"message": f"{error}{hint}"}})
            return
        print_error(error, hint=say("chat_start_over") if too_long else "")

    def _say(self, key: str, **values: Any) -> None:
        self._print(say(key, **values).lstrip("\n"))

    def _print(self, text: str) -> None:
        if self._as_json:
            write_json({"info": text})
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def _clear(self, _: str) -> None:
        self._turns.clear()
        self._say("chat_forgotten")

    def _set_system(self, text: str) -> None:
        if text:
            self._system = text
            self._clear("")
        elif self._system:
            self._print(self._system)
        else:
            self._say("chat_no_system")

    def _set_model(self, name: str) -> None:
        if name and self._reopen is not None:
            before, self._answers = self._answers, self._reopen(name)
            before.close()
        self.greet()

    def _retry(self, _: str) -> None:
        if not self._turns:
            self._say("chat_nothing_to_retry")
            return
        question, answer = self._turns[-2:]
        del self._turns[-2:]
        self._turn(question["content"])
        if not self._turns or self._turns[-1]["role"] != "assistant":  # it failed: the first answer stays
            self._turns += [question, answer]

    def _save(self, name: str) -> None:
        import json

        if not name:
            self._say("chat_needs_file", command="/save")
            return
        text = json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n"
        user_path(name).write_text(text, encoding="utf-8")
        self._say("chat_saved", count=len(self.messages), path=name)

    def _load(self, name: str) -> None:
        if not name:
            self._say("chat_needs_file", command="/load")
            return
        messages = _read_messages(user_path(name))
        self._system = next((one["content"] for one in messages if one["role"] == "system"), "")
        self._turns = [one for one in messages if one["role"] != "system"]
        self._say("chat_loaded", count=len(messages), path=name)


def _read_messages(path: Path) -> list[dict[str, str]]:
    """Returns the messages of a file that /save wrote.

    Raises:
        InvalidRequest: it holds something else; the message gives the reason.
    """
    import json

    from deepwell.errors import InvalidRequest

    def refuse(reason: str) -> InvalidRequest:
        return InvalidRequest.of("transcript_unreadable", path=path, reason=reason)

    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise refuse(str(error)) from None
    if not isinstance(found, list):
        raise refuse(type(found).__name__)
    messages: list[dict[str, str]] = []
    for one in found:
        sound = isinstance(one, dict) and one.get("role") in _ROLES and isinstance(one.get("content"), str)
        if not sound:
            raise refuse(f"message {len(messages)}")
        messages.append({"role": one["role"], "content": one["content"]})
    turns = [one["role"] for one in messages if one["role"] != "system"]
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise refuse("user / assistant")
    return messages
