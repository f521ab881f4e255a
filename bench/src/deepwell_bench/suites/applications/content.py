"""`deepwell bench content`: product texts of held-out briefs, and what they keep of length and terms."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.agents.writing import Brief, Writer, compose, measure, plain, read_briefs
from deepwell.agents.writing.prompts import judged
from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import InvalidRequest

__all__ = ["HELD_OUT_SHA256", "bench_content"]

HELD_OUT_SHA256: Final = "f4354eef3ac5a853347de395336f4801d498c157a7c03925cefe86270a5034ab"
"""The held-out briefs as they were written before any code that writes texts."""


def bench_content(report: Report, held_out: Path, writer: Writer, limit: int | None = None) -> dict[str, Any]:
    """Returns what texts keep of held-out briefs, and what one prompt with the same model keeps.

    Args:
        held_out: the held-out briefs, whose bytes are checked.
        writer: the model.
        limit: number of briefs of each language, for a quick look; None: all.

    Raises:
        InvalidRequest: the file is another.
    """
    if hashlib.sha256(held_out.read_bytes()).hexdigest() != HELD_OUT_SHA256:
        raise InvalidRequest(
            f"{held_out} is not the file of held-out briefs", fix="restore it from the repository"
        )
    briefs = read_briefs(held_out)
    if limit is not None:
        briefs = [one for name in ("zh", "en") for one in [b for b in briefs if b.language == name][:limit]]
    texts, bare, seconds, rounds, stated = list[str](), list[str](), 0.0, 0, 0
    for number, brief in enumerate(briefs):
        begun = time.monotonic()
        made = compose(writer, brief, seed=number)
        seconds += time.monotonic() - begun
        texts.append(made.body)
        rounds += made.rounds
        stated += len(made.stated)
        bare.append(plain(writer, brief, seed=number))
    value = {
        "briefs": len(briefs),
        **_kept(briefs, texts),
        "plain": _kept(briefs, bare),
        "perplexity": _perplexity(writer, briefs, texts),
        "perplexity_plain": _perplexity(writer, briefs, bare),
        "seconds_a_text": rounded(seconds / len(briefs), 3),
        "rounds_a_text": rounded(rounds / len(briefs), 3),
        "terms_stated_alone": stated,
    }
    for name in ("zh", "en"):
        some = [number for number, one in enumerate(briefs) if one.language == name]
        value[name] = _kept([briefs[n] for n in some], [texts[n] for n in some])
    report.table(
        "product texts",
        ["", "in length", "terms", "texts with forbidden terms", "all kept"],
        [
            [label, *(f"{kept[one]:.1%}" if one != "with_forbidden" else kept[one] for one in _SHOWN)]
            for label, kept in (
                ("composed", value),
                ("composed, zh", value["zh"]),
                ("composed, en", value["en"]),
                ("one prompt", value["plain"]),
            )
        ],
    )
    return value


_SHOWN = ("in_length", "required_terms", "with_forbidden", "all_kept")


def _kept(briefs: Sequence[Brief], texts: Sequence[str]) -> dict[str, Any]:
    found = [measure(brief, text) for brief, text in zip(briefs, texts, strict=True)]
    wanted = sum(len(brief.required) for brief in briefs)
    return {
        "in_length": rounded(sum(one.in_length for one in found) / len(found)),
        "required_terms": rounded(1 - sum(len(one.missing) for one in found) / wanted),
        "with_forbidden": sum(bool(one.forbidden) for one in found),
        "all_kept": rounded(sum(one.kept for one in found) / len(found)),
    }


def _perplexity(writer: Writer, briefs: Sequence[Brief], texts: Sequence[str]) -> float:
    pairs = [(judged(brief), text) for brief, text in zip(briefs, texts, strict=True) if text]
    scores = writer.score(pairs)
    tokens = sum(len(one.tokens) for one in scores)
    return rounded(math.exp(-sum(one.sum for one in scores) / tokens), 3)
