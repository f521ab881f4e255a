"""A model's view of training data: records as its tokens, and texts as its embedding vectors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepwell.tuning.data.check import Rendered
from deepwell.tuning.data.records import Record
from deepwell.tuning.train.examples import Example, render_all

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
    """Renders records as training does: with the tokenizer and chat template that serve, and the mask of what is learnt."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def __call__(self, record: Record) -> Rendered:
        """Returns the rendered record; what is learnt stands between ⟦ and ⟧. Raises as `render_all`."""
        roles = {one["role"] for one in record.messages if one.get("weight", 1) != 0}
        if (
            record.format != "text" and "assistant" not in roles
        ):  # nothing is learnt, which another finding says
            tokens = self._codec.encode_chat(
                record.messages, tools=record.tools or None, add_generation_prompt=False
            )
            return Rendered(len(tokens), self._codec.decode(tokens))
        examples = render_all(record, self._codec, sys.maxsize)
        return Rendered(max(len(one.token_ids) for one in examples), self._shown(examples[0]))

    def _shown(self, example: Example) -> str:
        parts: list[str] = []
        for learnt, run in groupby(
            zip(example.token_ids, example.loss_mask, strict=True), key=lambda one: one[1]
        ):
            text = self._codec.decode([token for token, _ in run])
            parts.append(f"⟦{text}⟧" if learnt else text)
        return "".join(parts)


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
