"""`Prover`: turns what the solver derived into steps in words, each with its rule, its values and its facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deepwell.agents.rules.decision import Step, StepKind
from deepwell.agents.rules.facts import Fact, FactType, Text, filled
from deepwell.agents.rules.logic.wire import Atom, Instance, RuleInfo
from deepwell.messages import Language, render

__all__ = ["LANGUAGES", "Prover", "Values", "both"]

Values = Mapping[Language, Mapping[str, object]]

LANGUAGES: Sequence[Language] = ("en", "zh")


def both(key: str, values: Values) -> Text:
    """Returns a text of the catalogue in both languages, each with its own values."""
    return {language: render(key, language, values[language])[0] for language in LANGUAGES}


class Prover:
    """Explains atoms of one decision.

    Args:
        rules: the rules of the program.
        types: the types of facts and derived facts, by name.
        held: the facts that were accepted, by their atom.
    """

    def __init__(
        self, rules: Sequence[RuleInfo], types: Mapping[str, FactType], held: Mapping[str, Fact]
    ) -> None:
        self._rules = rules
        self._types = types
        self._held = held

    def steps(self, instances: Sequence[Instance], wanted: Iterable[str]) -> dict[str, Step]:
        """Returns a derivation of the wanted atoms: one step for each atom in it, in an order in which premises come first.

        Rules whose body is empty are data and no steps.
        """
        proofs = self._proofs(instances)
        needed, left = set[str](), [text for text in wanted if text in proofs]
        while left:
            text = left.pop()
            if text not in needed and text in proofs:
                needed.add(text)
                left += [atom.text for atom in proofs[text].positive]
        return {
            text: self.step(one, "rule")
            for text, one in proofs.items()
            if text in needed and not self._rules[one.rule].fact
        }

    def step(self, instance: Instance, kind: StepKind) -> Step:
        """Returns a rule with the values for which its body holds."""
        rule = self._rules[instance.rule]
        facts = tuple({atom.text: self.fact(atom) for atom in instance.positive}.values())
        concludes = self.fact(instance.head) if instance.head is not None else None
        texts = dict[Language, str]()
        for language in LANGUAGES:
            template = rule.text.get(language)
            texts[language] = (
                filled(template, self._values(rule, instance, language))
                if template
                else self._plain(facts, instance.negative, concludes, language)
            )
        return Step(kind, rule.label, texts, facts, concludes, tuple(instance.negative), rule.cites)

    def fact(self, atom: Atom) -> Fact:
        """Returns the fact that an atom stands for: the accepted one with its source, or a derived one."""
        if held := self._held.get(atom.text):
            return held
        kind = self._types.get(atom.name)
        if kind is None or len(kind.arguments) != len(atom.terms):
            return Fact(atom.name, {str(number + 1): term for number, term in enumerate(atom.terms)})
        return Fact(atom.name, kind.values(atom.terms))

    def said(self, fact: Fact, language: Language) -> str:
        """Returns what a fact says in a language."""
        kind = self._types.get(fact.name)
        return kind.said(fact.arguments, language) if kind else str(fact)

    def _proofs(self, instances: Sequence[Instance]) -> dict[str, Instance]:
        """Returns for each derivable atom the first instance that derives it from atoms before it, in that order.

        So no atom is explained by itself, as mutually recursive rules would.
        """
        derivable = {one.head.text for one in instances if one.head is not None}
        proofs, left = dict[str, Instance](), [one for one in instances if one.head is not None]
        while left:
            later, before = list[Instance](), len(proofs)
            for one in left:
                assert one.head is not None
                if one.head.text in proofs:
                    continue
                if all(atom.text in proofs or atom.text not in derivable for atom in one.positive):
                    proofs[one.head.text] = one
                else:
                    later.append(one)
            if len(proofs) == before:
                break
            left = later
        return proofs

    def _values(self, rule: RuleInfo, instance: Instance, language: Language) -> dict[str, str]:
        found = dict[str, str]()
        for name, (predicate, position), term in zip(
            rule.variables, rule.places, instance.values, strict=True
        ):
            kind = self._types.get(predicate)
            arguments = [*kind.arguments.values()] if kind else []
            if position < len(arguments):
                found[name] = arguments[position].shown(arguments[position].value(term), language)
            else:
                found[name] = str(term)
        return found

    def _plain(
        self, facts: Sequence[Fact], absent: Sequence[str], concludes: Fact | None, language: Language
    ) -> str:
        comma = "；" if language == "zh" else "; "
        parts = [self.said(fact, language) for fact in facts]
        parts += [render("rules_absent", language, {"atom": atom})[0] for atom in absent]
        if concludes is None:
            return render("rules_excluded", language, {"facts": comma.join(parts)})[0]
        values = {"facts": comma.join(parts), "fact": self.said(concludes, language)}
        return render("rules_derived", language, values)[0]
