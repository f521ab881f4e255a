"""Rollouts: answers sampled by the engine that serves, with the adapter as it is just now."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.dialogue.completion import Choice
from deepwell.dialogue.opening import Planned, open_model, plan_model
from deepwell.dialogue.text import Codec
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.limits import Limits
from deepwell.engine.machine import available_memory_bytes
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.errors import InsufficientMemory, UnsupportedModel
from deepwell.llm.running import run
from deepwell.settings import Settings

__all__ = ["Rollout", "Sampler", "end_token", "open_sampler", "seed_of"]

_NAME: Final = "policy"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled answer.

    Attributes:
        prompt: tokens of the prompt.
        tokens: tokens of the answer; the one that ended it is kept.
        ended: whether the model ended the answer itself.
        text: text of the answer.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    ended: bool
    text: str


class Sampler:
    """The engine with the adapter that is being trained, which `swap` replaces in place.

    Args:
        folder: a folder that the adapter is written to; it is emptied.
    """

    def __init__(self, engine: InProcessEngine, codec: Codec, folder: Path, end: int | None) -> None:
        self._engine = engine
        self.codec = codec
        self._folder = folder
        self._end = end
        self._adapter = ""
        self._calls = 0

    def swap(self, write: Callable[[Path], None]) -> None:
        """Puts an adapter in the place of the one before it.

        Args:
            write: writes the adapter into a folder, in peft's form.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        write(self._folder)
        self._engine.load_adapter(_NAME, str(self._folder))
        self._adapter = _NAME

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        seeds: Sequence[int],
        max_tokens: int,
        temperature: float = 1.0,
        samples: int = 1,
        base: bool = False,
    ) -> list[Rollout]:
        """Returns `samples` answers to each prompt, those of a prompt together.

        Nothing but the temperature bends the distribution: a policy that samples from another one learns from the wrong
        probabilities. The same seeds give the same answers, whatever else is in the batch.

        Args:
            seeds: one for each prompt; equal ones would draw the same numbers at the same places.
            base: whether the model answers without the adapter.
        """
        self._calls += 1
        adapter = "" if base else self._adapter
        choices: list[Choice] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
            for choice in range(samples):
                id = f"rollout-{self._calls}-{len(choices)}"
                request = GenerateRequest(id, tuple(prompt), params, choice, adapter=adapter)
                choices.append(Choice(len(choices), request))
        return asyncio.run(self._run(choices))

    async def _run(self, choices: Sequence[Choice]) -> list[Rollout]:
        tokens: list[list[int]] = [[] for _ in choices]
        texts = [""] * len(choices)
        ended = [False] * len(choices)
        async with aclosing(run(self._engine, self.codec, choices)) as steps:
            async for many in steps:
                for step in many:
                    index = step.update.index
                    tokens[index] += step.tokens
                    texts[index] += step.update.text
                    if step.update.finish_reason == "stop":
                        ended[index] = True
        found: list[Rollout] = []
        for choice, drawn, text, end in zip(choices, tokens, texts, ended, strict=True):
            # The engine does not deliver the token that ends an answer, and the policy has drawn it.
            if end and self._end is not None:
                drawn.append(self._end)
            found.append(Rollout(tuple(choice.request.prompt), tuple(drawn), end, text))
        return found

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the base's mean last hidden state of each text, of unit length: [texts, hidden]."""

        async def one(text: str) -> NDArray[np.float32]:
            tokens = self.codec.encode(text) or [self.codec.first_token or 0]
            return await self._engine.embed(tokens[: self._engine.capabilities().max_model_len])

        async def every() -> list[NDArray[np.float32]]:
            return list(await asyncio.gather(*map(one, texts)))

        return np.stack(asyncio.run(every())) if texts else np.zeros((0, 1), np.float32)


def seed_of(*parts: int) -> int:
    """Returns a seed of 63 bits that differs wherever a part does."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:8]) >> 1


def end_token(codec: Codec, ends: Sequence[int]) -> int | None:
    """Returns the token that ends an answer: of a model with several, the one that its template writes."""
    if len(ends) > 1 and codec.chats:
        question = {"role": "user", "content": "?"}
        whole = codec.encode_chat(
            [question, {"role": "assistant", "content": "!"}], add_generation_prompt=False
        )
        for token in reversed(whole):
            if token in ends:
                return token
    return next(iter(ends), None)


def _planned(model: str, options: dict[str, Any], sequences: int, reserved_bytes: int) -> Planned:
    """Returns the plan whose cache holds most sequences at once; by itself the engine makes room for one of `context`."""
    tokens = -(-options["context"] // BLOCK_TOKENS) * BLOCK_TOKENS
    available = available_memory_bytes() - reserved_bytes
    while True:
        settings = Settings.load(model=model, kv_tokens=sequences * tokens, **options)
        try:
            return plan_model(settings, available_bytes=available)
        except InsufficientMemory:
            if sequences == 1:
                raise
            sequences //= 2


@contextmanager
def open_sampler(
    model: str, *, context: int, sequences: int, precision: str = "auto", reserved_bytes: int = 0
) -> Iterator[Sampler]:
    """Opens the engine of a model for rollouts.

    Args:
        context: tokens of the longest prompt and its answer.
        sequences: answers of an iteration; the cache holds as many at once as the engine computes together, fewer
            where memory is short.
        reserved_bytes: memory that is left to the training beside it.

    Raises:
        ModelNotFound, InsufficientMemory, InvalidModelFile, UnsupportedModel: the engine cannot load it.
    """
    options: dict[str, Any] = {"context": context, "precision": precision, "sampling_defaults": "off"}
    planned = _planned(model, options, min(sequences, Limits().max_sequences), reserved_bytes)
    opened = open_model(planned)
    try:
        if not isinstance(opened.engine, InProcessEngine):
            raise UnsupportedModel(f"{opened.name} does not generate", fix="choose a language model")
        with tempfile.TemporaryDirectory(prefix="deepwell-policy-") as folder:
            end = end_token(opened.codec, planned.checkpoint.config.eos_token_ids)
            yield Sampler(opened.engine, opened.codec, Path(folder) / "adapter", end)
    finally:
        opened.close()
