"""Turns messages into the token ids a model was trained on. Serving and training share this code."""

from __future__ import annotations

import hashlib
import re
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, Final, cast

from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError

from deepwell.errors import InvalidModelFile, InvalidRequest, UnsupportedModel
from deepwell.models.text.sandbox import (
    MAX_SECONDS,
    MAX_VALUE,
    ChatEnvironment,
    TemplateLimit,
    TemplateTimeout,
    budget,
    weigh,
)
from deepwell.models.text.token_memo import TokenMemo
from deepwell.models.text.tokenizer import Tokenizer, TooManyTokens

__all__ = ["TRIAL_SECONDS", "ChatTemplate", "RenderedChat", "encode_chat", "render_chat"]

MAX_SOURCE: Final = 64 << 10  # characters; the longest templates in use have 20 thousand
# Characters a render may write in all, in addition to its allowance for the messages
BASE_CHARS: Final = 32 << 20
# Processor time for all trial renderings of a template together; a sound one takes milliseconds.
TRIAL_SECONDS: Final = 1.0

Messages = Sequence[Mapping[str, Any]]


class ChatTemplate:
    """A model's chat template, run by jinja2 as transformers runs it, but within limits (see `sandbox`).

    Attributes:
        source: the jinja text.
        hash: SHA-256 of the source in hex. Artefacts store it because weights only fit the template they were tuned with.

    Raises:
        InvalidModelFile: the template does not compile, or is absurdly long.
    """

    def __init__(self, source: str, bos_token: str | None, eos_token: str | None) -> None:
        if len(source) > MAX_SOURCE:
            raise InvalidModelFile(f"the chat template has {len(source)} characters, more than {MAX_SOURCE}")
        self.source = source
        self.bos_token = bos_token or ""
        self.eos_token = eos_token or ""
        try:
            with budget(BASE_CHARS):
                self._template = ChatEnvironment().from_string(source)
        except Exception as error:  # compiling evaluates constant expressions, any of which may fail
            raise InvalidModelFile(f"the chat template does not compile: {error}") from error

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatTemplate:
        """Returns the template that came with the model.

        Raises:
            UnsupportedModel: the model is a base model without a template.
        """
        if tokenizer.chat_template is None:
            raise UnsupportedModel(
                "the model has no chat template", fix="use /v1/completions, or an instruct model"
            )
        return cls(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.source.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names of the variables that the template expects from outside, such as `tools` and `enable_thinking`."""
        return frozenset(meta.find_undeclared_variables(ChatEnvironment().parse(self.source)))

    @cached_property
    def literals(self) -> frozenset[str]:
        """Strings that the template writes or looks for, such as `</think>`."""
        constants = ChatEnvironment().parse(self.source).find_all(nodes.Const)
        return frozenset(one.value for one in constants if isinstance(one.value, str) and one.value)

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Returns the prompt as text, including control tokens; `variables` are the template's own switches.

        Raises:
            InvalidRequest: the template refuses the messages, or they lack what it needs.
            InvalidModelFile: the template ran into a limit or tried something forbidden.
        """
        try:
            return self._render(messages, tools, add_generation_prompt, variables, MAX_SECONDS)
        except InvalidModelFile as error:
            if not isinstance(error.__cause__, TemplateTimeout):
                raise
        # The clock also counts a collection of garbage, and on a virtual machine the time that its host took away. Neither
        # comes twice; a template that is slow is slow again.
        return self._render(messages, tools, add_generation_prompt, variables, MAX_SECONDS)

    def try_renders(self, conversations: Sequence[Messages]) -> list[str | None]:
        """Renders conversations on trial, with one limit of time for all of them.

        Returns:
            The text of each; None if the template refuses it. The list ends where the template was stopped.
        """
        found: list[str | None] = []
        deadline = time.thread_time() + TRIAL_SECONDS
        for messages in conversations:
            try:
                found.append(self._render(messages, None, True, {}, deadline - time.thread_time()))
            except InvalidRequest:
                found.append(None)
            except InvalidModelFile:
                break
        return found

    def _render(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        seconds: float,
    ) -> str:
        try:
            size = weigh(list(messages)) + weigh(list(tools or ())) + weigh(variables)
        except TemplateLimit as error:
            raise InvalidRequest(
                f"the messages are too large to render: {error}", param="messages"
            ) from error
        # A sound template may build its text by appending message after message, which takes quadratic work.
        allowance = BASE_CHARS + 16 * size * (1 + len(messages))
        context = {
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
            **variables,
        }
        try:
            with budget(allowance, seconds):
                return self._collect(context)
        except InvalidRequest:
            raise
        except (TemplateLimit, SecurityError, RecursionError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            raise InvalidModelFile(
                f"the chat template was stopped: {reason}", fix="use a model whose template is sound"
            ) from error
        except Exception as error:  # a template that meets values it does not expect can raise anything
            raise InvalidRequest(
                f"the chat template cannot render these messages: {error}", param="messages"
            ) from error

    def _collect(self, context: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(context):
            size += len(piece)
            if size > MAX_VALUE:
                raise TemplateLimit(f"an output of more than {MAX_VALUE} characters")
            pieces.append(piece)
        return "".join(pieces)


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> list[int]:
    """Returns the token ids of a rendered chat. Control tokens in messages and tools are treated as plain text.

    A mark that occurs nowhere else follows every character of the input that could begin a control token. The template's
    own control tokens are then the only whole ones in the rendered text, even where it joins contents or deletes text
    from them. The text between them is tokenised without the marks and without control tokens.

    Raises:
        InvalidRequest, InvalidModelFile: as for `ChatTemplate.render`.
    """
    chat = render_chat(
        tokenizer, template, messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
    )
    return chat.encode()


def render_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> RenderedChat:
    """Renders a chat for `encode_chat`, which describes how."""
    control = _control_tokens(tokenizer)
    inputs: dict[str, Any] = {"messages": messages, "tools": tools, **variables}
    mark = _unused_character(inputs, template.source)
    marked = cast("dict[str, Any]", control.break_up(inputs, mark, control.starts(template.literals)))
    rendered = template.render(**marked, add_generation_prompt=add_generation_prompt)
    said = None if tools else _said(messages)
    return RenderedChat(tokenizer, control, control.split(rendered), mark, said)


class RenderedChat:
    """A rendered chat: its pieces, each a control token of the template or text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        control: _ControlTokens,
        pieces: list[tuple[bool, str]],
        mark: str,
        said: list[str] | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._control = control
        self._pieces = pieces
        self._mark = mark
        self._said = said

    def encode(self, most_tokens: int | None = None, memo: TokenMemo | None = None) -> list[int]:
        """Returns the token ids.

        Args:
            memo: tokens of long pieces of earlier chats: a conversation is sent again with every turn.

        Raises:
            TooManyTokens: there are certainly more than `most_tokens`, by the length of the text.
        """
        if most_tokens is not None and (fewest := self._fewest(most_tokens)) > most_tokens:
            raise TooManyTokens(fewest, exact=False)
        tokenizer, control, mark, said = self._tokenizer, self._control, self._mark, self._said
        ids: list[int] = []
        for is_control, text in self._pieces:
            if is_control:
                ids.append(control.ids[text])
                continue
            plain = text.replace(mark, "")
            if memo is not None and len(plain) >= _SHORTEST_KEPT:
                ids.extend(memo.of(plain, partial(tokenizer.encode, allow_special=False)))
            elif said is None or len(plain) > _LONGEST_FIXED or _holds(plain, said):
                ids.extend(tokenizer.encode(plain, allow_special=False))
            else:
                ids.extend(control.fixed(plain))
        return ids

    def _fewest(self, most_tokens: int) -> int:
        if sum(len(text) for _, text in self._pieces) <= most_tokens:
            return 0
        fewest = self._tokenizer.fewest_tokens
        return sum(
            1 if is_control else fewest(text.replace(self._mark, "")) for is_control, text in self._pieces
        )


def _holds(piece: str, said: Sequence[str]) -> bool:
    """Returns whether a piece contains one of the contents, which are sorted by their lengths."""
    return any(one in piece for one in said[: bisect_right(said, len(piece), key=len)])


def _said(messages: Messages) -> list[str] | None:
    """Returns the contents of the messages once each, the shortest first, or None if one holds more than plain text.

    A rendered piece that contains none of them comes from the template itself.
    """
    said: list[str] = []
    for message in messages:
        if not message.keys() <= {"role", "content"} or not isinstance(message.get("content"), str):
            return None
        if content := message["content"].strip():
            said.append(content)
    return sorted(set(said), key=len)


_FEW_CANDIDATES = 512
_LONGEST_FIXED = 512  # characters; the tokens of longer pieces are not cached
_MOST_FIXED = 64  # cached pieces
_SHORTEST_KEPT = 128  # characters of a piece that a memo keeps: shorter ones are tokenised as fast


class _ControlTokens:
    """Finds control tokens in text and breaks them up."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokens = ((tokenizer.backend.id_to_token(i), i) for i in tokenizer.special_ids)
        self.ids: dict[str, int] = {token: i for token, i in tokens if token}
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._heads = {token[:n] for token in self.ids for n in range(1, len(token))}
        self._tails = {token[n:] for token in self.ids for n in range(1, len(token))}
        self._longest = max(map(len, longest_first), default=0)
        # Pieces that the template itself writes, such as its own system message, are the same in every request.
        self.fixed = lru_cache(maxsize=_MOST_FIXED)(partial(tokenizer.encode, allow_special=False))
        # With few candidates `startswith` and `endswith` are faster than slicing; DeepSeek has thousands.
        few = len(self._heads) + len(self._tails) <= _FEW_CANDIDATES
        self._candidates = (tuple(self._tails), tuple(self._heads)) if few else None

    def split(self, text: str) -> list[tuple[bool, str]]:
        """Splits `text` into pairs (is a control token, piece); empty pieces are left out."""
        if self._pattern is None:
            return [(False, text)] if text else []
        pieces: list[tuple[bool, str]] = []
        end = 0
        for match in self._pattern.finditer(text):
            pieces += [(False, text[end : match.start()]), (True, match.group())]
            end = match.end()
        pieces.append((False, text[end:]))
        return [(is_control, piece) for is_control, piece in pieces if piece]

    @lru_cache(maxsize=4)  # noqa: B019 - there are a few tokenizers, and each is kept as long as its model
    def starts(self, literals: frozenset[str]) -> re.Pattern[str] | None:
        """Returns what matches a character that could begin a control token, and strings among `literals` that could not.

        A template finds a string of its own in the content only if no mark is within it.
        """
        if self._pattern is None:
            return None
        first = {token[0] for token in self.ids}
        harmless = [
            one
            for one in literals
            if one[0] in first and not self._pattern.search(one) and not self._touches(one)[1]
        ]
        either = "|".join(map(re.escape, sorted(harmless, key=lambda one: (-len(one), one))))
        single = f"(?P<first>[{re.escape(''.join(sorted(first)))}])"
        return re.compile(f"{either}|{single}" if either else single)

    def break_up(self, value: Any, mark: str, starts: re.Pattern[str] | None) -> Any:
        """Returns a copy of a JSON-like value in which no string holds a control token or could complete one.

        Args:
            value: strings, and lists and mappings of them.
            mark: what goes behind a character that could begin a control token.
            starts: from `starts`.
        """
        if isinstance(value, str):
            return self._break_text(value, mark, starts)
        if isinstance(value, Mapping):
            items = cast("Mapping[Any, Any]", value).items()
            return {
                self.break_up(key, mark, starts): self.break_up(item, mark, starts) for key, item in items
            }
        if isinstance(value, list | tuple):
            return [self.break_up(item, mark, starts) for item in cast("list[Any]", value)]
        return value

    def _break_text(self, text: str, mark: str, starts: re.Pattern[str] | None) -> str:
        if starts is None:
            return text
        text = starts.sub(lambda found: found[0] + mark if found["first"] else found[0], text)
        # Two adjacent strings, or the template and a string, could complete a token between them.
        begins, ends = self._touches(text)
        return f"{mark if begins else ''}{text}{mark if ends else ''}"

    def _touches(self, text: str) -> tuple[bool, bool]:
        """Returns whether the text begins with the tail of a control token, and whether it ends with the head of one."""
        if self._candidates is not None:
            tails, heads = self._candidates
            return text.startswith(tails), text.endswith(heads)
        lengths = range(1, min(self._longest, len(text) + 1))
        return (
            any(text[:n] in self._tails for n in lengths),
            any(text[-n:] in self._heads for n in lengths),
        )


@lru_cache(maxsize=4)  # 10 ms to build for DeepSeek's 1277 control tokens
def _control_tokens(tokenizer: Tokenizer) -> _ControlTokens:
    return _ControlTokens(tokenizer)


def _unused_character(inputs: Mapping[str, Any], source: str) -> str:
    """Returns a private-use character that occurs neither in the input nor in the template."""
    texts = [source]
    stack: list[Any] = [inputs]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, Mapping):
            stack += [*cast("Mapping[Any, Any]", value).keys(), *cast("Mapping[Any, Any]", value).values()]
        elif isinstance(value, list | tuple):
            stack += cast("list[Any]", value)
    first = "\U000f0000"
    if not any(first in text for text in texts):
        return first
    used = set("".join(texts))
    mark = next((chr(c) for c in range(0xF0000, 0xFFFFE) if chr(c) not in used), None)
    if mark is None:
        raise InvalidRequest("the messages use every private-use character of Unicode", param="messages")
    return mark
