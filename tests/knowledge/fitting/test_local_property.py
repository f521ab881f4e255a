"""The fitter of `LLM` and `ask --file`: every token of random conversations has one fate, and nothing that fits is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.knowledge.fitting.talks import conversations, texts
from tests.knowledge.hashing import HashEmbedder
from tests.server.fakes import make_codec

from deepwell.dialogue.text import Codec
from deepwell.errors import ContextLengthExceeded
from deepwell.knowledge.context.fitting.fit import Fitted
from deepwell.knowledge.context.fitting.ledger import FATES
from deepwell.knowledge.context.fitting.local import LocalFitter
from deepwell.knowledge.context.fitting.policy import ContextPolicy
from deepwell.knowledge.embedders import Embedders

POLICIES: tuple[ContextPolicy, ...] = ("strict", "window", "compress", "retrieve", "auto")
ANSWER = 16
WHOLE = 1200  # characters up to which the last message has no document in it


class TemplateCodec(Codec):
    """A codec that takes conversations with calls, as the models' dialects write them."""

    def encode_chat(self, messages: Any, **more: Any) -> list[int]:
        return super().encode_chat(self.dialect.conversation(messages, ()), **more)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    made = make_codec(tmp_path_factory.mktemp("tokenizer"))
    return TemplateCodec(made._tokenizer, made._template)


@pytest.fixture(scope="module")
def fitters(codec: Codec) -> Iterator[dict[tuple[int, bool], LocalFitter]]:
    embedder = HashEmbedder()

    async def named(_self: Embedders, _name: str) -> HashEmbedder:
        return embedder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedders, "named", named)
        made = {
            (context, knows): LocalFitter(codec, context, embedder="hash" if knows else None, windows=knows)
            for context in (256, 900, 2_400)
            for knows in (False, True)
        }
        yield made
        for one in made.values():
            one.close()


def check(
    codec: Codec, fitter: LocalFitter, context: int, messages: list[Any], policy: ContextPolicy
) -> Fitted | None:
    """Checks the account of one conversation; returns None where it is refused."""
    tokens, room = len(codec.encode_chat(messages)), context - ANSWER
    last = max(at for at, one in enumerate(messages) if one["role"] == "user")
    try:
        fitted = fitter.fit(messages, policy, max_tokens=ANSWER)
    except ContextLengthExceeded:
        assert tokens > room
        stays = [
            one for at, one in enumerate(messages) if at >= last or one["role"] in ("system", "developer")
        ]
        assert (
            policy == "strict"
            or len(messages[last]["content"]) > WHOLE
            or len(codec.encode_chat(stays)) > room
        )
        return None
    ledger = fitted.ledger
    assert ledger.original_tokens == tokens == sum(getattr(ledger.fates, one) for one in FATES)
    assert all(count >= 0 for row in (*ledger.messages, ledger) for count in _numbers(row))
    assert ledger.prompt_tokens == len(codec.encode_chat(fitted.messages)) == ledger.fates.read + ledger.added
    assert ledger.prompt_tokens <= room or fitted.window is not None
    if tokens <= room:
        assert (ledger.lost, ledger.added, fitted.messages) == (0, 0, messages)
    ids = [one.get("tool_call_id") for one in messages[last:]]
    assert [one.get("tool_call_id") for one in fitted.messages][
        -len(ids) :
    ] == ids  # calls since the question stay
    return fitted


def _numbers(row: Any) -> list[int]:
    fates = row.fates
    return [getattr(fates, one) for one in FATES]


@settings(max_examples=120, deadline=None)
@given(conversations(), st.sampled_from(POLICIES), st.sampled_from([256, 900, 2_400]), st.booleans())
def test_conversations(
    codec: Codec, fitters: Any, messages: list[Any], policy: ContextPolicy, context: int, knows: bool
) -> None:
    check(codec, fitters[context, knows], context, messages, policy)


@settings(max_examples=60, deadline=None)
@given(texts(120), texts(2), st.sampled_from(POLICIES), st.sampled_from([256, 900, 2_400]), st.booleans())
def test_books(
    codec: Codec, fitters: Any, book: str, question: str, policy: ContextPolicy, context: int, knows: bool
) -> None:
    messages = [{"role": "user", "content": f"{book}\n\n{question}"}]
    check(codec, fitters[context, knows], context, messages, policy)
