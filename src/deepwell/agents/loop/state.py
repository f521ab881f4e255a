"""`RunState`: what the steps of a run add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from deepwell.agents.loop.budget import Spent
from deepwell.agents.loop.clean import canonical, read_json
from deepwell.agents.loop.model import Message, ToolCall
from deepwell.agents.loop.steps import (
    CallEnded,
    CallStarted,
    Decided,
    Ended,
    Entry,
    Noted,
    Started,
    Step,
    Turned,
)

__all__ = ["PastTurn", "RunState", "same_call"]

_BYTES_A_TOKEN = 3  # about: English has four, Chinese three


@dataclass(slots=True)
class PastTurn:
    """A turn of the model, the results of its calls by id, and the notes that followed it."""

    turn: Turned
    results: dict[str, CallEnded] = field(default_factory=dict[str, CallEnded])
    notes: list[Noted] = field(default_factory=list[Noted])

    def unanswered(self) -> list[ToolCall]:
        """Returns the calls that have no result."""
        return [call for call in self.turn.calls if call.id not in self.results]


@dataclass(slots=True)
class RunState:
    """A run, folded from its steps.

    Attributes:
        started: how it began; None: nothing has happened.
        turns: turns of the model.
        begun: calls that have begun and have no result, by id.
        decisions: what a person said of calls, by id.
        noted: how often each check spoke.
        stalls: turns since a call did what was asked.
        spent: what it has used.
        next: number of the next entry.
        ended: its end, if it has one.
    """

    started: Started | None = field(default=None, init=False)
    turns: list[PastTurn] = field(default_factory=list[PastTurn], init=False)
    begun: dict[str, CallStarted] = field(default_factory=dict[str, CallStarted], init=False)
    decisions: dict[str, Decided] = field(default_factory=dict[str, Decided], init=False)
    noted: Counter[str] = field(default_factory=Counter[str], init=False)
    stalls: int = field(default=0, init=False)
    spent: Spent = field(default_factory=Spent, init=False)
    next: int = field(default=0, init=False)
    ended: Ended | None = field(default=None, init=False)

    @classmethod
    def folded(cls, entries: Iterable[Entry]) -> RunState:
        """Returns the state after some entries."""
        state = cls()
        for entry in entries:
            state.apply(entry)
        return state

    def apply(self, entry: Entry) -> None:
        """Takes the next entry."""
        self.next = entry.number + 1
        self.spent.seconds = max(self.spent.seconds, entry.clock)
        self._take(entry.step)

    def _take(self, step: Step) -> None:
        match step:
            case Started():
                self.started = step
            case Turned():
                self.turns.append(PastTurn(step))
                self.stalls += 1
                spent = self.spent
                spent.turns += 1
                spent.prompt_tokens += step.prompt_tokens
                spent.completion_tokens += step.completion_tokens
                spent.context_tokens = step.prompt_tokens + step.completion_tokens
            case Noted():
                self.noted[step.check] += 1
                if self.turns:
                    self.turns[-1].notes.append(step)
                self._unread(step.text)
            case CallStarted():
                self.begun[step.call_id] = step
                self.spent.calls += 1
            case CallEnded():
                self.begun.pop(step.call_id, None)
                if self.turns:
                    self.turns[-1].results[step.call_id] = step
                self._unread(step.text)
                if step.outcome == "ok":
                    self.stalls = 0
            case Decided():
                self.decisions[step.call_id] = step
            case Ended():
                self.ended = step

    def _unread(self, text: str) -> None:
        """Counts what the next turn reads besides the conversation so far, so that it is not begun where it cannot fit."""
        self.spent.context_tokens += len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN

    @property
    def pending(self) -> list[ToolCall]:
        """Calls of the newest turn that have no result, in the model's order."""
        return self.turns[-1].unanswered() if self.turns else []

    @property
    def answer(self) -> str | None:
        """The text of the newest turn, if it called nothing and nobody has objected."""
        if not self.turns or self.turns[-1].turn.calls or self.turns[-1].notes:
            return None
        return self.turns[-1].turn.text

    @property
    def last_text(self) -> str:
        """The newest text of the model, if it has said anything."""
        return next((one.turn.text for one in reversed(self.turns) if one.turn.text), "")

    def results(self) -> Iterator[tuple[ToolCall, CallEnded]]:
        """Yields the calls that have a result, the oldest first."""
        for past in self.turns:
            for call in past.turn.calls:
                if call.id in past.results:
                    yield call, past.results[call.id]

    def messages(self) -> list[Message]:
        """Returns the conversation as the model reads it next: results in the order of the calls, whoever ended first."""
        found: list[Message] = list(self.started.messages) if self.started else []
        for past in self.turns:
            calls = [
                {
                    "id": one.id,
                    "type": "function",
                    "function": {"name": one.name, "arguments": _arguments(one)},
                }
                for one in past.turn.calls
            ]
            text = past.turn.text or (None if calls else "")
            said: dict[str, Any] = {"role": "assistant", "content": text}
            found.append(said | ({"tool_calls": calls} if calls else {}))
            found += [
                {"role": "tool", "tool_call_id": one.id, "content": past.results[one.id].text}
                for one in past.turn.calls
                if one.id in past.results
            ]
            found += [{"role": "user", "content": note.text} for note in past.notes]
        return found


def _arguments(call: ToolCall) -> str:
    """Returns the arguments as templates can render them: an object of JSON, which a model does not always write."""
    try:
        value = read_json(call.arguments.strip() or "{}")
    except ValueError:
        return canonical({"invalid": call.arguments[:2000]})
    return call.arguments.strip() or "{}" if isinstance(value, dict) else canonical({"invalid": value})


def same_call(call: ToolCall) -> str:
    """Returns the text that a call shares with every call of this name and these arguments."""
    try:
        arguments = canonical(read_json(call.arguments.strip() or "{}"))
    except ValueError:
        arguments = call.arguments
    return f"{call.name} {arguments}"
