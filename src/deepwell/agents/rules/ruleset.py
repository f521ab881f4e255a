"""`RuleSet`: rules that people can read, joined with facts that a model proposes."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deepwell.agents.rules.decide import decide
from deepwell.agents.rules.decision import Decision
from deepwell.agents.rules.facts import Fact, FactType
from deepwell.agents.rules.logic.wire import Examine, Finding, ModelCheck, RuleInfo
from deepwell.agents.rules.manifest import Manifest, load_manifest
from deepwell.agents.rules.process import RuleProcess, check_installed
from deepwell.agents.rules.schema import MOST_FACTS, facts_schema
from deepwell.agents.rules.tables.checks import check_table
from deepwell.errors import InvalidFile
from deepwell.messages import render

__all__ = ["RuleSet"]


class RuleSet:
    """A rule set that was read and checked. It owns a confined child process; methods may be called from any thread.

    Attributes:
        manifest: types, outcomes, tables and cases.
        rules: the rules of its program.
        findings: warnings and notes of the checks; with `load`, there are no errors.
    """

    def __init__(
        self,
        manifest: Manifest,
        rules: tuple[RuleInfo, ...],
        findings: tuple[Finding, ...],
        process: RuleProcess,
    ) -> None:
        self.manifest = manifest
        self.rules = rules
        self.findings = findings
        self._process = process
        self._finalizer = weakref.finalize(self, process.close)

    @classmethod
    def load(cls, path: Path | str) -> RuleSet:
        """Returns the rule set in a folder with `rules.yaml`, or in one YAML file.

        Raises:
            InvalidFile: it cannot be read, or its checks found an error; the message has the first ones.
            MissingDependency: the extra `rules` is not installed.
        """
        found = cls.inspect(path)
        if errors := [one for one in found.findings if one.level == "error"]:
            found.close()
            said = [f"{one.where}: {render(one.key, 'en', one.values)[0]}" for one in errors]
            more = f" (+ {len(said) - 5})" if len(said) > 5 else ""
            raise InvalidFile.of("rules_invalid", path=path, reasons="; ".join(said[:5]) + more)
        return found

    @classmethod
    def inspect(cls, path: Path | str) -> RuleSet:
        """Returns a rule set for its findings, errors too. One with errors may not be asked for decisions.

        Raises:
            InvalidFile: the manifest or a file that it names cannot be read at all.
            MissingDependency: the extra `rules` is not installed.
        """
        check_installed()
        manifest = load_manifest(Path(path))
        findings = [*manifest.findings]
        if not any(one.level == "error" for one in findings):
            findings += [one for table in manifest.tables for one in check_table(table)]
        process = RuleProcess()
        try:
            rules = _examined(manifest, process, findings)
        except BaseException:
            process.close()
            raise
        return cls(manifest, rules, tuple(findings), process)

    @property
    def name(self) -> str:
        """Name of the rule set."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Version of the rule set."""
        return self.manifest.version

    @property
    def facts(self) -> Mapping[str, FactType]:
        """The types of the facts that may be proposed, by name."""
        return self.manifest.facts

    def decide(self, facts: Iterable[Fact]) -> Decision:
        """Returns the decision on the facts of one case.

        Facts that do not fit their type, that a table over proposals denies, or whose score is below their threshold are
        denied. Of the others those are accepted that cost least to accept and deny (see `weight`) while no hard rule is
        broken. Then rules derive, tables are applied in their order, and the first outcome of the manifest that was named
        is the decision's.

        Raises:
            InvalidRequest: a certain fact fits no type, or the rules cannot decide: the message says why.
            InvalidFile: the rules take more than the limits.
            EngineUnavailable: the child process could not run.
        """
        return decide(self.manifest, self.rules, [*facts], self._process)

    def facts_schema(
        self, names: Iterable[str] = (), *, most: int = MOST_FACTS, extra: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Returns the JSON schema of a list of facts that the rules know, for `response_format`.

        Args:
            names: the types of facts; none: all of them.
            most: most facts of the list.
            extra: "score" and "source", where the model is to write them.
        """
        chosen = [*names] or [*self.facts]
        return facts_schema({name: self.facts[name] for name in chosen}, most=most, extra=extra)

    def response_format(
        self, names: Iterable[str] = (), *, most: int = MOST_FACTS, extra: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Returns `response_format` of a request whose answer is a list of facts; see `facts_schema`."""
        schema = self.facts_schema(names, most=most, extra=extra)
        return {"type": "json_schema", "json_schema": {"name": "facts", "schema": schema, "strict": True}}

    def close(self) -> None:
        """Ends the child process. The next decision starts another."""
        self._process.close()

    def __enter__(self) -> RuleSet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _examined(manifest: Manifest, process: RuleProcess, findings: list[Finding]) -> tuple[RuleInfo, ...]:
    """Returns the rules of the program. What is wrong with it and with decision models is added to the findings."""
    if not any(one.level == "error" for one in findings):
        for table in manifest.tables:
            if table.model:
                findings += process.check_model(ModelCheck(table.name, table.model)).findings
    if not manifest.program:
        return ()
    examined = process.examine(_examine(manifest))
    findings += [
        Finding(one.level, f"{manifest.program_file}, {one.where}", one.key, one.values)
        for one in examined.findings
    ]
    return tuple(examined.rules)


def _examine(manifest: Manifest) -> Examine:
    inputs = [
        (one.name, len(one.arguments), [kind.limits() for kind in one.arguments.values()])
        for one in manifest.facts.values()
    ]
    outputs = [(one.name, len(one.arguments)) for one in manifest.derived.values()]
    return Examine(manifest.program, inputs, outputs)
