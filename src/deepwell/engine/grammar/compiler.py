"""Grammars, which restrict the next tokens so that the output of a request parses.

A grammar is compiled once, off the step thread, and cached. Each request then runs its own copy. The mask of a position
depends only on the grammar and the tokens before it. Constrained output is therefore as reproducible as any other, and
drafts are accepted as without a grammar.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, cast

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from deepwell.engine.grammar.json_schema import check_schema
from deepwell.engine.protocol import Grammar
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["MAX_SOURCE", "WHITE_SPACE", "GrammarCompiler", "GrammarState", "schema_source"]

MAX_SOURCE: Final = 256 << 10  # characters; the largest schemas in use have some tens of thousands
# White space between two JSON tokens: a line break and an indentation. Unbounded, a model may fill max_tokens with blanks.
WHITE_SPACE: Final = r"\n?[ ]{0,20}"
_KEPT: Final = 128  # compiled grammars
# Half of llguidance's defaults per step, because all requests share the step thread.
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


class GrammarState:
    """The position of one request in its grammar. Used only by the step thread."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self) -> NDArray[np.bool_]:
        """Returns the mask of allowed next tokens: [vocab]. End tokens are allowed if the text is complete.

        Raises:
            DeepwellError: the grammar exceeded a limit, or the vocabulary has no token that it allows.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise _stuck(_first_line(self._matcher.get_error()))
        bits = np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(np.bool_)
        if not bits.any():
            raise _stuck("no token of the vocabulary may come next")
        return bits

    def advance(self, token: int) -> None:
        """Advances by a drawn token.

        Raises:
            DeepwellError: the grammar exceeded a limit.
        """
        if not self._matcher.consume_token(token):
            raise _stuck(_first_line(self._matcher.get_error()))


class GrammarCompiler:
    """Compiles grammars for one vocabulary. Methods may be called from any thread and take milliseconds or longer.

    Args:
        load: reads the model's tokenizer; called for the first grammar, because most servers never see one.
        vocab_size: width of a row of logits.
        eos_token_ids: the tokens that end a sequence.
    """

    def __init__(self, load: Callable[[], Tokenizer], vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        self._load = load
        self._vocab_size = vocab_size
        self._eos = tuple(sorted(eos_token_ids))
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def has(self, grammar: Grammar) -> bool:
        """Returns whether the grammar is already compiled."""
        return grammar in self._compiled

    def start(self, grammar: Grammar) -> GrammarState:
        """Returns the state at the beginning of the grammar, for one request.

        Raises:
            InvalidRequest: the grammar does not compile or uses an unsupported feature, which the message names.
        """
        with self._lock:
            matcher = self._compiled.get(grammar)
            if matcher is None:
                matcher = self._compiled[grammar] = self._compile(grammar)
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return GrammarState(matcher.deep_copy(), self._vocab_size)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if len(grammar.source) > MAX_SOURCE:
            raise InvalidRequest(
                f"the grammar has {len(grammar.source)} characters",
                fix=f"send at most {MAX_SOURCE}",
                param="grammar",
            )
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
        matcher = LLMatcher(self._tokenizer, _source(grammar), log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the mask of the first position, with which every copy starts
        if matcher.is_error():
            noun = {"json_schema": "the JSON schema", "regex": "the regular expression"}.get(
                grammar.kind, "the grammar"
            )
            raise InvalidRequest(
                f"{noun} cannot be used: {_first_line(matcher.get_error())}",
                fix="leave out what it names",
                param="grammar",
            )
        return matcher


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


def _first_line(message: str) -> str:
    """Returns an error message of llguidance on one line, cut to 300 characters."""
    return " ".join(message.split())[:300]


def _stuck(reason: str) -> DeepwellError:
    return DeepwellError(f"the grammar cannot go on: {reason}", fix="simplify the grammar or the schema")
