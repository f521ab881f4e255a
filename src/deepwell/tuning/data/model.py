"""A model's view of training data: records as its tokens, and texts as its embedding vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.data.check import Rendered
from deepwell.tuning.data.records import Record

if TYPE_CHECKING:
    from deepwell.dialogue.text import Codec
    from deepwell.llm import LLM

__all__ = ["CodecRenderer", "EngineEmbedder"]

_BATCH = 256  # texts
_MARGIN = 16  # tokens for what the model puts around a text, and for the seam where it was cut


Counting = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _uncounted(_: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


class CodecRenderer:
    """Renders records with the tokenizer and chat template that serve."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def __call__(self, record: Record) -> Rendered:
        """Returns the rendered record. Raises as `Codec.encode_chat`."""
        if record.format == "text":
            tokens = self._codec.encode(record.text)
        else:
            messages = [
                {name: value for name, value in message.items() if name != "weight"}
                for message in record.messages
            ]
            tokens = self._codec.encode_chat(
                messages, tools=record.tools or None, add_generation_prompt=False
            )
        return Rendered(len(tokens), self._codec.decode(tokens))


class EngineEmbedder:
    """Embeds texts on the engine. Of a text that is longer than the model's context, the beginning is embedded.

    Attributes:
        cut: number of texts of which only the beginning was embedded.
    """

    def __init__(self, llm: LLM, counting: Counting = _uncounted) -> None:
        """
        Args:
            counting: opens a progress bar for a number of texts.
        """
        self._llm = llm
        self._counting = counting
        self.cut = 0

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns vectors of unit length.  # [texts, hidden_size]"""
        # E5 wants its prompt of a query on both sides where texts are compared with their like.
        input_type = "query" if self._llm.prompts else None
        found: list[NDArray[np.float32]] = []
        with self._counting(len(texts)) as advance:
            for begin in range(0, len(texts), _BATCH):
                batch = [self._fitting(text) for text in texts[begin : begin + _BATCH]]
                found.append(self._llm.embed(batch, input_type=input_type))
                advance(len(batch))
        return np.concatenate(found)

    def _fitting(self, text: str) -> str:
        room = self._llm.context - _MARGIN
        if len(text) <= room:  # a token has one character at least
            return text
        tokens = self._llm.unframed(self._llm.encode(text))
        if len(tokens) <= room:
            return text
        self.cut += 1
        return self._llm.detokenize(tokens[:room])
