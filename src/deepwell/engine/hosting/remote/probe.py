"""`open_remote`: finds out what a server is and can, by asking for a few tokens, and returns the engine for its model.

A server that ignores a field it does not know would answer something else than was asked. So a part of the protocol counts as
there only when an answer shows it: a grammar that allows one text alone, a score for each token of a prompt.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.hosting.remote.adapters import ListedModel, RemoteAdapters, models_of
from deepwell.engine.hosting.remote.address import Kind, RemoteOptions
from deepwell.engine.hosting.remote.checks import vector_of
from deepwell.engine.hosting.remote.completions import TextShape, TokenShape
from deepwell.engine.hosting.remote.engine import RemoteEngine
from deepwell.engine.hosting.remote.facts import ModelFacts, facts_of
from deepwell.engine.hosting.remote.faults import Retry, bad_answer, plain_of, refused, unreachable
from deepwell.engine.hosting.remote.parts import Part, Shape, embedding_body
from deepwell.engine.hosting.remote.sglang import SglangShape
from deepwell.engine.hosting.remote.transport import body_of, bounded_answer, client_options
from deepwell.engine.protocol import Ability, Capabilities, GenerateRequest, Grammar, SamplingParams
from deepwell.errors import DeepwellError, InvalidRequest, ModelNotFound
from deepwell.models.text.hosted import open_tokenizer
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["open_remote", "served_models"]

_PAUSE_S: Final = 0.5
_WORD: Final = "zq7"  # what no model says by itself
_ONLY: Final = Grammar("lark", f'start: %json {{"const": "{_WORD}"}}\n')
_ONLY_JSON: Final = Grammar("json_schema", f'{{"const": "{_WORD}"}}')
# Of any engine on another machine: windows are this package's own; other kernels and batches round in another order.
_ALWAYS: Final[tuple[Ability, ...]] = ("window", "bits", "counters")


def open_remote(
    options: RemoteOptions,
    path: Path,
    *,
    alive: Callable[[], None] = lambda: None,
    wait_s: float | None = None,
) -> RemoteEngine:
    """Asks the server what it is and what it can, and returns the engine.

    Args:
        path: the model's files that lie here: tokenizer, chat template and configuration; its weights need not.
        alive: called before each attempt to reach the server; raises where there is no use in waiting.
        wait_s: time to wait for the server; None: `options.wait_s`.

    Raises:
        EngineUnavailable: it cannot be reached, refuses the key, or answers what no server of its kind does.
        ModelNotFound: it does not serve the model.
        InvalidModelFile, UnsupportedModel: as the reader of the model's files says.
    """
    facts = facts_of(path)
    with _Probe(options, facts) as probe:
        return probe.open(alive, options.wait_s if wait_s is None else wait_s)


def served_models(options: RemoteOptions, *, timeout_s: float) -> list[str]:
    """Returns the names of the models that the server has.

    Raises:
        DeepwellError: it cannot be reached in time, or refuses the key.
    """
    import httpx

    url = options.address.url
    try:
        with httpx.Client(**client_options(options)) as http:
            status, body = bounded_answer(http, "GET", f"{url}/v1/models", url, timeout_s, timeout=timeout_s)
    except httpx.HTTPError as error:
        raise unreachable(url, f"{type(error).__name__}: {error}") from None
    if status != 200:
        found = refused(url, status, body)
        raise found.error if isinstance(found, Retry) else found
    return [one.id for one in models_of(body, url)]


class _Probe:
    """The questions to one server, one after the other."""

    def __init__(self, options: RemoteOptions, facts: ModelFacts) -> None:
        import httpx

        self._options = options
        self._facts = facts
        self._url = options.address.url
        self._http = httpx.Client(**client_options(options))
        self._tokenizer: Tokenizer | None = None  # of a shape that exchanges text

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def open(self, alive: Callable[[], None], wait_s: float) -> RemoteEngine:
        listed = self._models(alive, time.monotonic() + wait_s)
        kind = self._options.address.kind or self._kind(listed)
        model = self._choose(listed, kind)
        shape, size = self._shape(kind, model)
        capabilities = self._capabilities(shape, model, size)
        adapters = RemoteAdapters(self._options, model.id, loads="adapters" not in shape.lacks)
        adapters.listed(self._listed)
        grammars = None
        if shape.kind != "openai" or "grammar" not in shape.lacks:
            facts = self._facts
            grammars = GrammarCompiler(
                lambda: open_tokenizer(facts.path), facts.vocab_size, facts.eos_token_ids
            )
        return RemoteEngine(
            self._options,
            shape,
            capabilities,
            adapters=adapters,
            grammars=grammars,
            on_close=lambda: _close(self._tokenizer),
        )

    def _models(self, alive: Callable[[], None], until: float) -> list[ListedModel]:
        """Returns the models of the server, once it is there."""
        while True:
            alive()
            try:
                status, body = self._get("/v1/models")
                if status == 200:
                    self._listed = body
                    return models_of(body, self._url)
                found = refused(self._url, status, body)
                if not isinstance(found, Retry):
                    raise found
                error = found.error
            except Retry as failed:
                error = failed.error
            if time.monotonic() + _PAUSE_S > until:
                raise error
            time.sleep(_PAUSE_S)

    def _kind(self, listed: list[ListedModel]) -> Kind:
        owners = {one.owned_by for one in listed}
        if "vllm" in owners:
            return "vllm"
        if "sglang" in owners or self._get("/get_model_info")[0] == 200:
            return "sglang"
        if "deepwell" not in owners and self._get("/version")[0] == 200:  # vLLM under another name
            return "vllm"
        return "openai"

    def _choose(self, listed: list[ListedModel], kind: Kind) -> ListedModel:
        name = self._options.model
        bases = [one for one in listed if one.parent is None]
        if name:
            found = [one for one in listed if one.id == name]
        elif len(bases) == 1:
            found = bases
        else:
            found = [one for one in bases if one.id == self._options.name]
        if found:
            return found[0]
        there = plain_of(", ".join(one.id for one in listed[:20])) or "-"
        raise ModelNotFound.of(
            "engine_model", url=self._url, kind=kind, name=name or self._options.name, there=there
        )

    def _shape(self, kind: Kind, model: ListedModel) -> tuple[Shape, int]:
        """Returns the shape that the server understands, and the dimension of its embeddings, 0 without any."""
        size = self._embedding(model)
        lacks: list[Ability] = [*_ALWAYS] if size else [*_ALWAYS, "embed"]
        if self._get("/v1/load_lora_adapter")[0] != 405 or kind == "openai":
            lacks.append("adapters")
        if kind == "sglang":
            sglang = SglangShape(self._url, self._facts.eos_token_ids, (*lacks, "grammar", "prefixes"))
            self._try(sglang, logprobs=1, prompt_logprobs=0)
            return sglang, size
        token = TokenShape(self._url, model.id, self._facts.eos_token_ids, (), kind)
        try:
            part = self._try(token, logprobs=1, prompt_logprobs=0)
        except DeepwellError as error:
            if kind == "vllm":
                raise
            return self._text(model, lacks, error), size
        if part.cached_tokens is None:
            lacks.append("prefixes")
        if not self._obeys(token, _ONLY):
            lacks.append("grammar")
        return TokenShape(self._url, model.id, self._facts.eos_token_ids, tuple(lacks), kind), size

    def _text(self, model: ListedModel, lacks: list[Ability], why: DeepwellError) -> Shape:
        """Returns the shape that exchanges text."""
        self._tokenizer = tokenizer = open_tokenizer(self._facts.path)
        texts: tuple[Callable[[str], list[int]], Callable[[list[int]], str]] = _text_functions(tokenizer)
        lacks = [*lacks, "token_ids", "logprobs", "seed", "prefixes"]
        if model.owned_by != "deepwell":  # which has vLLM's parameters
            lacks.append("sampling")

        def made(missing: list[Ability], *, as_text: bool) -> TextShape:
            own = model.owned_by == "deepwell"
            return TextShape(
                self._url, model.id, tuple(missing), texts[0], texts[1] if as_text else None, own=own
            )

        try:
            part = self._try(made(lacks, as_text=False))
            as_text = part.prompt_tokens not in (None, len(self._prompt()))
        except DeepwellError:
            as_text = True
        try:
            self._try(made(lacks, as_text=as_text))
        except ModelNotFound:
            raise ModelNotFound.of("engine_no_completions", url=self._url, reason=why.message) from None
        if as_text or not self._scores(made(lacks, as_text=False)):
            lacks.append("score")
        if not self._obeys(made(lacks, as_text=as_text), _ONLY_JSON):
            lacks.append("grammar")
        return made(lacks, as_text=as_text)

    def _capabilities(self, shape: Shape, model: ListedModel, size: int) -> Capabilities:
        facts, options = self._facts, self._options
        limits = [one for one in (facts.context, model.max_model_len, options.context) if one]
        if not limits:
            raise InvalidRequest.of("engine_context", url=self._url, param="context")
        if options.context and options.context > min(limits):
            raise InvalidRequest.of(
                "engine_context_less", url=self._url, most=min(limits), asked=options.context, param="context"
            )
        identity = f"{shape.kind}\0{self._url}\0{model.id}\0{model.root}\0{min(limits)}"
        return Capabilities(
            model=options.name or model.id,
            architecture=facts.architecture,
            precision="remote",
            backend=shape.kind,
            isa="remote",
            threads=0,
            vocab_size=facts.vocab_size,
            hidden_size=size or facts.hidden_size,
            max_model_len=min(limits),
            kv_cache_tokens=0,
            weights_bytes=0,
            kv_cache_bytes=0,
            weights_hash=hashlib.sha256(identity.encode()).hexdigest(),
            lacks=shape.lacks,
        )

    def _prompt(self) -> list[int]:
        ends = set(self._facts.eos_token_ids)
        return [
            token for token in range(self._facts.vocab_size // 2, self._facts.vocab_size) if token not in ends
        ][:3]

    def _try(self, shape: Shape, *, grammar: Grammar | None = None, tokens: int = 1, **asked: Any) -> Part:
        """Returns the answer to a short request."""
        params = SamplingParams(max_tokens=tokens, temperature=0.0, grammar=grammar, **asked)
        request = GenerateRequest("", self._prompt(), params)
        status, data = self._post(shape.path, shape.body(request, stream=False))
        if status != 200:
            found = refused(self._url, status, data)
            raise found.error if isinstance(found, Retry) else found
        part = shape.reader(request).read(data)
        if part.finish_reason is None:
            raise bad_answer(self._url, "an answer without an end")
        return part

    def _obeys(self, shape: Shape, grammar: Grammar) -> bool:
        """Returns whether an answer keeps to a grammar that allows one text alone."""
        try:
            part = self._try(shape, grammar=grammar, tokens=16)
        except DeepwellError:
            return False
        tokenizer = open_tokenizer(self._facts.path)
        try:
            return tokenizer.decode(part.tokens).strip() == f'"{_WORD}"'
        finally:
            _close(tokenizer)

    def _scores(self, shape: Shape) -> bool:
        try:
            return len(self._try(shape, prompt_logprobs=0).prompt_logprobs or ()) == len(self._prompt())
        except DeepwellError:
            return False

    def _embedding(self, model: ListedModel) -> int:
        """Returns the dimension of the model's embeddings; 0: it gives none."""
        body = embedding_body(model.id, self._prompt())
        if model.owned_by == "deepwell":
            body["tokenizer"] = model.id
        status, data = self._post("/v1/embeddings", body)
        if status != 200:
            return 0
        try:
            return len(vector_of(data, 0, self._url))
        except DeepwellError:
            return 0

    def _get(self, path: str) -> tuple[int, bytes]:
        return self._answer("GET", path, None)

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        return self._answer("POST", path, body_of(body))

    def _answer(self, method: str, path: str, content: bytes | None) -> tuple[int, bytes]:
        """Returns the status and the body of an answer.

        Raises:
            Retry: the server cannot be reached.
            EngineUnavailable: the answer is longer than any to such a question.
        """
        import httpx

        headers = {"content-type": "application/json"} if content is not None else {}
        try:
            return bounded_answer(
                self._http,
                method,
                self._url + path,
                self._url,
                self._options.first_s,
                content=content,
                headers=headers,
            )
        except httpx.HTTPError as error:
            raise Retry(unreachable(self._url, f"{type(error).__name__}: {error}"), sent=False) from None


def _text_functions(tokenizer: Tokenizer) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    return (
        lambda text: tokenizer.encode(text, allow_special=False),
        lambda tokens: tokenizer.decode(tokens, skip_special=False),
    )


def _close(tokenizer: Tokenizer | None) -> None:
    """Ends the process of a tokenizer that nothing vouches for."""
    process = getattr(tokenizer, "process", None)
    if process is not None:
        process.close()
