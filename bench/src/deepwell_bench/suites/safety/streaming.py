"""The scanner of streams: what leaves at every split of 500 texts, what is held back, and what a token costs."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from typing import Any, Final

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.errors import TermListNotFound
from deepwell.safety.findings import Decision, Detector, Finding
from deepwell.safety.moderation.scorer import ModerationDetector, shipped_moderator
from deepwell.safety.normalise import normalised
from deepwell.safety.patterns import Patterns
from deepwell.safety.personal import Personal
from deepwell.safety.secrets import Secrets
from deepwell.safety.streaming.forms import held_values
from deepwell.safety.streaming.rules import StreamRules
from deepwell.safety.streaming.scanner import StreamScanner
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import TermList, read_list, starter_list
from deepwell.safety.terms.pull import lists_folder, pull_list
from deepwell.settings import Settings
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages

__all__ = ["bench_streaming"]

_TEXTS: Final = 500
_FIRSTS: Final = 200
_TOKEN: Final = re.compile(r"\s?[^\W\u3400-\u9fff]{1,5}|[\u3400-\u9fff]{1,2}|\s|[^\w\s]")
"""About what a tokenizer makes of a text: up to five letters with the space before them, or two Han characters."""
_ANSWERS: Final = 20
_TOGETHER: Final = 25
"""Passages of an answer that is timed: some hundreds of tokens. Another one comes first, to fill the caches."""


def bench_streaming(report: Report) -> dict[str, Any]:
    """Splits texts with terms of the shipped list and of `jionlp`, and times texts without.

    All detectors of the guard take part, and moderation now and then; what may be personal data or a secret is held back. Two
    thirds of the terms are disguised in the texts.
    """
    lists = [starter_list(), _fetched("jionlp")]
    found_terms = Terms(lists)
    detectors: list[Detector] = [found_terms, Patterns(), Personal(), Secrets()]
    terms = found_terms.texts("block")
    sampled = [ModerationDetector(shipped_moderator())]
    watched = [*terms, *found_terms.texts("allow")]
    values = list(held_values(lambda _: True))
    rules = StreamRules(detectors, _block, terms=watched, values=values, sampled=sampled)
    timed = StreamRules(detectors, _flag, terms=watched, values=values, sampled=sampled)
    passages = [text for one in help_passages()[:400] for text in (one.english, one.chinese)]
    draw = random.Random("deepwell:streaming")  # noqa: S311 - a seeded draw, not a secret
    chosen = draw.sample([term for term in terms if len(term) > 1], min(_TEXTS, len(terms)))
    leaks = missed = splits = held = 0
    only_terms = StreamRules([found_terms], _block, terms=watched)
    for number in range(_TEXTS):
        term = chosen[number % len(chosen)]
        text, start, end = _embedded(draw, term, draw.choice(passages))
        end = _found(found_terms, text, start, end)
        if not end:
            missed += 1
            continue
        for at in range(max(start - 1, 0), min(end + 2, len(text) + 1)):
            out, most = _streamed(only_terms, [text[:at], text[at:]])
            leaks += len(out) >= end
            held = max(held, most)
            splits += 1
        out, most = _streamed(rules, list(text))
        leaks += len(out) >= end
        held = max(held, most)
    answers = ["\n".join(draw.sample(passages, _TOGETHER)) for _ in range(_ANSWERS)]
    _timed(timed, answers[:1])
    costs, waits = _timed(timed, answers)
    firsts = _first_tokens(rules, passages[:_FIRSTS])
    value = {
        "texts": _TEXTS - missed,
        "not_found_in_the_whole_text": missed,
        "splits": splits,
        "terms_that_left_whole": leaks,
        "most_held_back": held,
        "us_a_token": rounded(1e6 * sum(costs) / len(costs)),
        "us_a_token_p50": rounded(1e6 * percentile(costs, 0.5)),
        "us_a_token_p99": rounded(1e6 * percentile(costs, 0.99)),
        "tokens": len(costs),
        "tokens_that_waited": rounded(waits / len(costs)),
        "first_tokens_that_left_at_once": rounded(firsts),
        "terms": len(terms),
    }
    report.table("Scanner of streams", ("figure", "value"), list(value.items()))
    return value


def _fetched(name: str) -> TermList:
    """Returns a list of the catalog, fetched if it is not there."""
    folder = lists_folder(Settings.load().models_dir)
    try:
        return read_list(folder, name)
    except TermListNotFound:
        return pull_list(name, folder)


def _block(findings: Sequence[Finding], failed: Sequence[str]) -> Decision:
    return Decision("block", "output", tuple((one, "block") for one in findings), "", tuple(failed))


def _flag(findings: Sequence[Finding], failed: Sequence[str]) -> Decision:
    return Decision("flag", "output", tuple((one, "flag") for one in findings), "", tuple(failed))


def _embedded(draw: random.Random, term: str, passage: str) -> tuple[str, int, int]:
    """Returns a passage with a term in it, in one of four disguises, and the characters that it takes."""
    disguise = draw.randrange(4)
    if disguise == 1:
        term = "\u200b".join(term)
    elif disguise == 2 and not term.isascii():
        term = "-".join(term)
    elif disguise == 3:
        term = "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in term)
    before = passage[: draw.randrange(20, 200)]
    text = f"{before} {term} {passage[200:260]}"
    return text, len(before) + 1, len(before) + 1 + len(term)


def _found(terms: Terms, text: str, start: int, end: int) -> int:
    """Returns where the first blocking term ends that is found at these characters of the whole text; 0: there is none.

    What the detector misses in the whole text, no scanner of a stream can hold.
    """
    ends = [
        one.end
        for one in terms.scan(normalised(text))
        if one.rule.startswith("terms.block") and one.start < end and one.end > start
    ]
    return min(ends, default=0)


def _streamed(rules: StreamRules, pieces: Sequence[str]) -> tuple[str, int]:
    scanner, out, held = StreamScanner(rules), "", 0
    for piece in pieces:
        out += scanner.push(piece).text
        if scanner.ended:
            return out, held
        held = max(held, scanner.held)
    return out + scanner.finish().text, held


def _timed(rules: StreamRules, texts: Sequence[str]) -> tuple[list[float], int]:
    """Returns the seconds of every token, and how many tokens left something waiting. Nothing ends the streams."""
    costs: list[float] = []
    waits = 0
    for text in texts:
        scanner = StreamScanner(rules)
        for token in _TOKEN.findall(text):
            begin = time.perf_counter()
            scanner.push(token)
            costs.append(time.perf_counter() - begin)
            waits += scanner.held > 0
        scanner.finish()
    return costs, waits


def _first_tokens(rules: StreamRules, texts: Sequence[str]) -> float:
    tokens = [found.group() for text in texts if (found := _TOKEN.search(text))]
    return sum(StreamScanner(rules).push(token).text != "" for token in tokens) / len(tokens)
