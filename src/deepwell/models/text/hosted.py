"""A tokenizer and a chat template that run in a `TextProcess`, with the interface of those in process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepwell.models.store.trust import is_vouched
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.text_process import TextFacts, TextProcess
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["HostedTemplate", "HostedTokenizer", "open_tokenizer"]


class HostedTokenizer(Tokenizer):
    """A tokenizer whose texts are tokenised in `process`. Tokens are read here, from a table of their bytes.

    Raises:
        InvalidModelFile, UnsupportedModel: see `TextProcess.load`.
    """

    def __init__(
        self, process: TextProcess
    ) -> None:  # the base class needs a loaded backend, which stays in the child
        self.process = process
        facts = process.load()
        self._facts = facts
        self.bos_token_id = facts.bos_token_id
        self.pad_token_id = facts.pad_token_id
        self.eos_token_ids = tuple(facts.eos_token_ids)
        self.add_bos = facts.add_bos
        self.chat_template = facts.chat_template
        self.added = facts.added
        self.special_ids = frozenset(facts.special_ids)
        self.vocab_size = facts.vocab_size
        self.kind = facts.kind
        self.prefix_ids, self.suffix_ids = tuple(facts.prefix_ids), tuple(facts.suffix_ids)
        self.fewest_tokens_rate = facts.rate
        self._ids = {text: i for i, text in facts.added.items() if i in self.special_ids}

    @property
    def facts(self) -> TextFacts:
        """The facts of the tokenizer, as the child gave them when it loaded it."""
        return self._facts

    @property
    def bos_token(self) -> str | None:
        return None if self.bos_token_id is None else self._facts.names.get(self.bos_token_id)

    @property
    def eos_token(self) -> str | None:
        return self._facts.names.get(self.eos_token_ids[0]) if self.eos_token_ids else None

    @property
    def pad_token(self) -> str | None:
        return None if self.pad_token_id is None else self._facts.names.get(self.pad_token_id)

    def control_token(self, text: str) -> int | None:
        """Returns the id of a control token given its text, or None."""
        return self._ids.get(text)

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """Returns the token ids of `text`; see `Tokenizer.encode`."""
        return self.process.encode([text], allow_special=allow_special)[0]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Returns the text of `ids`; see `Tokenizer.decode`."""
        kept = [i for i in ids if not (skip_special and i in self.special_ids)]
        if self.decodes_by_library:
            return self.process.decode(kept)
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the bytes that a token stands for; see `Tokenizer.token_bytes`."""
        table = self._facts.token_bytes
        return table[token_id] if 0 <= token_id < len(table) else b""


class HostedTemplate(ChatTemplate):
    """The chat template of a `HostedTokenizer`, which `process` compiles and renders."""

    def __init__(
        self, tokenizer: HostedTokenizer
    ) -> None:  # the base class compiles the source, which only the child does
        assert tokenizer.chat_template is not None
        self.process = tokenizer.process
        self.source = tokenizer.chat_template
        self.bos_token = tokenizer.bos_token or ""
        self.eos_token = tokenizer.eos_token or ""
        self.variables = frozenset(tokenizer.facts.variables)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """Returns the prompt as text; see `ChatTemplate.render`."""
        return self.process.render(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, **variables
        )

    def try_renders(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[str | None]:
        """Renders conversations on trial; see `ChatTemplate.try_renders`. The list is empty if the process had to be ended."""
        return self.process.try_renders(conversations)


def open_tokenizer(path: Path) -> Tokenizer:
    """Returns the tokenizer of a model: in process if a pinned hash vouches for its files, else in a process with limits.

    Raises:
        InvalidModelFile, UnsupportedModel: as for `Tokenizer.load`, or its limits are exceeded.
    """
    return Tokenizer.load(path) if is_vouched(path) else HostedTokenizer(TextProcess(path))
