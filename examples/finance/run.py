"""Reviews a Chinese loan contract: `python examples/finance/run.py [FILE] [--language zh] [--rules-only] [--lpr 3.45]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1]))  # the repository, so that the modules of the example find each other

from deepwell import LLM  # noqa: E402
from deepwell.agents.rules import Decision, RuleSet, Step  # noqa: E402
from deepwell.errors import DeepwellError  # noqa: E402
from deepwell_bench.harness.assets import e5_small  # noqa: E402
from deepwell_bench.harness.vectors import CachedEmbedder  # noqa: E402
from deepwell_bench.workloads.knowledge.law import law_articles  # noqa: E402
from examples.finance import generate, model, reading  # noqa: E402
from examples.finance.review import Proposals, Review, review  # noqa: E402

WORDS = {
    "zh": {
        "fields": "合同内容", "findings": "审查意见", "denied": "未采纳的判断", "none": "无", "law": "条文",
        "lender": "出借人", "borrower": "借款人", "guarantor": "保证人", "principal": "本金（元）",
        "rate": "年利率（%）", "months": "借款期限（月）", "guarantee_months": "保证期间（月）",
    },
    "en": {
        "fields": "What the contract states", "findings": "Findings", "denied": "Denied proposals", "none": "none",
        "law": "article", "lender": "lender", "borrower": "borrower", "guarantor": "guarantor",
        "principal": "principal (yuan)", "rate": "interest (% a year)", "months": "term (months)",
        "guarantee_months": "guarantee (months)",
    },
}  # fmt: skip


def main() -> int:
    """Prints the report; returns 1 if the contract has a clause that the law does not allow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "file", type=Path, nargs="?", default=HERE / "contract.txt", help="text of the contract"
    )
    parser.add_argument("--language", choices=("zh", "en"), default="zh", help="language of the report")
    parser.add_argument("--rules-only", action="store_true", help="review by rules alone, without any model")
    parser.add_argument("--lpr", type=float, default=3.45, help="one-year loan prime rate in per cent")
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b", help="model of the store that reads the parties"
    )
    given = parser.parse_args()
    try:
        text = given.file.read_text(encoding="utf-8")
        proposed = None if given.rules_only else _proposed(text, given.model)
        with RuleSet.load(reading.RULES) as rules:
            found = review(rules, text, proposed, ceiling=4 * given.lpr)
        print(_report(found, given.language))
    except (DeepwellError, OSError, UnicodeDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    return int(found.decision.outcome == "unlawful")


def _proposed(text: str, name: str) -> Proposals:
    """Learns the head from the development contracts, and asks both models about the contract."""
    found = reading.sentences(reading.tidy(text))
    with CachedEmbedder(e5_small(), lambda line: print(line, file=sys.stderr)) as encoder:
        learned = model.ClauseModel.fit(
            generate.contracts("development"), lambda texts: encoder.embed(texts, "passage")
        )
        vectors = encoder.embed(found, "passage")
    with LLM(name) as reader:
        (parties,) = model.named(reader, [found])
    return model.proposals(learned, vectors, parties)


def sources(decision: Decision, step: Step) -> Iterator[str]:
    """Yields the sentences that a step rests on, through the steps before it."""
    for fact in step.facts:
        if fact.source:
            yield fact.source
        for before in decision.why(fact):
            if before is not step:
                yield from sources(decision, before)


def _report(found: Review, language: str) -> str:
    words = WORDS[language]
    lines = [f"## {words['fields']}"]
    lines += [
        f"- {words[name]}: {value:,.10g}" if isinstance(value, float) else f"- {words[name]}: {value}"
        for name, value in found.fields.items()
    ]
    lines += ["", f"## {words['findings']}"]
    texts = {(name.removeprefix("中华人民共和国"), article): text for name, article, text in law_articles()}
    for fact in found.decision.derived_by("finding"):
        finding = str(fact.arguments["kind"]).replace("_", "-")
        law, article = generate.FINDINGS[finding]
        step = found.decision.why(fact)[0]
        lines.append(f"- {finding}: {step.said('zh' if language == 'zh' else 'en')}")
        lines += [f"  > {source}" for source in dict.fromkeys(sources(found.decision, step))]
        lines.append(f"  {words['law']} {law}{article}: {texts[law, article].splitlines()[0]}")
    if not found.findings:
        lines.append(f"- {words['none']}")
    lines += ["", f"## {words['denied']}"]
    likely = [one for one in found.decision.denied if one.fact.score >= 0.3]
    lines += [f"- {one.step.said('zh' if language == 'zh' else 'en')}" for one in likely] or [
        f"- {words['none']}"
    ]
    return "\n".join(
        [*lines, "", found.decision.explanation.outcome.said("zh" if language == "zh" else "en")]
    )


if __name__ == "__main__":
    raise SystemExit(main())
