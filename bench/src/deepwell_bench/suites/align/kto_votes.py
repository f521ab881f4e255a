"""KTO from simulated votes: answers that users like, by rules unknown to training, become more frequent on other prompts."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.llm import LLM
from deepwell.tuning.align.preferences import votes_as_judged, write_judged
from deepwell.tuning.align.worker import command
from deepwell.tuning.evaluate.statistics import Difference, difference, ratio_of
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.tuning.votes import RULES, Rule, frozen_prompts, votes

__all__ = ["bench_kto_votes"]

_VOTES: Final = 300
_NOISE: Final = 0.1
_TEMPERATURE: Final = 0.7
_MAX_TOKENS: Final = 28
_CONTEXT: Final = 256
_TRAINED_SEED, _HELD_SEED, _VOTE_SEED = 1, 2, 3
_SETTINGS: Final[Mapping[str, Any]] = {"validation": 0, "train": {"epochs": 2, "batch_tokens": 1024}}


def bench_kto_votes(report: Report, model: Path, *, samples: int = 2) -> dict[str, Any]:
    """Trains an adapter by the votes of each rule, and measures how many held-out answers the rule approves of.

    Answers of the base and of the adapter are drawn for the same prompts with the same seed. Intervals resample the prompts, so
    that several answers to one prompt are not taken for independent ones.

    Args:
        samples: answers to each held-out prompt.

    Raises:
        PeerError: this environment has no torch, or a training failed.
    """
    need_torch("kto-votes")
    prompts, held_out = frozen_prompts()
    asked = [prompts[place % len(prompts)] for place in range(_VOTES)]
    with tempfile.TemporaryDirectory() as scratch:
        with LLM(model, context=_CONTEXT) as llm:
            answers = _answers(llm, asked, _TRAINED_SEED, 1)
            before = _answers(llm, held_out, _HELD_SEED, samples)
        adapters = [
            _train(model, rule, list(zip(asked, answers, strict=True)), Path(scratch) / rule.name)
            for rule in RULES
        ]
        with LLM(model, context=_CONTEXT) as llm:
            after: list[list[str]] = []
            for rule, adapter in zip(RULES, adapters, strict=True):
                llm.load_adapter(rule.name, adapter)
                after.append(_answers(llm, held_out, _HELD_SEED, samples, rule.name))
    found = [_approval(rule, before, texts, len(held_out)) for rule, texts in zip(RULES, after, strict=True)]
    correlations = [_correlation(rule, answers) for rule in RULES]
    report.table(
        f"Approval of {len(held_out)} held-out prompts, {samples} answers each, by {_VOTES} votes with {_NOISE:.0%} noise",
        ("rule", "base", "KTO", "change", "95 % interval", "correlation with length"),
        [
            (
                rule.name,
                f"{one.first:.1%}",
                f"{one.second:.1%}",
                f"{one.value:+.1%}",
                f"{one.low:+.1%} to {one.high:+.1%}",
                f"{correlation:+.2f}",
            )
            for rule, one, correlation in zip(RULES, found, correlations, strict=True)
        ],
    )
    free = [abs(one) for rule, one in zip(RULES, correlations, strict=True) if not rule.by_length]
    return {
        "votes": _VOTES,
        "noise": _NOISE,
        "rules": len(RULES),
        "independent_of_length": len(free),
        "largest_length_correlation": rounded(max(free)),
        "held_out_prompts": len(held_out),
        "least_gain": rounded(min(one.value for one in found)),
        "least_low": rounded(min(one.low for one in found)),
        **{f"{rule.name}_before": rounded(one.first) for rule, one in zip(RULES, found, strict=True)},
        **{f"{rule.name}_after": rounded(one.second) for rule, one in zip(RULES, found, strict=True)},
    }


def _answers(llm: LLM, prompts: Sequence[str], seed: int, samples: int, adapter: str = "") -> list[str]:
    """Returns the answers to all prompts in order, `samples` times over."""
    found: list[str] = []
    for number in range(samples):
        asked = [[{"role": "user", "content": one}] for one in prompts]
        given = llm.chat(
            asked,
            adapter=adapter,
            temperature=_TEMPERATURE,
            max_tokens=_MAX_TOKENS,
            seed=seed + 1000 * number,
        )
        found += [one.choices[0].text for one in given]
    return found


def _train(model: Path, rule: Rule, answered: Sequence[tuple[str, str]], folder: Path) -> Path:
    folder.mkdir()
    asked, answers = [prompt for prompt, _ in answered], [answer for _, answer in answered]
    given = votes(asked, answers, rule, noise=_NOISE, seed=_VOTE_SEED)
    write_judged(folder / "votes.jsonl", votes_as_judged(given))
    config = {**_SETTINGS, "model": str(model), "data": [str(folder / "votes.jsonl")], "output": str(folder)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(command("kto", str(folder)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"the training ended with {done.returncode}: {done.stderr[-400:]}", fix="see above")
    return folder / json.loads(done.stdout.splitlines()[-1])["adapter"]


def _approval(rule: Rule, before: Sequence[str], after: Sequence[str], prompts: int) -> Difference:
    """Returns the change of the share of approved answers; a sample is a prompt with all its answers."""
    shares = [
        np.array([rule.likes(text) for text in texts], np.float64).reshape(-1, prompts).mean(0).tolist()
        for texts in (before, after)
    ]
    first, second = (ratio_of("approval", one, [1.0] * prompts, better="higher") for one in shares)
    return difference(first, second)


def _correlation(rule: Rule, answers: Sequence[str]) -> float:
    """Returns the correlation of a rule with the length of answers in characters."""
    liked = np.array([rule.likes(one) for one in answers], np.float64)
    return float(np.corrcoef(liked, [len(one) for one in answers])[0, 1])
