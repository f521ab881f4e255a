"""Chinese terms: how many block after tiering, how many inserted variants are found, how much ordinary text is blocked."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.safety.normalise import normalised
from deepwell.safety.terms.detector import Terms
from deepwell.safety.terms.lists import STARTER, Term, TermList, digest, starter_list, tiered
from deepwell.safety.terms.pull import list_catalog, lists_folder, pull_list, untiered
from deepwell.settings import Settings
from deepwell_bench.harness.proportions import wilson
from deepwell_bench.workloads.safety.chinese.sentences import Sentence, reviews, sentences
from deepwell_bench.workloads.safety.chinese.variants import APART, VARIANTS, variant

__all__ = ["bench_terms", "fit_tiers"]

_HAN: Final = re.compile("[\u4e00-\u9fff]")
_LIST: Final = "jionlp"
_SEED: Final = 17
_KINDS_EACH: Final = 4
_IGNORED_FROM: Final = 5
_REVIEWS_FROM: Final = 2


def bench_terms(report: Report, *, every: int = 1) -> dict[str, Any]:
    """Returns counts by tier, recall on inserted variants, and the share of ordinary sentences that are blocked.

    Args:
        every: takes every n-th term and sentence alone.
    """
    folder = lists_folder(Settings.load().models_dir)
    pulled = pull_list(_LIST, folder)
    detector = Terms([starter_list(), pulled])
    report.note(f"lists: {STARTER} and {_LIST} ({pulled.source}, {pulled.licence})")
    _counts(report, (starter_list(), pulled))
    blocking = [text for text in detector.texts("block") if _HAN.search(text)]
    texts = [one for one in sentences() if one.half == "test"]
    recall, least, variants = _recall(report, detector, blocking[::every], texts)
    over, blocked, count = _over_block(report, detector, texts[::every])
    low, high = wilson(blocked, count)
    return {
        "blocking": len(blocking),
        "flagged": sum(one.counts()["flag"] for one in (starter_list(), pulled)),
        "ignored": sum(one.counts()["ignore"] for one in (starter_list(), pulled)),
        "variants": variants,
        "recall_percent": rounded(100 * recall),
        "least_recall_percent": rounded(100 * least),
        "sentences": count,
        "over_block_percent": rounded(100 * over),
        "over_block_low": rounded(100 * low),
        "over_block_high": rounded(100 * high),
    }


def fit_tiers(report: Report, path: Path) -> dict[str, Any]:
    """Writes the tiers of terms that occur in the development half of sentences and in reviews, by their digests."""
    entry = list_catalog()[_LIST]
    terms = tiered(untiered(entry), entry.tiers, {})
    detector = Terms([TermList(_LIST, [Term(t.text, t.category, "block") for t in terms], "", "", "")])
    in_sentences = _occurrences(detector, (one.text for one in sentences() if one.half == "development"))
    in_reviews = _occurrences(detector, reviews())
    rows: dict[str, str] = {}
    for term in terms:
        if in_sentences[term.text] >= _IGNORED_FROM:
            rows[digest(term.text)] = "ignore"
        elif in_sentences[term.text] or in_reviews[term.text] >= _REVIEWS_FROM:
            rows[digest(term.text)] = "flag"
    head = (
        "# Tiers of terms that ordinary Chinese text holds, by the first ten hex digits of the term's SHA-256. Found in half\n"
        "# of the sentences of news and laws, and in reviews: deepwell bench safety-terms --fit\n"
    )
    path.write_text(head + "".join(f"{key} {tier}\n" for key, tier in sorted(rows.items())), encoding="utf-8")
    counts = Counter(rows.values())
    report.note(f"{path}: {counts['flag']} terms are flagged, {counts['ignore']} ignored")
    return {"flag": counts["flag"], "ignore": counts["ignore"], "terms": len(terms)}


def _occurrences(detector: Terms, texts: Iterable[str]) -> Counter[str]:
    """Returns the number of texts in which each term occurs, also inside of a longer one."""
    found: Counter[str] = Counter()
    for text in texts:
        found.update({key for view in normalised(text).views for key in detector.occurring(view)})
    return found


def _counts(report: Report, lists: Sequence[TermList]) -> None:
    rows: list[tuple[Any, ...]] = []
    for one in lists:
        by_category = Counter((term.category, term.tier) for term in one.terms)
        rows += [
            (one.name, category, *(by_category[category, tier] for tier in ("block", "flag", "ignore")))
            for category in sorted({term.category for term in one.terms} - {"allow"})
        ]
    report.table("terms after tiering", ("list", "category", "block", "flag", "ignore"), rows)


def _recall(
    report: Report, detector: Terms, terms: Sequence[str], texts: Sequence[Sentence]
) -> tuple[float, float, int]:
    rng = random.Random(_SEED)  # noqa: S311
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    missed: dict[str, list[str]] = {}
    for term in terms:
        kinds = [
            "plain",
            *rng.sample([kind for kind in VARIANTS if kind != "plain"], _KINDS_EACH),
            rng.choice(list(APART)),
        ]
        for kind in kinds:
            written = variant(kind, term, rng)
            if kind == "traditional" and written == term:
                continue
            carrier, at = _place(rng, texts)
            text = carrier[:at] + written + carrier[at:]
            tried[kind] += 1
            if _blocks(detector, text, at, at + len(written)):
                found[kind] += 1
            else:
                missed.setdefault(kind, []).append(written)
    rows = [
        (
            kind + ("" if kind in VARIANTS else " (apart)"),
            tried[kind],
            f"{100 * found[kind] / tried[kind]:.2f} %",
            " ".join(missed.get(kind, [])[:3])[:60],
        )
        for kind in (*VARIANTS, *APART)
        if tried[kind]
    ]
    report.table("inserted variants", ("variant", "tried", "found", "missed, such as"), rows)
    total = sum(tried[kind] for kind in VARIANTS)
    hits = sum(found[kind] for kind in VARIANTS)
    return hits / total, min(found[kind] / tried[kind] for kind in VARIANTS if tried[kind]), total


def _place(rng: random.Random, texts: Sequence[Sentence]) -> tuple[str, int]:
    """Returns a carrier and a place in it that is between two Han characters, or at its end."""
    carrier = rng.choice(texts).text
    places = [
        at
        for at in range(1, len(carrier))
        if all("\u4e00" <= c <= "\u9fff" for c in carrier[at - 1 : at + 1])
    ]
    return carrier, rng.choice(places) if places else len(carrier)


def _blocks(detector: Terms, text: str, start: int, end: int) -> bool:
    return any(
        one.rule.startswith("terms.block.") and one.start < end and start < one.end
        for one in detector.scan(normalised(text))
    )


def _over_block(report: Report, detector: Terms, texts: Sequence[Sentence]) -> tuple[float, int, int]:
    count: Counter[str] = Counter()
    blocked: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    why: Counter[str] = Counter()
    for one in texts:
        count[one.source] += 1
        rules = {
            (found.rule.split(".")[1], one.text[found.start : found.end])
            for found in detector.scan(normalised(one.text))
        }
        blocked[one.source] += any(tier == "block" for tier, _ in rules)
        flagged[one.source] += any(tier == "flag" for tier, _ in rules)
        why.update(text for tier, text in rules if tier == "block")
    report.table(
        "ordinary sentences of the other half",
        ("source", "sentences", "blocked", "flagged"),
        [
            (
                source,
                count[source],
                _percent(blocked[source], count[source]),
                _percent(flagged[source], count[source]),
            )
            for source in sorted(count)
        ],
    )
    report.note("blocked by: " + ", ".join(f"{text} ({number})" for text, number in why.most_common(12)))
    total = sum(count.values())
    return sum(blocked.values()) / total, sum(blocked.values()), total


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %"
