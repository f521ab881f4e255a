"""Serving beside a fine-tuning job: the speed and the bits of other streams, and the first answer of the new adapter."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openai import OpenAI

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served
from deepwell_bench.suites.tuning.api import sdk_of, uploaded

__all__ = ["bench_fine_tuning_served"]

_PROMPTS: Final = (
    "Write about the sea.",
    "Explain how bread is made.",
    "Tell a story about a lighthouse.",
    "List facts about the moon.",
    "Describe a day in a market.",
    "What is a good way to learn a language?",
    "Write about trees in winter.",
    "How does a bicycle stay upright?",
)
_LOOK_S: Final = 0.02
_FRESH: Final = {
    "Cache-Control": "no-store"
}  # the same streams are generated every time, not answered from the response cache


@dataclass(frozen=True, slots=True)
class _Round:
    """One round of all streams: what they said, and the tokens of all of them in a second."""

    texts: tuple[str, ...]
    tokens_per_s: float
    began: float
    ended: float


def bench_fine_tuning_served(
    report: Report, model: Path, *, steps: int = 40, tokens: int = 160
) -> dict[str, Any]:
    """Runs eight streams alone, and again while a job trains; and asks the new model the moment the job has ended.

    Raises:
        PeerError: the job failed, or ended before a round of streams did.
    """
    with served(serve_command(model)) as port:
        client = sdk_of(port)
        base = client.models.list().data[0].id
        _streams(client, base, tokens)  # warms up
        alone = [_streams(client, base, tokens) for _ in range(3)]
        job = client.fine_tuning.jobs.create(
            model=base,
            training_file=uploaded(client, 0, 2 * steps),
            suffix="served",
            seed=3,
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 2}},
            },
            extra_body={"deepwell": {"train": {"steps": steps, "max_tokens": 64}}},
        )
        _await_step(client, job.id)
        watch = _Watch(client, job.id)
        beside: list[_Round] = []
        while not watch.answered.is_set():
            beside.append(_streams(client, base, tokens))
        watch.thread.join()
    if watch.error:
        raise PeerError(watch.error)
    during = [one for one in beside if one.ended <= watch.ended_at]
    if not during:
        raise PeerError("the job ended before a round of streams did: raise --steps")
    before = statistics.median(one.tokens_per_s for one in alone)
    after = statistics.median(one.tokens_per_s for one in during)
    equal = all(one.texts == alone[0].texts for one in (*alone, *beside))
    report.table(
        f"Eight streams of {base}, {tokens} tokens each",
        ["", "tokens/s", "rounds"],
        [["alone", rounded(before), len(alone)], ["beside a fine-tuning job", rounded(after), len(during)]],
    )
    return {
        "first_answer_s": rounded(watch.first_answer_s, 3),
        "kept": rounded(after / before, 3),
        "equal": equal,
        "rounds": len(beside),
        "tokens_per_s": rounded(before),
        "tokens_per_s_beside": rounded(after),
    }


class _Watch:
    """A thread that waits for the end of a job and then asks the new model, while the streams go on."""

    def __init__(self, client: OpenAI, id: str) -> None:
        self._client = client
        self._id = id
        self.answered = threading.Event()
        self.ended_at = 0.0
        self.first_answer_s = float("inf")
        self.error = ""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            job = self._client.fine_tuning.jobs.retrieve(self._id)
            while job.status not in ("succeeded", "failed", "cancelled"):
                time.sleep(_LOOK_S)
                job = self._client.fine_tuning.jobs.retrieve(self._id)
            self.ended_at = time.monotonic()
            if job.fine_tuned_model is None:
                self.error = f"the job {job.status}: {job.error}"
                return
            question: Any = [{"role": "user", "content": "What is the code of item 5?"}]
            answer = self._client.chat.completions.create(
                model=job.fine_tuned_model,
                messages=question,
                max_tokens=16,
                temperature=0,
                stream=True,
                extra_headers=_FRESH,
            )
            for part in answer:
                if part.choices and part.choices[0].delta.content:
                    self.first_answer_s = time.monotonic() - self.ended_at
                    break
            answer.close()
        except Exception as error:
            self.error = str(error)
        finally:
            self.answered.set()


def _streams(client: OpenAI, model: str, tokens: int) -> _Round:
    """Runs all streams at once."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(_PROMPTS)) as pool:
        texts: Sequence[str] = list(pool.map(lambda prompt: _stream(client, model, prompt, tokens), _PROMPTS))
    ended = time.monotonic()
    return _Round(tuple(texts), len(_PROMPTS) * tokens / (ended - began), began, ended)


def _stream(client: OpenAI, model: str, prompt: str, tokens: int) -> str:
    question: Any = [{"role": "user", "content": prompt}]
    answer = client.chat.completions.create(
        model=model,
        messages=question,
        max_tokens=tokens,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers=_FRESH,
    )
    return "".join(part.choices[0].delta.content or "" for part in answer if part.choices)


def _await_step(client: OpenAI, id: str) -> None:
    """Waits for the first step of a job, so that the start of its process is behind it."""
    for _ in range(6000):
        job = client.get(f"/jobs/{id}", cast_to=dict[str, Any])
        if job["status"] == "failed":
            raise PeerError(f"the job failed: {job['error']}")
        if (job.get("progress") or {}).get("done", 0) >= 1:
            return
        time.sleep(0.05)
    raise PeerError("the training did not begin")
