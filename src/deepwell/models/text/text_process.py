"""A model's tokenizer and chat template in a child process, with limits of memory and of time.

`python -m deepwell.models.text.text_process FD` is the child. A text of megabytes holds the interpreter's lock for seconds, and
a stranger's tokenizer or template may take any memory and any time; in a child neither touches anybody else. The answers
are those of the same code in process, bit for bit.
"""

from __future__ import annotations

import marshal
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidModelFile, InvalidRequest
from deepwell.models.formats.e5 import e5_file_in
from deepwell.models.text.chat_template import TRIAL_SECONDS, ChatTemplate, render_chat
from deepwell.models.text.token_memo import TokenPieces
from deepwell.models.text.tokenizer import Tokenizer, TokenizerKind, TooManyTokens
from deepwell.process.calls import (
    SINGLE_TENANT,
    CallEnded,
    CallProcess,
    answer_calls,
    limit_memory,
    limited,
    trim_memory,
    twice_if_lost,
)
from deepwell.process.frames import Failure, error_of, failure_of

__all__ = ["LOAD_S", "MEMORY_BYTES", "TextFacts", "TextProcess", "trim_memory"]

MEMORY_BYTES: Final = 448 << 20  # of the child's own data; with its code it stays below 512 MB
LOAD_S: Final = 10.0
RENDER_S: Final = 2.5  # the sandbox stops a template after 2 s, unless one call inside of it takes longer
TRIAL_S: Final = TRIAL_SECONDS + 0.5
ENCODE_S: Final = 3.0  # and a second more for every so many characters
BYTES_A_SECOND: Final = 200_000
_SMALL_BYTES: Final = (
    256 << 10
)  # a request that is no larger should fit; if it does not, the model is at fault
_FILE_BYTES: Final = 64 << 20  # the readers take no longer header or vocabulary
_TRIM_BYTES: Final = 64 << 10  # a larger request leaves so much freed memory that it is given back
_NICE = 5  # long texts give way to whatever computes answers


class TextFacts(msgspec.Struct, array_like=True, frozen=True):
    """The facts of a loaded tokenizer and its template, by which tokens can be read without the child."""

    token_bytes: list[bytes]  # by id
    added: dict[int, str]
    special_ids: list[int]
    eos_token_ids: list[int]
    bos_token_id: int | None
    pad_token_id: int | None
    names: dict[int, str]  # the tokens of the ids above, as the vocabulary spells them
    add_bos: bool
    chat_template: str | None
    variables: list[str]  # of the template
    prefix_ids: list[int]
    suffix_ids: list[int]
    vocab_size: int
    kind: TokenizerKind
    rate: tuple[float, bytes]


class _Setup(msgspec.Struct, array_like=True, frozen=True):
    path: str
    memory_bytes: int
    nice: int


class _Tokens(msgspec.Struct, tag=1, array_like=True, frozen=True):
    ids: list[bytes]  # int32, a text each


class _Count(msgspec.Struct, tag=2, array_like=True, frozen=True):
    index: int
    count: int
    exact: bool


class _Text(msgspec.Struct, tag=3, array_like=True, frozen=True):
    text: str


class _Loaded(msgspec.Struct, tag=4, array_like=True, frozen=True):
    pass


class _Facts(msgspec.Struct, tag=5, array_like=True, frozen=True):
    facts: TextFacts


class _Texts(msgspec.Struct, tag=6, array_like=True, frozen=True):
    texts: list[str | None]


_encode = msgspec.msgpack.Encoder().encode
_answers = msgspec.msgpack.Decoder(_Tokens | _Count | _Text | _Loaded | _Facts | _Texts | Failure)


class TooLong(Exception):
    """Raised in place of tokens when text `index` has more than the caller can use; see `TooManyTokens`."""

    def __init__(self, index: int, count: int, exact: bool) -> None:
        super().__init__(f"text {index} has {count} tokens")
        self.index = index
        self.count = count
        self.exact = exact


class TextProcess:
    """The parent's end: the tokenizer and template of the model at `path`. Methods block, and may be called from any thread.

    Args:
        memory_bytes: memory for data that the child may take, beside the size of the file.
        background: whether the child gives way to other processes.
    """

    def __init__(self, path: Path, *, memory_bytes: int = MEMORY_BYTES, background: bool = False) -> None:
        self._name = path.name
        self._memory_bytes = memory_bytes + _file_bytes(path)
        setup = _Setup(str(path.absolute()), self._memory_bytes, _NICE if background else 0)
        self._calls = CallProcess(
            __name__, _encode(setup), launch_s=LOAD_S, reads=[path], decode=_answers.decode
        )

    @property
    def pid(self) -> int:
        """Process id of the child; 0 if there is none."""
        return self._calls.pid

    def load(self) -> TextFacts:
        """Starts the child if there is none, and returns the facts of what it loaded.

        Raises:
            InvalidModelFile, UnsupportedModel: the files are not sound, or take more than the limits to read.
        """
        answer = self._ask("facts", ())
        assert isinstance(answer, _Facts)
        return answer.facts

    def start(self) -> None:
        """Starts the child if there is none. Raises as `load` does."""
        try:
            twice_if_lost(self._start_once)
        except CallEnded as error:
            if error.killed:
                raise
            raise _unavailable(error) from None

    def _start_once(self) -> None:
        """Starts the child if there is none. Raises `CallEnded` where that is not the model's fault."""
        try:
            answer = self._calls.start(SINGLE_TENANT)
        except CallEnded as error:
            if error.killed or error.late or error.lost:
                raise
            raise InvalidModelFile(
                f"{self._name}: the tokenizer cannot be read within {self._memory_bytes >> 20} MB and {LOAD_S:g} s: {error}",
                fix="use a model whose tokenizer is sound",
            ) from None
        if isinstance(answer, Failure):
            self._calls.close()  # it has nothing to answer with
            raise error_of(answer)

    def encode(
        self, texts: Sequence[str], *, allow_special: bool = True, most_tokens: int | None = None
    ) -> list[list[int]]:
        """Returns the tokens of every text, as `Tokenizer.encode` does.

        Raises:
            TooLong: a text has more than `most_tokens`.
            InvalidRequest: a text is not valid Unicode, or cannot be tokenised within the limits.
        """
        return self._tokens("encode", (list(texts), allow_special, most_tokens))

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        most_tokens: int | None = None,
        counted: bool = False,
        variables: Mapping[str, Any] | None = None,
        owner: str = "",
    ) -> list[int]:
        """Returns the tokens of a rendered chat, as `chat_template.encode_chat` does.

        Args:
            owner: tenant whose earlier texts may save time.
            counted: the caller wants to know the number of tokens, even where there are too many.

        Raises:
            TooLong: there are more than `most_tokens`.
            InvalidRequest, InvalidModelFile: as for `ChatTemplate.render`, or the limits are too small.
        """
        arguments = (messages, tools, most_tokens, counted, variables or {}, owner)
        return self._tokens("encode_chat", arguments)[0]

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """Returns the rendered chat, as `ChatTemplate.render` does."""
        answer = self._ask("render", (messages, variables))
        assert isinstance(answer, _Text)
        return answer.text

    def try_renders(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[str | None]:
        """Renders conversations on trial; see `ChatTemplate.try_renders`. The list is empty if the child had to be ended."""
        try:
            answer = self._ask("try_renders", (conversations,))
        except InvalidModelFile:
            return []
        assert isinstance(answer, _Texts)
        return answer.texts

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of tokens as the library decodes them."""
        answer = self._ask("decode", (list(ids),))
        assert isinstance(answer, _Text)
        return answer.text

    def kill(self) -> None:
        """Ends the call in progress: nobody waits for its answer any more."""
        self._calls.kill()

    def close(self) -> None:
        """Ends the child, which gives its memory back. The next call starts another."""
        self._calls.close()

    def _tokens(self, name: str, arguments: tuple[Any, ...]) -> list[list[int]]:
        answer = self._ask(name, arguments)
        if isinstance(answer, _Count):
            raise TooLong(answer.index, answer.count, answer.exact)
        assert isinstance(answer, _Tokens)
        return [cast("list[int]", np.frombuffer(ids, np.int32).tolist()) for ids in answer.ids]

    def _ask(self, name: str, arguments: tuple[Any, ...]) -> Any:
        try:
            # Of all formats it alone keeps every number as it is, however large, and it is read by our own child alone.
            request = marshal.dumps((name, arguments))
        except ValueError as error:
            raise InvalidRequest(
                f"the messages are too large to render: {error}", param="messages"
            ) from error
        processor_s = _render_s(len(request)) + _encode_s(len(request))

        def call() -> Any:
            self._start_once()
            return self._calls.call(request, processor_s, tenant=SINGLE_TENANT)

        try:
            answer = twice_if_lost(call)
        except CallEnded as error:
            if error.killed:
                raise
            if error.late or error.lost:
                raise _unavailable(error) from None
            kind = InvalidModelFile if len(request) <= _SMALL_BYTES else InvalidRequest
            raise kind(
                f"{self._name}: a text of {len(request)} bytes cannot be rendered and tokenised within "
                f"{self._memory_bytes >> 20} MB: {error}",
                fix="send a shorter one, or use a model whose tokenizer and template are sound",
                param="messages",
            ) from None
        if isinstance(answer, Failure):
            raise error_of(answer)
        return answer


def _unavailable(error: CallEnded) -> EngineUnavailable:
    return EngineUnavailable(
        f"the process that tokenises texts ended early: {error}", fix="send the request again"
    )


def _render_s(nbytes: int) -> float:
    return RENDER_S + nbytes / (10 * BYTES_A_SECOND)


def _encode_s(nbytes: int) -> float:
    return ENCODE_S + nbytes / BYTES_A_SECOND


def _file_bytes(path: Path) -> int:
    """Returns the size of the file that holds the vocabulary; 0 if there is none, which the child will say."""
    found = [path] if path.is_file() else [path / "tokenizer.json", *sorted(path.glob("*.gguf"))]
    if path.is_dir() and (e5 := e5_file_in(path)) is not None:
        found.append(e5)
    size = next((file.stat().st_size for file in found if file.is_file()), 0)
    return min(size, _FILE_BYTES)


def _facts_of(tokenizer: Tokenizer, template: ChatTemplate | None) -> TextFacts:
    ids = (tokenizer.bos_token_id, tokenizer.pad_token_id, *tokenizer.eos_token_ids)
    names = {i: tokenizer.backend.id_to_token(i) for i in ids if i is not None}
    last = max(tokenizer.backend.get_vocab(with_added_tokens=True).values(), default=-1)
    return TextFacts(
        token_bytes=[tokenizer.token_bytes(i) for i in range(last + 1)],
        added=tokenizer.added,
        special_ids=sorted(tokenizer.special_ids),
        eos_token_ids=list(tokenizer.eos_token_ids),
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        names={i: name for i, name in names.items() if name is not None},
        add_bos=tokenizer.add_bos,
        chat_template=tokenizer.chat_template,
        variables=sorted(template.variables) if template else [],
        prefix_ids=list(tokenizer.prefix_ids),
        suffix_ids=list(tokenizer.suffix_ids),
        vocab_size=tokenizer.vocab_size,
        kind=tokenizer.kind,
        rate=tokenizer.fewest_tokens_rate,
    )


class _Child:
    """The child's end: loads at the first message, then answers calls."""

    def __init__(self) -> None:
        self._tokenizer: Tokenizer | None = None
        self._template: ChatTemplate | None = None
        self._nbytes = 0  # of the request
        self._pieces = TokenPieces()

    def answer(self, body: bytes) -> bytes:
        reply = self._reply(body)
        if len(body) > _TRIM_BYTES:
            trim_memory()
        return reply

    def _reply(self, body: bytes) -> bytes:
        try:
            if self._tokenizer is None:
                self._load(msgspec.msgpack.decode(body, type=_Setup))
                return _encode(_Loaded())
            name, arguments = marshal.loads(body)  # noqa: S302  # the parent wrote it
            work: Callable[..., msgspec.Struct] = getattr(self, f"_{name}")
            self._nbytes = len(body)
            return _encode(work(*arguments))
        except TooManyTokens as error:
            return _encode(_Count(0, error.count, error.exact))
        except DeepwellError as error:
            return _encode(failure_of(0, error))
        except MemoryError:
            os.abort()  # as the tokenizer library does: the parent knows whether the text or the model was too large
        except BaseException as error:  # a panic of the library is no Exception
            reason = f"{type(error).__name__}: {str(error)[:400]}"
            return _encode(failure_of(0, InvalidModelFile(f"the tokenizer or template failed: {reason}")))

    def _load(self, setup: _Setup) -> None:
        os.nice(setup.nice)
        limit_memory(setup.memory_bytes)
        with limited(LOAD_S):
            tokenizer = Tokenizer.load(Path(setup.path))
            source = tokenizer.chat_template
            template = None
            if source:
                template = ChatTemplate(source, tokenizer.bos_token, tokenizer.eos_token)
        self._tokenizer, self._template = tokenizer, template

    def _facts(self) -> msgspec.Struct:
        assert self._tokenizer is not None
        with limited(LOAD_S):
            return _Facts(_facts_of(self._tokenizer, self._template))

    def _encode(self, texts: list[str], allow_special: bool, most_tokens: int | None) -> msgspec.Struct:
        assert self._tokenizer is not None
        found: list[bytes] = []
        for index, text in enumerate(texts):
            with limited(_encode_s(self._nbytes)):
                ids = self._tokenizer.encode(text, allow_special=allow_special)
            if most_tokens is not None and len(ids) > most_tokens:
                return _Count(index, len(ids), True)
            found.append(np.array(ids, np.int32).tobytes())
        return _Tokens(found)

    def _encode_chat(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        most_tokens: int | None,
        counted: bool,
        variables: dict[str, Any],
        owner: str,
    ) -> msgspec.Struct:
        assert self._tokenizer is not None and self._template is not None
        with limited(_render_s(self._nbytes)):
            chat = render_chat(self._tokenizer, self._template, messages, tools=tools, **variables)
        with limited(_encode_s(self._nbytes)):
            ids = chat.encode(None if counted else most_tokens, self._pieces.of(owner))
        if most_tokens is not None and len(ids) > most_tokens:
            return _Count(0, len(ids), True)
        return _Tokens([np.array(ids, np.int32).tobytes()])

    def _render(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> msgspec.Struct:
        assert self._template is not None
        with limited(RENDER_S):
            return _Text(self._template.render(messages, **variables))

    def _try_renders(self, conversations: list[list[dict[str, Any]]]) -> msgspec.Struct:
        assert self._template is not None
        with limited(TRIAL_S):
            return _Texts(self._template.try_renders(conversations))

    def _decode(self, ids: list[int]) -> msgspec.Struct:
        assert self._tokenizer is not None
        with limited(ENCODE_S):
            return _Text(self._tokenizer.decode(ids, skip_special=False))


def main(descriptor: str) -> None:
    """Serves the parent until it closes the connection."""
    answer_calls(int(descriptor), _Child().answer)


if __name__ == "__main__":
    main(sys.argv[1])
