"""Grammars, which restrict the next tokens so that the output of a request parses.

A grammar is compiled once for its tenant, on a thread of its own, and cached. Each request then runs its own copy
(`masks.py`). The mask of a position depends only on the grammar and the tokens before it. Constrained output is therefore
as reproducible as any other, and drafts are accepted as without a grammar.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final, cast

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from deepwell.engine.grammar.fair_worker import FairWorker
from deepwell.engine.grammar.json_schema import check_schema
from deepwell.engine.grammar.masks import CompiledGrammar, GrammarState, Place, first_line
from deepwell.engine.protocol import Grammar
from deepwell.errors import InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["MAX_SOURCE", "WHITE_SPACE", "GrammarCompiler", "schema_source"]

MAX_SOURCE: Final = 256 << 10  # characters; the largest schemas in use have some tens of thousands
# White space between two JSON tokens: a line break and an indentation. Unbounded, a model may fill max_tokens with blanks.
WHITE_SPACE: Final = r"\n?[ ]{0,20}"
_KEPT: Final = 128  # compiled grammars, of all tenants
# Masks give way to the kernels; a compilation, which a request waits for, gets about a quarter of a busy processor.
_MASKS_NICE, _COMPILING_NICE = 10, 5
# Half of llguidance's defaults per step, because a mask cannot be interrupted.
_LIMITS: Final = LLParserLimits(step_lexer_fuel=100_000, step_max_items=25_000, verbose_errors=False)


class _Vocabulary:
    """A tokenizer in the form that llguidance reads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = min(eos_token_ids)
        self.bos_token_id = tokenizer.bos_token_id
        self.special_token_ids = sorted(tokenizer.special_ids)
        # Embeddings may be padded beyond the vocabulary. The extra ids stand for no text and are never allowed.
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]

    def __call__(self, text: bytes) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace"), allow_special=False)


class GrammarCompiler:
    """Compiles grammars for one vocabulary, and keeps them for their tenants. Methods may be called from any thread.

    A compiled grammar serves only requests of equal salt, like the blocks of the prefix cache: how long a grammar takes must
    not tell what other tenants use.

    Args:
        load: reads the model's tokenizer; called for the first grammar, because most servers never see one.
        vocab_size: width of a row of logits.
        eos_token_ids: the tokens that end a sequence.
        clock: returns the seconds of processor time that the calling thread has used.
    """

    def __init__(
        self,
        load: Callable[[], Tokenizer],
        vocab_size: int,
        eos_token_ids: Iterable[int],
        *,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._load = load
        self._vocab_size = vocab_size
        self._eos = tuple(sorted(eos_token_ids))
        self._clock = clock
        self._loading = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._lock = threading.Lock()  # of `_compiled`; never held while a grammar is compiled
        self._compiled: dict[str, OrderedDict[Grammar, CompiledGrammar]] = {}  # by salt, the last used one last
        self._compiling = FairWorker("deepwell-grammars", nice=_COMPILING_NICE)
        self._masks = FairWorker("deepwell-masks", nice=_MASKS_NICE)

    def has(self, grammar: Grammar, *, salt: str = "") -> bool:
        """Returns whether the grammar is already compiled for requests of this salt."""
        return grammar in self._compiled.get(salt, ())

    async def prepare(self, grammar: Grammar, *, tenant: str = "", salt: str = "") -> None:
        """Compiles a grammar on a thread of low priority, in turns of the tenants, unless it is compiled already.

        A call that is cancelled before its turn is not compiled. One that has begun cannot be stopped: the limits of the
        compilation bound it.

        Raises:
            InvalidRequest: the grammar does not compile or uses an unsupported feature, which the message names.
        """
        if self.has(grammar, salt=salt):
            return
        done: Future[None] = Future()

        def compile_now() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    self._find_or_compile(grammar, salt)
                except BaseException as error:
                    done.set_exception(error)
                else:
                    done.set_result(None)

        self._compiling.submit(tenant, compile_now)
        await asyncio.wrap_future(done)

    def start(
        self,
        grammar: Grammar,
        *,
        tenant: str = "",
        salt: str = "",
        on_ready: Callable[[], None] = lambda: None,
    ) -> GrammarState:
        """Returns the state at the beginning of the grammar, for one request. Compiles it first if `prepare` has not.

        Args:
            tenant: owner of the request, in whose turns the worker computes its slow masks.
            salt: compiled grammars are shared only between equal salts.
            on_ready: called on the worker's thread when it has computed a mask.

        Raises:
            InvalidRequest: the grammar does not compile or uses an unsupported feature, which the message names.
        """
        compiled = self._find_or_compile(grammar, salt)
        place = Place(tenant, self._masks, on_ready, self._clock)
        return GrammarState(compiled, compiled.matcher.deep_copy(), self._vocab_size, place)

    def close(self) -> None:
        """Ends the threads. Grammars that wait for their compilation are dropped."""
        self._compiling.close()
        self._masks.close()

    def _find_or_compile(self, grammar: Grammar, salt: str) -> CompiledGrammar:
        with self._lock:
            kept = self._compiled.get(salt, {})
            if (compiled := kept.get(grammar)) is not None:
                self._compiled[salt].move_to_end(grammar)
                return compiled
        made = self._compile(grammar)
        with self._lock:
            # Two threads may have compiled it; both copies are equal, and the first stays.
            compiled = self._compiled.setdefault(salt, OrderedDict()).setdefault(grammar, made)
            if sum(map(len, self._compiled.values())) > _KEPT:
                self._drop_one()
        return compiled

    def _drop_one(self) -> None:
        """Drops the grammar that was not used for longest, of the salt with the most: others' grammars stay."""
        salt = max(self._compiled, key=lambda one: len(self._compiled[one]))
        self._compiled[salt].popitem(last=False)

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        if len(grammar.source) > MAX_SOURCE:
            raise InvalidRequest(
                f"the grammar has {len(grammar.source)} characters",
                fix=f"send at most {MAX_SOURCE}",
                param="grammar",
            )
        matcher = LLMatcher(self._vocabulary(), _source(grammar), log_level=0, limits=_LIMITS)
        first = b""
        if not matcher.is_error():
            first = matcher.compute_bitmask()  # the mask of the first position, with which every copy starts
        if matcher.is_error():
            noun = {"json_schema": "the JSON schema", "regex": "the regular expression"}.get(
                grammar.kind, "the grammar"
            )
            raise InvalidRequest(
                f"{noun} cannot be used: {first_line(matcher.get_error())}",
                fix="leave out what it names",
                param="grammar",
            )
        return CompiledGrammar(matcher, first)

    def _vocabulary(self) -> LLTokenizer:
        with self._loading:
            if self._tokenizer is None:
                if not self._eos:
                    raise InvalidRequest(
                        "this model has no token that ends a sequence, which a grammar needs",
                        fix="send the request without it",
                        param="grammar",
                    )
                vocabulary = _Vocabulary(self._load(), self._vocab_size, self._eos)
                self._tokenizer = LLTokenizer(
                    TokenizerWrapper(vocabulary), n_vocab=self._vocab_size, eos_token=list(self._eos)
                )
            return self._tokenizer


def _source(grammar: Grammar) -> str:
    """Returns the grammar in the form that llguidance reads."""
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.source)
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.source)
    return LLMatcher.grammar_from_json_schema(schema_source(grammar.source))


def schema_source(source: str) -> str:
    """Checks a JSON schema and returns it as llguidance accepts it, alone or after `%json` in a Lark grammar.

    Raises:
        InvalidRequest: `source` is not a JSON object, or uses an unsupported keyword.
    """
    try:
        schema: object = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is no JSON: {error}", param="grammar") from error
    if not isinstance(schema, dict):
        raise InvalidRequest(
            "a JSON schema must be an object", fix="use {} where anything goes", param="grammar"
        )
    known = check_schema(cast("dict[str, object]", schema))
    return json.dumps(known | {"x-guidance": {"whitespace_pattern": WHITE_SPACE}}, ensure_ascii=False)
