"""Similarity of two texts, from 0 to 1: fuzzy match, BLEU, chrF, Google's GLEU, METEOR and ROUGE.

Words are cut as `mteval-v13a` does, and every Chinese, Japanese or Korean character is a word of its own. ROUGE and METEOR
ignore case and punctuation; BLEU and GLEU do not.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from deepwell.errors import InvalidRequest

__all__ = [
    "METRICS",
    "bleu",
    "bleu_counts",
    "bleu_of",
    "chrf",
    "corpus_bleu",
    "fuzzy_match",
    "gleu",
    "meteor",
    "rouge_l",
    "rouge_n",
    "similarity",
]

_MAX_CHARACTERS = 100_000  # the longest common subsequence of two such texts takes about a second
_CJK = re.compile(
    r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f])"
)
_PLAIN = re.compile(r"[^\W_]+")
_SYMBOLS = re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])")
_AFTER = re.compile(r"([^0-9])([\.,])")
_BEFORE = re.compile(r"([\.,])([^0-9])")
_DASH = re.compile(r"([0-9])(-)")
_ORDER = 4  # of BLEU and GLEU
_CHARACTERS = 6  # order of chrF
_FREQUENT = 8  # occurrences of a symbol whose mask is kept
_LOOKED = 16  # words and places that METEOR's alignment looks at, which keeps it linear


def similarity(metric: str, text: str, reference: str) -> float:
    """Returns the similarity of a text to a reference by one of `METRICS`.

    Raises:
        InvalidRequest: there is no such metric, or a text is longer than 100,000 characters.
    """
    if metric not in METRICS:
        raise InvalidRequest(f"there is no similarity {metric!r}", fix=f"use one of {', '.join(METRICS)}")
    if max(len(text), len(reference)) > _MAX_CHARACTERS:
        raise InvalidRequest(
            f"a text to compare is longer than {_MAX_CHARACTERS} characters", fix="compare shorter texts"
        )
    return METRICS[metric](text, reference)


def fuzzy_match(text: str, reference: str) -> float:
    """Returns the normalised indel similarity of characters: twice the longest common subsequence over both lengths."""
    total = len(text) + len(reference)
    return 2 * _common_subsequence(text, reference) / total if total else 1.0


def rouge_n(text: str, reference: str, order: int) -> float:
    """Returns ROUGE-N, the F1 of common n-grams of words."""
    found, expected = _ngrams(_plain(text), order), _ngrams(_plain(reference), order)
    return _f1(sum((found & expected).values()), sum(found.values()), sum(expected.values()))


def rouge_l(text: str, reference: str) -> float:
    """Returns ROUGE-L, the F1 of the longest common subsequence of words."""
    found, expected = _plain(text), _plain(reference)
    return _f1(_common_subsequence(found, expected), len(found), len(expected))


def bleu(text: str, reference: str) -> float:
    """Returns the BLEU of one sentence, with exponential smoothing and the orders that the text has, as sacreBLEU does."""
    found, expected = _words(text), _words(reference)
    order = min(_ORDER, len(found))
    if not order:
        return 0.0
    counts = [_matched(found, expected, n) for n in range(1, order + 1)]
    return _bleu(counts, len(found), len(expected))


def corpus_bleu(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns the BLEU of a corpus of (text, reference) pairs."""
    counts = [bleu_counts(text, reference) for text, reference in pairs]
    return bleu_of([sum(one) for one in zip(*counts, strict=True)]) if counts else 0.0


def bleu_counts(text: str, reference: str) -> list[int]:
    """Returns the counts of one pair, whose sums make a BLEU: matches and n-grams of each order, then both lengths."""
    found, expected = _words(text), _words(reference)
    matched = [_matched(found, expected, n) for n in range(1, _ORDER + 1)]
    return [*(one for pair in matched for one in pair), len(found), len(expected)]


def bleu_of(counts: Sequence[float]) -> float:
    """Returns the BLEU of sums of `bleu_counts`."""
    pairs = [(counts[2 * n], counts[2 * n + 1]) for n in range(_ORDER)]
    return _bleu(pairs, counts[2 * _ORDER], counts[2 * _ORDER + 1])


def gleu(text: str, reference: str) -> float:
    """Returns Google's GLEU: the smaller of precision and recall of all n-grams up to four words."""
    found, expected = _words(text), _words(reference)
    common = sum(_matched(found, expected, n)[0] for n in range(1, _ORDER + 1))
    largest = max(
        sum(max(len(words) - n + 1, 0) for n in range(1, _ORDER + 1)) for words in (found, expected)
    )
    return common / largest if largest else 0.0


def chrf(text: str, reference: str) -> float:
    """Returns chrF2: the F-score, recall counted twice, of character n-grams up to six, without spaces."""
    found, expected = "".join(text.split()), "".join(reference.split())
    precisions: list[float] = []
    recalls: list[float] = []
    for order in range(1, _CHARACTERS + 1):
        ours, theirs = _ngrams(found, order), _ngrams(expected, order)
        if ours and theirs:
            common = sum((ours & theirs).values())
            precisions.append(common / sum(ours.values()))
            recalls.append(common / sum(theirs.values()))
    if not sum(precisions):
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 5 * precision * recall / (4 * precision + recall)


def meteor(text: str, reference: str) -> float:
    """Returns METEOR (alpha 0.9, beta 3, gamma 0.5) by its first stage: equal words, without stems or synonyms."""
    found, expected = _plain(text), _plain(reference)
    free: dict[str, list[int]] = {}
    for place, word in enumerate(expected):
        free.setdefault(word, []).append(place)
    matches = chunks = 0
    last = before = -2
    for here, word in enumerate(found):
        options = free.get(word)
        if not options:
            continue
        following = before + 1
        if (
            here == last + 1
            and following < len(expected)
            and expected[following] == word
            and following in options
        ):
            there = following
        else:
            # Few chunks: the place from which the most words go on alike, of a few that are looked at.
            there = max(options[:_LOOKED], key=lambda place: _run(found, here, expected, place))
        options.remove(there)
        matches += 1
        chunks += not (here == last + 1 and there == following)
        last, before = here, there
    if not matches:
        return 0.0
    precision, recall = matches / len(found), matches / len(expected)
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    return mean * (1 - 0.5 * (chunks / matches) ** 3)


def _rouge(order: int) -> Callable[[str, str], float]:
    return lambda text, reference: rouge_n(text, reference, order)


METRICS: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    "chrf": chrf,
    **{f"rouge_{order}": _rouge(order) for order in range(1, 6)},
    "rouge_l": rouge_l,
}
"""Similarities that need no model, by their names."""


def _plain(text: str) -> list[str]:
    return _PLAIN.findall(_CJK.sub(r" \1 ", unicodedata.normalize("NFKC", text).lower()))


def _words(text: str) -> list[str]:
    spaced = " " + _CJK.sub(r" \1 ", unicodedata.normalize("NFC", text)) + " "
    for pattern, by in ((_SYMBOLS, r" \1 "), (_AFTER, r"\1 \2 "), (_BEFORE, r" \1 \2"), (_DASH, r"\1 \2 ")):
        spaced = pattern.sub(by, spaced)
    return spaced.split()


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _matched(found: Sequence[str], expected: Sequence[str], order: int) -> tuple[int, int]:
    ours = _ngrams(found, order)
    return sum((ours & _ngrams(expected, order)).values()), sum(ours.values())


def _bleu(counts: Sequence[tuple[float, float]], found: float, expected: float) -> float:
    if not counts or not counts[0][0]:
        return 0.0
    logs, smooth = 0.0, 1.0
    for matched, total in counts:
        if not total:
            return 0.0
        if not matched:
            smooth *= 2
        logs += math.log(matched / total if matched else 1 / (smooth * total))
    brevity = 1.0 if found >= expected else math.exp(1 - expected / found)
    return brevity * math.exp(logs / len(counts))


def _run(found: Sequence[str], here: int, expected: Sequence[str], there: int) -> int:
    """Returns how many words go on alike from two places, up to a few."""
    run = 0
    for one, other in zip(found[here : here + _LOOKED], expected[there : there + _LOOKED], strict=False):
        if one != other:
            break
        run += 1
    return run


def _f1(common: int, found: int, expected: int) -> float:
    return 2 * common / (found + expected) if common else 0.0


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence, 64 cells a machine word (Hyyrö 2004)."""
    places: dict[str, list[int]] = {}
    for place, symbol in enumerate(one):
        places.setdefault(symbol, []).append(place)
    # A mask is as long as the text: those of rare symbols are made where they are used, and few are kept.
    masks = {symbol: _mask(found) for symbol, found in places.items() if len(found) >= _FREQUENT}
    full = (1 << len(one)) - 1
    row = full
    for symbol in other:
        mask = masks.get(symbol)
        match = row & (_mask(places.get(symbol, ())) if mask is None else mask)
        row = ((row + match) | (row - match)) & full
    return len(one) - row.bit_count()


def _mask(places: Sequence[int]) -> int:
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask
