"""Asks industry prompts what their examples ask: `python examples/prompts/run.py [PACK...] [--input TEXT]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from deepwell import LLM
from deepwell.dialogue.prompts.pack import PromptPack, read_packs
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell_bench.workloads.prompts import TASKS

PACKS = Path(__file__).parent / "packs"
CHOICES = {task.pack: task.choice for task in TASKS}  # answers of those that name one of a list
MOST_TOKENS = 128


class Answers(Protocol):
    """A model that answers a conversation, bound to a list of answers where there is one."""

    def __call__(self, conversation: list[dict[str, str]], choice: Sequence[str], /) -> str: ...


def chosen(names: Sequence[str]) -> list[PromptPack]:
    """Returns the packs with these ids, all of them without any.

    Raises:
        InvalidRequest: there is no such pack.
    """
    packs = read_packs(PACKS)
    known = [one.id for one in packs]
    if unknown := [name for name in names if name not in known]:
        raise InvalidRequest(f"there is no pack {', '.join(unknown)}", fix=f"choose from {', '.join(known)}")
    return [one for one in packs if not names or one.id in names]


def asked(pack: PromptPack, text: str | None, values: dict[str, str]) -> list[dict[str, str]]:
    """Returns the conversation of a pack: its prompt, filled, and a text, or the input of its example."""
    example = pack.content.example
    assert example is not None
    messages = pack.content.text.filled({**example.variables, **values})
    question = example.input if text is None else text
    return [{"role": one.role, "content": one.content} for one in messages] + [
        {"role": "user", "content": question}
    ]


def run(packs: Sequence[PromptPack], answers: Answers, text: str | None, values: dict[str, str]) -> list[str]:
    """Prints what a model answers to each pack, and returns the answers."""
    said: list[str] = []
    for pack in packs:
        conversation = asked(pack, text, values)
        said.append(answers(conversation, CHOICES.get(pack.id, ())))
        print(f"{pack.id} {pack.version}: {pack.content.purpose}")
        print(f"> {conversation[-1]['content']}\n{said[-1]}\n")
    return said


def main() -> int:
    """Asks the packs that are named; returns 2 if they cannot be asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="*", help="ids of packs; left out: all")
    parser.add_argument("--input", help="text to ask in place of the example's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="value of a variable"
    )
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="model of the store")
    given = parser.parse_args()
    values = dict(one.partition("=")[::2] for one in given.set)
    try:
        packs = chosen(given.packs)
        with LLM(given.model) as llm:

            def answers(conversation: list[dict[str, str]], choice: Sequence[str]) -> str:
                return llm.chat(
                    conversation, temperature=0, max_tokens=MOST_TOKENS, choice=choice or None
                ).text

            run(packs, answers, given.input, values)
    except DeepwellError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
