"""A small engine with a rule for a model, and a real byte-level tokenizer: one token a byte."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastapi.routing
import numpy as np
from numpy.typing import NDArray
from tests.routes import remembered

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    Engine,
    EngineStats,
    GenerateRequest,
    Grammar,
    TokenLogprob,
    Window,
)
from deepwell.errors import ContextLengthExceeded, ModelNotFound
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.build import build_context
from deepwell.server.context import ServerContext
from deepwell.server.observe.observer import Observer
from deepwell.server.options import CacheOptions, SemanticOptions, ServerOptions
from deepwell.storage.database import Database

# Most of the time of an application's making is FastAPI reading signatures, and a thousand tests make one.
fastapi.routing.get_dependant = remembered(fastapi.routing.get_dependant)

START, END = 256, 257  # <|im_start|>, <|im_end|>
VOCAB = 258
TURNS_A_STEP = 8  # a step outlasts some turns of the event loop, as real ones do
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(extra)) for byte in range(256)]


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer directory in which the token of a byte is its value."""
    vocab = {character: byte for byte, character in enumerate(_byte_alphabet())}
    special = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": START, "content": "<|im_start|>", **special},
            {"id": END, "content": "<|im_end|>", **special},
        ],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def make_codec(folder: Path) -> Codec:
    """The byte-level tokenizer with a ChatML template."""
    tokenizer = Tokenizer.load(write_tokenizer(folder))
    return Codec(tokenizer, ChatTemplate(TEMPLATE, "<|im_start|>", "<|im_end|>"))


@dataclass
class FakeEngine:
    """Repeats what the user said, byte by byte, then ends; a prompt without turns is repeated whole.

    With `ignore_eos` it repeats for ever. Penalties and the like are kept in `seen`, not obeyed; a temperature above 0
    makes choice n start at the n-th byte. The log probability of token t is -(1 + t / 256); alternatives follow by id.
    """

    max_model_len: int = 512
    fail_at: int | None = None  # the token of each request at which the engine gives it up
    fail_code: str = ""  # code of a failure that the request is to blame for
    endless: bool = False  # repeats until it is aborted, whatever max_tokens says
    seen: list[GenerateRequest] = field(default_factory=list[GenerateRequest])
    grammars: list[Grammar] = field(default_factory=list[Grammar])  # prepared, and not obeyed
    prepared_for: list[tuple[str, str]] = field(
        default_factory=list[tuple[str, str]]
    )  # tenant and salt of each
    steps: int = 0
    aborted: int = 0
    ended: threading.Event = field(default_factory=threading.Event)  # set whenever a request has ended early
    closed: bool = False
    loaded: dict[str, AdapterInfo] = field(default_factory=dict[str, AdapterInfo])

    def _script(self, request: GenerateRequest) -> list[int]:
        prompt = list(request.prompt)
        if START in prompt:
            turns = [i for i, token in enumerate(prompt) if token == START]
            body = prompt[turns[-2] : turns[-1]]
            prompt = body[body.index(10) + 1 : body.index(END)]
        skip = request.choice % max(len(prompt), 1) if request.params.temperature > 0 else 0
        return prompt[skip:]

    def _deltas(self, request: GenerateRequest) -> Iterator[Delta]:
        params = request.params
        if request.window is None and len(request.prompt) + params.max_tokens > self.max_model_len:
            raise ContextLengthExceeded("too long")
        script = self._script(request)
        produced = 0
        while True:
            ended = produced >= len(script) and not params.ignore_eos and not self.endless
            token = END if ended else script[produced % len(script)]
            produced += 1
            self.steps += 1
            if self.fail_at is not None and produced > self.fail_at:
                yield Delta(
                    request.request_id,
                    (),
                    finish_reason="error",
                    error="the model broke",
                    error_code=self.fail_code,
                )
                return
            finish = "stop" if ended or token in params.stop_token_ids else None
            if finish is None and produced >= params.max_tokens and not self.endless:
                finish = "length"
            prompt_logprobs = None
            if params.prompt_logprobs is not None and produced == 1:
                scored = [_logprob(t, params.prompt_logprobs) for t in request.prompt[1:]]
                prompt_logprobs = (None, *scored)
            yield Delta(
                request.request_id,
                (token,),
                () if params.logprobs is None else (_logprob(token, params.logprobs),),
                prompt_logprobs,
                finish,
                prompt_tokens=len(request.prompt),
                cached_tokens=len(request.prompt) // 16 * 16,
                completion_tokens=produced,
            )
            if finish:
                return

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        self.seen.append(request)
        finished = False
        try:
            for delta in self._deltas(request):
                for _ in range(TURNS_A_STEP):
                    await asyncio.sleep(0)
                finished = delta.finish_reason is not None
                yield delta
        finally:
            if not finished:
                self.aborted += 1
                self.ended.set()

    def generate_sync(self, request: GenerateRequest) -> Iterator[Delta]:
        self.seen.append(request)
        yield from self._deltas(request)

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        return np.array([_logprob(t, 0).logprob for t in tokens[start:]], np.float32)

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        self.grammars.append(grammar)
        self.prepared_for.append((tenant, cache_salt))

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        vector = np.bincount(np.array(tokens) % 8, minlength=8).astype(np.float32)
        return vector / math.sqrt(float(vector @ vector))

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        info = self.loaded[name] = AdapterInfo(name, path, "0" * 32, 8)
        return info

    def unload_adapter(self, name: str) -> None:
        if self.loaded.pop(name, None) is None:
            raise ModelNotFound(f"no adapter {name!r} is loaded")

    def adapters(self) -> tuple[AdapterInfo, ...]:
        return tuple(self.loaded.values())

    def abort(self, request_id: str) -> None:
        pass

    def stats(self) -> EngineStats:
        return EngineStats(steps=self.steps, aborted=self.aborted, blocks_total=32, blocks_used=8)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            model="toy",
            architecture="toy",
            precision="int8",
            backend="reference",
            isa="numpy",
            threads=1,
            vocab_size=VOCAB,
            hidden_size=8,
            max_model_len=self.max_model_len,
            kv_cache_tokens=512,
            weights_bytes=1,
            kv_cache_bytes=1,
        )

    def close(self) -> None:
        self.closed = True


def _logprob(token: int, alternatives: int) -> TokenLogprob:
    top = tuple(((token + i) % VOCAB, -(1 + token / 256) - i) for i in range(alternatives))
    return TokenLogprob(token, -(1 + token / 256), 1, top)


def make_service(
    engine: Engine,
    codec: Codec,
    *,
    model: str,
    embedder: ServedModel | None = None,
    database: Database | None = None,
    observer: Observer | None = None,
    response_cache_bytes: int = 0,
    response_cache_ttl_s: float = float("inf"),
    semantic: SemanticOptions | None = None,
    **options: Any,
) -> ServerContext:
    """The context of a server over one engine, and perhaps a second model that embeds; `options` are `ServerOptions`'."""
    models = [ServedModel(model, engine, codec), *([] if embedder is None else [embedder])]
    caches = CacheOptions(response_cache_bytes, response_cache_ttl_s, semantic)
    return build_context(
        models, ServerOptions(caches=caches, **options), database=database, observer=observer
    )
