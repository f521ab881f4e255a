"""The models' side of a review: an encoder with a head tells clauses apart, a language model reads the names of the parties.

The head is learned on sentences of the development contracts. Held-out contracts have other wordings.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from examples.contracts.heads import Head, fit_one_of, one_of
from examples.finance import reading
from examples.finance.generate import Contract
from examples.finance.review import ROLES, Proposals

__all__ = ["ClauseModel", "Encoder", "Reader", "alone", "labelled", "named", "proposals"]

Encoder = Callable[[Sequence[str]], NDArray[np.float32]]
"""Returns vectors of unit length, one a sentence."""

_DECAY = 0.003
_HEAD = 5  # sentences at the beginning of a contract, among which are the parties
_OF_A_KIND = 6  # sentences of a kind that a family of templates brings: their wording is the same but for names and numbers
_NO_PROPOSAL = ("parties", "other", "filler", "repay")
_NUMBERS: Final = {
    "principal": ("principal", reading.amount),
    "rate": ("rate", reading.per_cent_a_year),
    "months": ("term", reading.months),
    "guarantee_months": ("period_ok", reading.guarantee_months),
}
_NAMES: Final = {
    "type": "object",
    "properties": {role: {"type": "string", "minLength": 2, "maxLength": 24} for role in ROLES},
    "required": list(ROLES),
    "additionalProperties": False,
}
_ASK_NAMES = (
    "下面是一份借款合同的开头。找出三方的姓名或公司名称，原样抄写，不要写称谓。\n"
    "lender 是出借钱的一方，borrower 是借入钱的一方，guarantor 是提供保证的一方。\n\n{head}"
)
_FINDING_OF: Final = {
    "upfront_bad": "upfront-interest", "period_bad": "void-guarantee-period", "mortgage_bad": "forfeiture",
    "limitation_bad": "limitation-waived", "exemption_bad": "liability-excluded", "order_bad": "public-order",
    "rate!": "usurious-rate", "overdue!": "excessive-default", "court!": "court-barred", "parties!": "barred-guarantor",
}  # fmt: skip
_MISSING: Final = {
    "missing-rate": ("rate", "rate!"), "missing-term": ("term",), "missing-purpose": ("purpose",),
    "missing-court": ("court", "court!"),
    "missing-guarantee-mode": ("guarantee_joint", "guarantee_general"), "missing-guarantee-period": ("period_ok", "period_bad"),
}  # fmt: skip


class Reader(Protocol):
    """A language model that answers conversations; `LLM` is one."""

    def chat(self, messages: Any, **arguments: Any) -> Any:
        """Returns a completion with `text` and `logprobs` for each conversation."""
        ...


@dataclass(frozen=True, slots=True)
class ClauseModel:
    """Heads over vectors of sentences.

    Attributes:
        kinds: names of the classes of `head`.
        marked: names of the classes of `direct`, which ends in `!` where the law does not allow the clause.
        direct: the head that says so without any rule: the model alone.
    """

    kinds: tuple[str, ...]
    head: Head
    marked: tuple[str, ...]
    direct: Head

    @classmethod
    def fit(cls, contracts: Sequence[Contract], encode: Encoder) -> ClauseModel:
        """Learns the heads from the clauses of contracts."""
        sentences = _distinct(contracts)
        vectors = np.asarray(encode([one for one, _, _ in sentences]), np.float64)
        kinds, head = _fitted(vectors, [kind for _, kind, _ in sentences])
        marked, direct = _fitted(vectors, [mark for _, _, mark in sentences])
        return cls(kinds, head, marked, direct)


def labelled(contract: Contract) -> list[tuple[str, str, str]]:
    """Returns the sentences of a contract, each with its kind, and with the same marked where it is unlawful."""
    known: dict[str, str] = {}
    for clause in contract.clauses:
        for sentence in reading.sentences(reading.tidy(clause.text)):
            known[sentence] = clause.kind
    found = list[tuple[str, str, str]]()
    for sentence in reading.sentences(reading.tidy(contract.text)):
        kind = known.get(sentence, "other")
        finding = _FINDING_OF.get(f"{kind}!")
        about = kind != "parties" or str(contract.fields["guarantor"]) in sentence
        marked = finding is not None and finding in contract.findings and about
        found.append((sentence, kind, f"{kind}!" if marked else kind))
    return found


def proposals(
    model: ClauseModel, vectors: NDArray[np.float32], parties: Mapping[tuple[str, str], float]
) -> Proposals:
    """Returns what the model proposes about the sentences of a contract.

    Args:
        vectors: of the sentences, [sentences, dimensions].
        parties: names that a language model read, with their scores.
    """
    scores = one_of(model.head, np.asarray(vectors, np.float64))
    clauses = {
        (kind, at): float(scores[at, number])
        for at in range(len(scores))
        for number, kind in enumerate(model.kinds)
        if kind not in _NO_PROPOSAL
    }
    return Proposals(clauses, parties)


def named(reader: Reader, found: Sequence[Sequence[str]]) -> list[dict[tuple[str, str], float]]:
    """Returns the parties that a language model reads in the first sentences of contracts, with scores.

    The score of a name is the geometric mean of the probabilities of the answer's tokens.
    """
    heads = ["\n".join(one[:_HEAD])[:400] for one in found]
    answers = reader.chat(
        [[{"role": "user", "content": _ASK_NAMES.format(head=one)}] for one in heads],
        schema=_NAMES, max_tokens=90, temperature=0.0, logprobs=1,
    )  # fmt: skip
    return [_parties(one) for one in answers]


def _parties(said: Any) -> dict[tuple[str, str], float]:
    logprobs = [one.logprob for one in said.logprobs or ()]
    score = math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.5
    try:
        names = json.loads(said.text)
    except ValueError:  # an answer that was cut has no names
        return {}
    return {(role, str(names[role])): min(0.98, max(0.2, score)) for role in ROLES}


def alone(
    model: ClauseModel,
    found: Sequence[str],
    vectors: NDArray[np.float32],
    parties: Mapping[tuple[str, str], float],
) -> tuple[dict[str, str | float], frozenset[str]]:
    """Returns fields and findings of a contract by the models alone, without patterns and rules.

    The direct head finds the clauses and says which are unlawful. Numbers are read in the likeliest sentence of their kind.

    Args:
        found: the sentences.
        vectors: those of the sentences.
        parties: names that the language model read; see `named`.
    """
    scores = one_of(model.direct, np.asarray(vectors, np.float64))
    names = list(parties)
    fields: dict[str, str | float] = {role: name for role, name in names}  # noqa: C416 (a dictionary of wider values)
    for field, (kind, read) in _NUMBERS.items():
        columns = [number for number, one in enumerate(model.marked) if one.rstrip("!") == kind]
        share = scores[:, columns].sum(axis=1)
        if share.max() >= 0.5 and (value := read(found[int(share.argmax())])):
            fields[field] = round(value, 3)
    return fields, _findings(model, scores)


def _findings(model: ClauseModel, scores: NDArray[np.float64]) -> frozenset[str]:
    said = {model.marked[number] for number in scores.argmax(axis=1)}
    findings = {finding for mark, finding in _FINDING_OF.items() if mark in said}
    return frozenset(findings | {one for one, kinds in _MISSING.items() if not said.intersection(kinds)})


def _distinct(contracts: Sequence[Contract]) -> list[tuple[str, str, str]]:
    seen, kept = Counter[tuple[str, str]](), dict[tuple[str, str, str], None]()
    for contract in contracts:
        for sentence, kind, mark in labelled(contract):
            if (sentence, kind, mark) in kept:
                continue
            seen[contract.family, mark] += 1
            if seen[contract.family, mark] <= _OF_A_KIND:
                kept[sentence, kind, mark] = None
    return list(kept)


def _fitted(vectors: NDArray[np.float64], names: Sequence[str]) -> tuple[tuple[str, ...], Head]:
    classes = tuple(sorted(set(names)))
    truth = np.array([[name == one for one in classes] for name in names], np.float64)
    return classes, fit_one_of(vectors, truth, _DECAY)
