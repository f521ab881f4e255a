"""Writes the product text of each brief: `python examples/content/run.py [BRIEFS] [--model NAME] [--out FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from deepwell import LLM
from deepwell.agents.writing import compose, read_briefs
from deepwell.errors import DeepwellError

HERE = Path(__file__).parent


def main() -> int:
    """Prints each text with what it keeps of its brief; returns 1 if one does not keep all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "briefs", type=Path, nargs="?", default=HERE / "briefs.jsonl", help="JSON lines, or one JSON file"
    )
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="model of the store")
    parser.add_argument("--limit", type=int, default=None, help="number of briefs to write; left out: all")
    parser.add_argument("--out", type=Path, default=None, help="file of JSON lines for the texts")
    given = parser.parse_args()
    try:
        briefs = read_briefs(given.briefs)[: given.limit]
        with LLM(given.model) as llm:
            rows, kept = [], True
            for number, brief in enumerate(briefs):
                made = compose(llm, brief, seed=number)
                kept &= made.measured.kept
                rows.append(
                    {
                        "id": brief.id,
                        "text": made.text,
                        "kept": made.measured.kept,
                        "length": made.measured.length,
                    }
                )
                unit = "字" if brief.language == "zh" else "words"
                print(f"{brief.id}  {brief.product}  {made.measured.length}/{brief.length} {unit}")
                for name, terms in (
                    ("missing", made.measured.missing),
                    ("forbidden", made.measured.forbidden),
                ):
                    if terms:
                        print(f"  {name}: {', '.join(terms)}")
                print(f"{made.text}\n")
    except DeepwellError as error:
        print(error, file=sys.stderr)
        return 2
    if given.out:
        given.out.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
