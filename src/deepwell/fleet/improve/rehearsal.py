"""`write_rehearsal`: what a training by votes sees besides votes, so that it changes what votes speak of and nothing else.

Votes speak of one thing, and a training that sees nothing else moves the model everywhere: what it thinks of ordinary text, and
how readily it answers requests for harm. What the base says of ordinary things is replayed, and is to stay as likely as it is.
Requests for harm are different: a small base answers most of them, and to hold it there would be to teach harm. Beside them
stand refusals as good answers, and what the base says as bad ones; beside harmless requests, refusals as bad answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.fleet.improve import weights
from deepwell.fleet.improve.judges import refuses
from deepwell.llm import LLM
from deepwell.tuning.align.preferences import Judged, write_judged

__all__ = ["MATERIAL", "write_rehearsal"]

MATERIAL: Final = Path(__file__).parent / "replay"
_CONTEXT: Final = 256
_ANSWER_TOKENS, _TEXT_TOKENS = 48, 64
_TEMPERATURE: Final = 0.7  # of texts: the likeliest continuation repeats itself
_SEED: Final = 20
_AT_ONCE: Final = 32
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")


def write_rehearsal(base: str, replay: Path, judged: Path, material: Path = MATERIAL) -> None:
    """Writes what the base says of ordinary things, and judged answers to requests for harm, a line each. Blocks.

    Args:
        base: the model: a name in the store, or a path.
        replay: file of answers to requests and of continued beginnings; it is there whole, or not at all.
        judged: file of refusals, good where the request is for harm and bad where it is not, and of answers of the base that
            should have refused; it is there before `replay`.
        material: a folder with `requests.txt`, `openings.txt`, `harmful.txt`, `refusals.txt`, and `apologies.txt` (further ways
            not to answer, which are never good ones), one in a line.
    """
    names = ("requests.txt", "openings.txt", "harmful.txt", "refusals.txt", "apologies.txt")
    requests, openings, harmful, refusals, apologies = (_lines(material / name) for name in names)
    rows: list[dict[str, Any]] = []
    with LLM(base, context=_CONTEXT) as llm:
        answers = _answers(llm, [*requests, *harmful])
        for start in range(0, len(openings), _AT_ONCE):
            some = openings[start : start + _AT_ONCE]
            given = llm.generate(some, max_tokens=_TEXT_TOKENS, temperature=_TEMPERATURE, seed=_SEED)
            rows += [{"text": opening + one.text} for opening, one in zip(some, given, strict=True)]
    for request, answer in zip(requests, answers, strict=False):
        if answer.strip():
            turns = {"role": "user", "content": request}, {"role": "assistant", "content": answer}
            rows.append({"messages": turns})
    kinds = (
        (weights.REFUSALS, _refusals(harmful, refusals, desirable=True)),
        (weights.HARM, _harm(harmful, answers[len(requests) :])),
        (weights.MISPLACED, _refusals(requests, [*refusals, *apologies], desirable=False)),
    )
    write_judged(judged, [one for weight, kind in kinds for one in weights.weighing(kind, weight)])
    part = replay.with_suffix(".part")
    part.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    part.replace(replay)


def _answers(llm: LLM, requests: Sequence[str]) -> list[str]:
    found: list[str] = []
    for start in range(0, len(requests), _AT_ONCE):
        asked = [[{"role": "user", "content": one}] for one in requests[start : start + _AT_ONCE]]
        found += [one.text for one in llm.chat(asked, max_tokens=_ANSWER_TOKENS, temperature=0)]
    return found


def _harm(requests: Sequence[str], answers: Sequence[str]) -> list[Judged]:
    """Returns the answers of the base to requests for harm as bad ones, where they are no refusals."""
    return [
        Judged(({"role": "user", "content": one},), {"role": "assistant", "content": answer}, desirable=False)
        for one, answer in zip(requests, answers, strict=True)
        if answer.strip() and not refuses(answer)
    ]


def _refusals(requests: Sequence[str], refusals: Sequence[str], *, desirable: bool) -> list[Judged]:
    """Returns refusals of requests: whom to refuse is to be learnt, not to refuse."""
    return [_refused(one, refusals, place, desirable=desirable) for place, one in enumerate(requests)]


def _refused(request: str, refusals: Sequence[str], place: int, *, desirable: bool) -> Judged:
    """Returns a refusal in the language of a request."""
    chinese = bool(_CHINESE.search(request))
    fitting = [one for one in refusals if bool(_CHINESE.search(one)) == chinese] or refusals
    said = {"role": "assistant", "content": fitting[place % len(fitting)]}
    return Judged(({"role": "user", "content": request},), said, desirable=desirable)


def _lines(path: Path) -> list[str]:
    return [one for one in path.read_text(encoding="utf-8").splitlines() if one.strip()]
