"""Builds one response. A pure state machine from turns of the dialogue to events of the Responses API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from deepwell.dialogue.completion import Counts
from deepwell.dialogue.dialogue import Turn, new_call_id
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Reasoning
from deepwell.dialogue.text import Codec, Entry
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.context.fitting.ledger import Ledger
from deepwell.server.families.generation_bodies import context_detail
from deepwell.server.families.responses.bodies import (
    AnnotationEvent,
    Created,
    DeltaEvent,
    DoneEvent,
    FileCitation,
    FileSearchCall,
    FileSearchResult,
    FunctionCall,
    ImageCall,
    ImageEvent,
    IncompleteDetails,
    InputTokensDetails,
    ItemEvent,
    Logprob,
    MessageItem,
    OutputText,
    OutputTokensDetails,
    PartEvent,
    PartialImageEvent,
    ReasoningItem,
    ReasoningText,
    Response,
    ResponseError,
    ResponseUsage,
    SearchEvent,
    TopLogprob,
)
from deepwell.server.families.responses.citing import Found, OutputPart
from deepwell.server.families.responses.image_parts import ImageBegun, ImageEnded, ImageShown
from deepwell.server.families.responses.item_schema import sealed
from deepwell.server.families.responses.items import item_id
from deepwell.server.families.responses.mcp.bodies import (
    McpArgumentsDelta,
    McpArgumentsDone,
    McpEvent,
    McpListTools,
)
from deepwell.server.families.responses.mcp.building import McpItem, McpItems
from deepwell.server.families.responses.mcp.parts import McpAsked, McpBegun, McpEnded, McpListed
from deepwell.storage.clock import shared_time

__all__ = ["ResponseBuilder", "ResponseEvent", "frame"]

ResponseEvent = (
    Created
    | ItemEvent
    | PartEvent
    | DeltaEvent
    | DoneEvent
    | SearchEvent
    | AnnotationEvent
    | ImageEvent
    | PartialImageEvent
    | McpEvent
    | McpArgumentsDelta
    | McpArgumentsDone
)
_encode = msgspec.json.Encoder().encode


def frame(event: ResponseEvent) -> bytes:
    """Encodes an event as a server-sent one, with its type also in the `event` line."""
    return b"event: " + event.type.encode() + b"\ndata: " + _encode(event) + b"\n\n"


class ResponseBuilder:
    """A builder of one response: call `begin`, then `take` for every part, then `end` or `fail`. `response` is its state.

    Only log probabilities need the codec.

    Each of these methods returns the events that it caused, in order; their numbers rise by one.
    """

    def __init__(
        self,
        response: Response,
        codec: Codec | None = None,
        *,
        with_logprobs: bool = False,
        with_encrypted: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        self.response = response
        self._ledger = ledger
        self._codec = codec
        self._with_logprobs = with_logprobs and codec is not None
        self._with_encrypted = with_encrypted
        self._number = 0
        self._open: MessageItem | ReasoningItem | FunctionCall | None = None
        self._pieces: list[str] = []  # of the open item's text
        self._events: list[ResponseEvent] = []
        self._searched = False
        self._reasoning_tokens = 0
        self._counts = Counts()
        self._finish: str | None = None
        self._mcp = McpItems(self)

    def begin(self) -> list[ResponseEvent]:
        """Reports that the response exists and is in progress."""
        self._tell("response.created")
        if self.response.background:
            self._tell("response.queued")
        self.response.status = "in_progress"
        self._tell("response.in_progress")
        return self._take_events()

    def take(self, part: OutputPart) -> list[ResponseEvent]:
        """Adds the output of one step, a citation of the text before it, a search, or a part of a picture."""
        match part:
            case Found(queries, results):
                return self._search(queries, results)
            case FileCitation():
                return self._cite(part)
            case ImageBegun():
                return self._begin_image(part)
            case ImageShown():
                return self._show_image(part)
            case ImageEnded():
                return self._end_image(part)
            case McpListed() | McpBegun() | McpEnded() | McpAsked():
                self._mcp.take(part)
                return self._take_events()
            case Turn():
                return self._turn(part)

    def _turn(self, turn: Turn) -> list[ResponseEvent]:
        entries = self._logprobs(turn.entries) if self._with_logprobs else []
        tokens = turn.counts.completion - self._counts.completion
        self._counts = turn.counts
        for event in turn.events:
            match event:
                case Content(text):
                    self._text(text, entries)
                    entries = []
                case Reasoning(text):
                    self._reasoning(text)
                case CallStart(_, name):
                    self._call(name)
                case CallArguments(_, text):
                    self._arguments(text)
        if isinstance(self._open, ReasoningItem):
            self._reasoning_tokens += max(tokens, 0)
        self._finish = turn.finish_reason or self._finish
        self._ledger = turn.ledger or self._ledger
        return self._take_events()

    def end(self) -> list[ResponseEvent]:
        """Ends the response: closes the open item, and tells in the last event how it ended."""
        if all(isinstance(item, FileSearchCall | McpListTools) for item in self.response.output):
            self._open_message()  # an answer without a word is still a message
        cut = self._finish in ("length", "content_filter")
        self._close("incomplete" if cut else "completed")
        self._account()
        if cut:
            self.response.status = "incomplete"
            self.response.incomplete_details = IncompleteDetails(
                "content_filter" if self._finish == "content_filter" else "max_output_tokens"
            )
        else:
            self.response.status = "completed"
            self.response.completed_at = int(shared_time())
        self._tell(f"response.{self.response.status}")
        return self._take_events()

    def fail(self, error: DeepwellError) -> list[ResponseEvent]:
        """Ends a response that could not be finished."""
        self._close("incomplete")
        self._account()
        self.response.status = "failed"
        code = "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"
        self.response.error = ResponseError(code, str(error))
        self._tell("response.failed")
        return self._take_events()

    def cancel(self) -> None:
        """Cancels the response. OpenAI has no event for this: a stream just ends."""
        self._close("incomplete")
        self._account()
        self._events.clear()
        self.response.status = "cancelled"

    def add(self, prefix: str, make: Callable[[str], McpItem]) -> int:
        """Adds an item of the tool `mcp` with a new id, and returns its index."""
        self._close("completed")
        item = make(self._new_id(prefix))
        self.response.output.append(item)
        self.tell_item("response.output_item.added", self._index, item)
        return self._index

    def tell(self, make: Callable[[int], ResponseEvent]) -> None:
        """Adds the event that is made of its number."""
        self._events.append(make(self._next()))

    def tell_item(self, type: str, index: int, item: McpItem) -> None:
        """Adds an event of an item as it is now."""
        self._events.append(ItemEvent(type, index, msgspec.structs.replace(item), self._next()))

    def _search(self, queries: list[str], results: list[FileSearchResult] | None) -> list[ResponseEvent]:
        self._searched = True
        item = FileSearchCall(self._new_id("fs"), queries, "in_progress")
        self.response.output.append(item)
        shown = msgspec.structs.replace(item)
        self._events.append(ItemEvent("response.output_item.added", self._index, shown, self._next()))
        for step in ("in_progress", "searching", "completed"):
            type = f"response.file_search_call.{step}"
            self._events.append(SearchEvent(type, item.id, self._index, self._next()))
        item.status, item.results = "completed", results
        self._events.append(ItemEvent("response.output_item.done", self._index, item, self._next()))
        return self._take_events()

    def _begin_image(self, begun: ImageBegun) -> list[ResponseEvent]:
        self._close("completed")
        item = ImageCall(
            self._new_id("ig"),
            "in_progress",
            revised_prompt=begun.prompt,
            size=begun.size,
            quality=begun.quality,
            output_format=begun.format,
        )
        self.response.output.append(item)
        shown = msgspec.structs.replace(item)
        self._events.append(ItemEvent("response.output_item.added", self._index, shown, self._next()))
        self._tell_image("in_progress")
        self._tell_image("generating")
        item.status = "generating"
        return self._take_events()

    def _show_image(self, shown: ImageShown) -> list[ResponseEvent]:
        item = self._image
        type = "response.image_generation_call.partial_image"
        size, quality, format = item.size or "", item.quality or "", item.output_format or ""
        self._events.append(
            PartialImageEvent(
                type, item.id, self._index, shown.number, shown.data, self._next(), size, quality, format
            )
        )
        return self._take_events()

    def _end_image(self, ended: ImageEnded) -> list[ResponseEvent]:
        item = self._image
        item.result, item.error = ended.data, ended.error
        item.revised_prompt = ended.prompt
        item.status = "completed" if ended.error is None else "failed"
        if ended.error is None:
            self._tell_image("completed")
        self._events.append(ItemEvent("response.output_item.done", self._index, item, self._next()))
        return self._take_events()

    def _tell_image(self, step: str) -> None:
        type = f"response.image_generation_call.{step}"
        self._events.append(ImageEvent(type, self._image.id, self._index, self._next()))

    @property
    def _image(self) -> ImageCall:
        item = self.response.output[-1]
        assert isinstance(item, ImageCall)
        return item

    def _cite(self, citation: FileCitation) -> list[ResponseEvent]:
        item = self._open
        assert isinstance(item, MessageItem)
        part = item.content[0]
        assert isinstance(part, OutputText)
        part.annotations.append(citation)
        number = len(part.annotations) - 1
        type = "response.output_text.annotation.added"
        self._events.append(AnnotationEvent(type, item.id, self._index, 0, number, citation, self._next()))
        return self._take_events()

    def _account(self) -> None:
        counts = self._counts
        if not counts.prompt and not self._searched and self._finish is None:
            return
        self.response.usage = ResponseUsage(
            input_tokens=counts.prompt,
            input_tokens_details=InputTokensDetails(counts.cached, context=context_detail(self._ledger)),
            output_tokens=counts.completion,
            output_tokens_details=OutputTokensDetails(min(self._reasoning_tokens, counts.completion)),
            total_tokens=counts.prompt + counts.completion,
        )

    def _take_events(self) -> list[ResponseEvent]:
        events, self._events = self._events, []
        return events

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    @property
    def _index(self) -> int:
        return len(self.response.output) - 1

    def _new_id(self, prefix: str) -> str:
        return item_id(prefix, self.response.id, f"o{len(self.response.output)}")

    def _tell(self, type: str) -> None:
        # A snapshot, because the object keeps changing, and events may be read later.
        self._events.append(Created(type, msgspec.structs.replace(self.response), self._next()))

    def _add(self, item: MessageItem | ReasoningItem | FunctionCall) -> None:
        self._close("completed")
        self.response.output.append(item)
        self._open = item
        self._pieces = []
        empty = msgspec.structs.replace(item, content=[]) if not isinstance(item, FunctionCall) else item
        shown = msgspec.structs.replace(empty)
        self._events.append(ItemEvent("response.output_item.added", self._index, shown, self._next()))

    def _part(self, type: str, item_id: str, part: OutputText | ReasoningText) -> None:
        shown = msgspec.structs.replace(part)
        self._events.append(PartEvent(type, item_id, self._index, 0, shown, self._next()))

    def _open_message(self) -> MessageItem:
        item = MessageItem(self._new_id("msg"), "in_progress", "assistant", [OutputText("", [], [])])
        self._add(item)
        self._part("response.content_part.added", item.id, OutputText("", [], []))
        return item

    def _text(self, text: str, logprobs: list[Logprob]) -> None:
        item = self._open
        if not isinstance(item, MessageItem):
            item = self._open_message()
        part = item.content[0]
        assert isinstance(part, OutputText)
        self._pieces.append(text)
        part.logprobs.extend(logprobs)
        self._events.append(
            DeltaEvent("response.output_text.delta", item.id, self._index, text, self._next(), 0, logprobs)
        )

    def _reasoning(self, text: str) -> None:
        item = self._open
        if not isinstance(item, ReasoningItem):
            item = ReasoningItem(self._new_id("rs"), [], [ReasoningText("")], "in_progress")
            self._add(item)
            self._part("response.content_part.added", item.id, ReasoningText(""))
        self._pieces.append(text)
        self._events.append(
            DeltaEvent("response.reasoning_text.delta", item.id, self._index, text, self._next(), 0)
        )

    def _call(self, name: str) -> None:
        self._add(FunctionCall(self._new_id("fc"), new_call_id(), name, "", "in_progress"))

    def _arguments(self, text: str) -> None:
        item = self._open
        assert isinstance(item, FunctionCall)
        self._pieces.append(text)
        self._events.append(
            DeltaEvent("response.function_call_arguments.delta", item.id, self._index, text, self._next())
        )

    def _close(self, status: Literal["completed", "incomplete"]) -> None:
        item, self._open = self._open, None
        self._mcp.abandon()
        if item is None:
            last = self.response.output[-1] if self.response.output else None
            if isinstance(last, ImageCall) and last.status == "generating":
                last.status = "failed"  # the answer ends before the picture does
            return
        text, index = "".join(self._pieces), self._index
        item.status = status
        if isinstance(item, FunctionCall):
            item.arguments = text
            self._events.append(
                DoneEvent(
                    "response.function_call_arguments.done",
                    item.id,
                    index,
                    self._next(),
                    arguments=text,
                    name=item.name,
                )
            )
        else:
            part = item.content[0]
            assert isinstance(part, OutputText | ReasoningText)
            part.text = text
            if isinstance(item, ReasoningItem) and self._with_encrypted:
                item.encrypted_content = sealed(text)
            kind = "output_text" if isinstance(part, OutputText) else "reasoning_text"
            logprobs = part.logprobs if isinstance(part, OutputText) else msgspec.UNSET
            done = DoneEvent(
                f"response.{kind}.done",
                item.id,
                index,
                self._next(),
                content_index=0,
                text=text,
                logprobs=logprobs,
            )
            self._events.append(done)
            self._part("response.content_part.done", item.id, part)
        self._events.append(ItemEvent("response.output_item.done", index, item, self._next()))

    def _logprobs(self, entries: Sequence[Entry]) -> list[Logprob]:
        rows: list[Logprob] = []
        assert self._codec is not None
        for entry in entries:
            data = self._codec.token_bytes(entry.info.token)
            top: list[TopLogprob] = []
            for token, logprob in entry.info.top:
                other = self._codec.token_bytes(token)
                top.append(TopLogprob(other.decode("utf-8", "replace"), logprob, list(other)))
            rows.append(Logprob(data.decode("utf-8", "replace"), entry.info.logprob, list(data), top))
        return rows
