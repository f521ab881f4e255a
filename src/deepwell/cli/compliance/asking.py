"""Models that sampled runs ask: one that is loaded here, or a running server's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from deepwell.safety.compliance.context import Ask
    from deepwell.settings import Settings

__all__ = ["local_model", "remote_server"]

_AT_ONCE: Final = 8


def local_model(settings: Settings, max_tokens: int, stack: ExitStack) -> Ask:
    """Loads the model of the settings until the stack closes, and returns what asks it, in batches."""
    from deepwell.llm import LLM
    from deepwell.safety.compliance.context import Reply

    llm = stack.enter_context(LLM(settings.model))

    def ask(prompts: Sequence[str]) -> Iterator[Reply]:
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        for completion in llm.chat(conversations, max_tokens=max_tokens, seed=0):
            yield Reply(completion.text)

    return ask


def remote_server(settings: Settings, max_tokens: int, stack: ExitStack) -> Ask:
    """Returns what asks the server of the settings, some questions side by side. Its guard, if it has one, decides too.

    Raises:
        ServerFailed: nobody answers there.
    """
    from deepwell.cli.answers import Asked, open_answers
    from deepwell.safety.compliance.context import Reply

    answers = open_answers(settings)
    stack.callback(answers.close)
    pool = stack.enter_context(ThreadPoolExecutor(_AT_ONCE))

    def one(prompt: str) -> Reply:
        text, finish = "", ""
        for part in answers.stream(Asked([{"role": "user", "content": prompt}], max_tokens)):
            text += part.text
            finish = part.report.finish_reason if part.report is not None else finish
        return Reply(text, finish == "content_filter")

    def ask(prompts: Sequence[str]) -> Iterator[Reply]:
        yield from pool.map(one, prompts)

    return ask
