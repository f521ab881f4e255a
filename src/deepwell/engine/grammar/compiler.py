"""Grammars, which restrict the next tokens so that the output of a request parses.

A grammar is compiled once for its tenant, on a thread of its own, and cached. Each request then runs its own copy
(`masks.py`). The mask of a position depends only on the grammar and the tokens before it. Constrained output is therefore
as reproducible as any other, and drafts are accepted as without a grammar.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from deepwell.engine.grammar.fair_worker import FairWorker
from deepwell.engine.grammar.json_schema import schema_source
from deepwell.engine.grammar.masks import CompiledGrammar, GrammarState, Place, UnlockedConsumer, first_line
from deepwell.engine.grammar.trial import Trials
from deepwell.engine.protocol import Grammar
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from deepwell.models.text.text_process import TextProcess

__all__ = ["MAX_SOURCE", "GrammarCompiler"]

MAX_SOURCE: Final = 256 << 10  # characters; the largest schemas in use have some tens of thousands
_KEPT: Final = 128  # compiled grammars, of all tenants
_KEPT_BYTES: Final = 32 << 20  # of all but the newest
# Masks give way to the kernels; a small compilation, which takes milliseconds, gets about a quarter of a busy processor.
_MASKS_NICE, _LARGE_NICE, _SMALL_NICE = 10, 10, 5
# A larger source has a thread of its own, because those that pass the trial may still take seconds.
_SMALL_SOURCE: Final = 4096  # characters
# llguidance recurses over chained rules: 13,000 of them, which fit `MAX_SOURCE`, overflow a stack of 8 MiB.
_STACK_BYTES: Final = 256 << 20
# Half of llguidance's defaults per step, because a mask cannot be interrupted.
_LIMITS: Final = LLParserLimits(step_lexer_fuel=100_000, step_max_items=25_000, verbose_errors=False)
# On the step thread. 200 schemas of growing difficulty stay within half of each; an ambiguous grammar soon exceeds them, after
# milliseconds at most.
_QUICK_LIMITS: Final = LLParserLimits(
    step_lexer_fuel=20_000, step_max_items=2_500, max_items_in_row=100, verbose_errors=False
)


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
        self._process: TextProcess | None = None  # of a tokenizer that nothing vouches for
        self._lock = threading.Lock()  # of `_compiled`; never held while a grammar is compiled
        self._compiled: dict[
            str, OrderedDict[Grammar, CompiledGrammar]
        ] = {}  # by salt, the last used one last
        # Of two threads one is left for others while a tenant's bad grammar is on trial. A trial runs in a process of its own,
        # so its cost is the time that the thread waits for it.
        self._small, self._large = (
            FairWorker(name, nice=nice, stack_bytes=_STACK_BYTES, threads=2, clock=time.monotonic)
            for name, nice in (
                ("deepwell-grammars", _SMALL_NICE),
                ("deepwell-large-grammars", _LARGE_NICE),
            )
        )
        self._small_trials, self._large_trials = Trials(), Trials()
        self._waiting: set[Future[CompiledGrammar]] = set()  # for their turn
        self._masks = FairWorker("deepwell-masks", nice=_MASKS_NICE)
        self._consumer = UnlockedConsumer(self._failed)

    def has(self, grammar: Grammar, *, salt: str = "") -> bool:
        """Returns whether the grammar is already compiled for requests of this salt."""
        return grammar in self._compiled.get(salt, ())

    async def prepare(self, grammar: Grammar, *, tenant: str = "", salt: str = "") -> None:
        """Compiles a grammar on a thread of low priority, in turns of the tenants, unless it is compiled already.

        A call that is cancelled before its turn is not compiled. One that has begun cannot be stopped, so every grammar is
        compiled in a trial with limits first (`trial.py`): two `multipleOf` in 80 bytes can take minutes and gigabytes.

        Raises:
            InvalidRequest: the grammar does not compile or uses an unsupported feature, which the message names.
            EngineUnavailable: the trial was killed from outside, or did not run.
        """
        if not self.has(grammar, salt=salt):
            await asyncio.wrap_future(self._compile_later(grammar, tenant, salt))

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
        compiled = self._find(grammar, salt) or self._compile_later(grammar, tenant, salt).result()
        if compiled.failure is not None:
            raise compiled.failure
        place = Place(tenant, self._masks, self._consumer, on_ready, self._clock)
        return GrammarState(compiled, self._vocab_size, place)

    def close(self) -> None:
        """Ends the threads and the trials. Grammars that wait for their compilation are refused."""
        for trials in (self._small_trials, self._large_trials):
            trials.close()
        for worker in (self._small, self._large, self._masks):
            worker.close()
        if self._process is not None:
            self._process.close()
        for waiting in list(self._waiting):
            if waiting.set_running_or_notify_cancel():
                waiting.set_exception(DeepwellError("the engine is closed", fix="start it again"))

    def _find(self, grammar: Grammar, salt: str) -> CompiledGrammar | None:
        with self._lock:
            kept = self._compiled.get(salt)
            if kept is None or grammar not in kept:
                return None
            kept.move_to_end(grammar)
            return kept[grammar]

    def _compile_later(self, grammar: Grammar, tenant: str, salt: str) -> Future[CompiledGrammar]:
        """Compiles a grammar in its tenant's turn, unless that has been done by then or the future is cancelled."""
        done: Future[CompiledGrammar] = Future()
        self._waiting.add(done)
        large = len(grammar.source) > _SMALL_SOURCE
        worker, trials = (self._large, self._large_trials) if large else (self._small, self._small_trials)

        def compile_now() -> None:
            self._waiting.discard(done)
            if not done.set_running_or_notify_cancel():
                return
            try:
                compiled = self._find(grammar, salt)
                if compiled is None:
                    compiled = self._compile(grammar, trials)
                    self._keep(grammar, salt, compiled)
                done.set_result(compiled)
            except BaseException as error:
                done.set_exception(error)

        worker.submit(tenant, compile_now)
        return done

    def _keep(self, grammar: Grammar, salt: str, compiled: CompiledGrammar) -> None:
        with self._lock:
            self._compiled.setdefault(salt, OrderedDict())[grammar] = compiled
            while self._share(compiled) > 1.0:
                self._drop_one(compiled)

    def _share(self, newest: CompiledGrammar, salt: str | None = None) -> float:
        """Returns the part of the room for compiled grammars that those of a salt take, or all; 1.0 is full."""
        kept = self._compiled.values() if salt is None else (self._compiled[salt],)
        grammars = [one for those in kept for one in those.values() if one is not newest]
        return max((len(grammars) + 1) / _KEPT, sum(one.kept_bytes for one in grammars) / _KEPT_BYTES)

    def _drop_one(self, newest: CompiledGrammar) -> None:
        """Drops the grammar that was not used for longest, of the salt with the most: others' grammars stay."""
        salt = max(self._compiled, key=lambda one: self._share(newest, one))
        self._compiled[salt].popitem(last=False)
        if not self._compiled[salt]:
            del self._compiled[salt]

    def _compile(self, grammar: Grammar, trials: Trials) -> CompiledGrammar:
        if len(grammar.source) > MAX_SOURCE:
            raise InvalidRequest(
                f"the grammar has {len(grammar.source)} characters",
                fix=f"send at most {MAX_SOURCE}",
                param="grammar",
            )
        source = _source(grammar)
        trials.start()  # while the vocabulary is loaded
        vocabulary = self._vocabulary()
        kept_bytes = trials.compile(source)
        matcher = LLMatcher(vocabulary, source, log_level=0, limits=_LIMITS)
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
        quick = LLMatcher(vocabulary, source, log_level=0, limits=_QUICK_LIMITS)
        quick.compute_bitmask()
        return CompiledGrammar(matcher, None if quick.is_error() else quick, first, kept_bytes)

    def _failed(self) -> LLMatcher:
        """Returns a matcher that has failed."""
        return LLMatcher(self._vocabulary(), "", log_level=0)

    def _vocabulary(self) -> LLTokenizer:
        with self._loading:
            if self._tokenizer is None:
                if not self._eos:
                    raise InvalidRequest(
                        "this model has no token that ends a sequence, which a grammar needs",
                        fix="send the request without it",
                        param="grammar",
                    )
                from deepwell.models.text.hosted import HostedTokenizer

                tokenizer = self._load()
                if isinstance(tokenizer, HostedTokenizer):
                    self._process = tokenizer.process
                vocabulary = _Vocabulary(tokenizer, self._vocab_size, self._eos)
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
