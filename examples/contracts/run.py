"""Reviews a licence text: `python examples/contracts/run.py [FILE] [--language en] [--rules-only]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1]))  # the repository, so that the modules of the example find each other

from deepwell.agents.rules import RuleSet  # noqa: E402
from deepwell.errors import DeepwellError  # noqa: E402
from deepwell_bench.harness.assets import minilm  # noqa: E402
from deepwell_bench.harness.vectors import CachedEmbedder  # noqa: E402
from examples.contracts import data, model, reading  # noqa: E402
from examples.contracts.review import NAMES, Review, review  # noqa: E402

WORDS = {
    "en": {"labels": "What the text says", "denied": "What was considered and denied", "score": "score"},
    "zh": {"labels": "文本内容", "denied": "考虑过但未采纳的判断", "score": "得分"},
}


def main() -> int:
    """Prints the report; returns 2 if the text cannot be read or a model is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file", type=Path, nargs="?", default=HERE / "licence.txt", help="text of the licence"
    )
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="language of the report")
    parser.add_argument("--rules-only", action="store_true", help="review by rules alone, without any model")
    given = parser.parse_args()
    try:
        text = given.file.read_text(encoding="utf-8")
        scores, found = ({}, {}) if given.rules_only else _scores(text)
        with RuleSet.load(reading.RULES) as rules:
            print(_report(review(rules, text, scores or None, found), given.language))
    except (DeepwellError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _scores(text: str) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the model's score of each label and the passage it looked at. The first call embeds the development half."""
    known = data.licence_texts("development")
    with CachedEmbedder(minilm(), lambda line: print(line, file=sys.stderr)) as encoder:
        views = model.encoded([one.text for one in known], lambda texts: encoder.embed(texts, "passage"))
        (view,) = model.encoded([text], lambda texts: encoder.embed(texts, "passage"))
    learned = model.LabelModel.fit(known, views)
    return learned.scores(text, view), dict(zip(model.QUESTIONS, view.found, strict=True))


def _report(found: Review, language: str) -> str:
    words, tongue = WORDS[language], "zh" if language == "zh" else "en"
    lines = [f"## {words['labels']}"]
    held = {str(one.arguments["label"]): one for one in found.decision.accepted if one.name != "says"}
    said = {str(one.arguments["label"]): one for one in found.decision.derived_by("found")}
    for name, label in NAMES.items():
        if label not in found.labels:
            continue
        score = f" ({words['score']} {held[name].score:.2f})" if name in held else ""
        lines.append(f"- {label}{score}")
        for step in found.decision.why(said[name]) if name in said else ():
            lines.append(f"  {step.said(tongue)} [{step.rule}]")
            lines += [f"  > {one.source}" for one in step.facts if one.source]
        if name in held and held[name].source:
            lines.append(f"  > {held[name].source[:240]}")
    lines += ["", f"## {words['denied']}"]
    lines += [f"- {one.step.said(tongue)}" for one in found.decision.denied if one.fact.score >= 0.2]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
