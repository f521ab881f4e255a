"""`deepwell rules`: check a rule set, decide a case with it, and print the schema of the facts that it knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.usage import Verbs
from deepwell.errors import InvalidRequest

if TYPE_CHECKING:
    from deepwell.agents.rules.cases import CaseResult
    from deepwell.agents.rules.logic.wire import Finding
    from deepwell.messages import Language

__all__ = ["register"]

_MOST_BYTES = 8 << 20

RuleSetArgument = Annotated[
    Path, typer.Argument(metavar="RULES", help="Folder with a file rules.yaml, or one YAML file.")
]
LanguageOption = Annotated[
    Literal["en", "zh"] | None,
    typer.Option(
        "--lang", help="Language of findings and explanations; unset: the terminal's.", metavar="en|zh"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    rules = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Check and run rule sets: decision tables and logic that accept, deny and explain facts.",
    )
    rules.command()(check)
    rules.command()(run)
    rules.command()(schema)
    app.add_typer(rules, name="rules")


def check(path: RuleSetArgument, lang: LanguageOption = None, json: JsonFlag = False) -> None:
    """Check a rule set: faults, gaps, contradictions, missing explanations, and its own cases. The status is 3 if any fails."""
    from deepwell.agents.rules.cases import run_cases
    from deepwell.agents.rules.ruleset import RuleSet

    with reported_errors(as_json=json), RuleSet.inspect(path) as rules:
        language = _language(lang)
        broken = any(one.level == "error" for one in rules.findings)
        cases = [] if broken else run_cases(rules)
        failed = [one for one in cases if one.differences or one.unexplained]
        if json:
            write_json(
                {
                    "name": rules.name,
                    "version": rules.version,
                    "findings": [_finding(one, language) for one in rules.findings],
                    "cases": [_case(one) for one in cases],
                    "ok": not broken and not failed,
                }
            )
        else:
            _tell_findings(rules.findings, language)
            _tell_cases(cases, language)
            console().print(_summary(f"{rules.name} {rules.version}", rules.findings, cases, language))
    if broken or failed:
        raise typer.Exit(3)


def run(
    path: RuleSetArgument,
    facts: Annotated[
        str,
        typer.Option("--facts", help="JSON file with the facts of the case; - reads it from standard input."),
    ],
    explain: Annotated[bool, typer.Option("--explain", help="Print the rules and facts behind it.")] = False,
    lang: LanguageOption = None,
    json: JsonFlag = False,
) -> None:
    """Decide a case: print the outcome, and the facts that were accepted, denied and derived."""
    from deepwell.agents.rules.ruleset import RuleSet
    from deepwell.agents.rules.schema import facts_from_json

    with reported_errors(as_json=json):
        given = facts_from_json(_json(facts))
        with RuleSet.load(path) as rules:
            decision = rules.decide(given)
        if json:
            write_json(decision.json())
            return
        language, out = _language(lang), console()
        out.print(f"{decision.outcome}", style="bold")
        if explain:
            out.print(decision.explanation.text(language), soft_wrap=True)
            return
        out.print(decision.explanation.outcome.said(language), soft_wrap=True)
        rows = [(_word("accepted", language), str(fact), fact.source) for fact in decision.accepted]
        rows += [(_word("denied", language), str(one.fact), one.step.rule) for one in decision.denied]
        rows += [(_word("derived", language), str(fact), "") for fact in decision.derived]
        for row in rows:
            out.print("  ".join(part for part in row if part), soft_wrap=True)


def schema(
    path: RuleSetArgument,
    response_format: Annotated[
        bool,
        typer.Option(
            "--response-format", help="Wrap the schema as the field response_format of a chat request."
        ),
    ] = False,
    score: Annotated[
        bool, typer.Option("--score", help="Let the model write a score for each fact.")
    ] = False,
    source: Annotated[
        bool, typer.Option("--source", help="Let the model write where each fact stands.")
    ] = False,
    most: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of facts that an answer has at most.")
    ] = 64,
    json: JsonFlag = False,
) -> None:
    """Print the JSON schema of the facts that a rule set knows: a model bound by it can propose no others."""
    import json as to_json

    from deepwell.agents.rules.ruleset import RuleSet

    with reported_errors(as_json=json), RuleSet.load(path) as rules:
        extra = (*(["score"] if score else []), *(["source"] if source else []))
        found = (
            rules.response_format(most=most, extra=extra)
            if response_format
            else rules.facts_schema(most=most, extra=extra)
        )
        if json:
            write_json(found)
        else:
            print(to_json.dumps(found, ensure_ascii=False, indent=2))


def _language(chosen: Language | None) -> Language:
    from deepwell.messages import language

    return chosen or language()


def _json(path: str) -> Any:
    import json

    try:
        if path == "-":
            text = sys.stdin.read(_MOST_BYTES)
        else:
            with Path(path).open(encoding="utf-8") as file:
                text = file.read(_MOST_BYTES)
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest.of("rules_facts_json", path=path, reason=str(error)[:200]) from None


def _finding(one: Finding, language: Language) -> dict[str, str]:
    from deepwell.messages import render

    message = render(one.key, language, one.values)[0]
    return {"level": one.level, "where": one.where, "key": one.key, "message": message}


def _case(one: CaseResult) -> dict[str, Any]:
    return {
        "name": one.name,
        "outcome": one.decision.outcome,
        "differences": list(one.differences),
        "unexplained": list(one.unexplained),
    }


def _word(key: str, language: Language) -> str:
    from deepwell.messages import render

    return render(f"rules_word_{key}", language, {})[0]


def _tell_findings(findings: tuple[Finding, ...], language: Language) -> None:
    if findings:
        said = [_finding(one, language) for one in findings]
        rows = [(_word(one["level"], language), one["where"], one["message"]) for one in said]
        print_table(
            [_word(key, language) for key in ("level", "where", "finding")],
            rows,
            folded=[_word("finding", language)],
        )


def _tell_cases(cases: list[CaseResult], language: Language) -> None:
    out = console()
    for one in cases:
        for difference in (*one.differences, *one.unexplained):
            out.print(f"{_word('case', language)} {one.name}: {difference}", soft_wrap=True)


def _summary(name: str, findings: tuple[Finding, ...], cases: list[CaseResult], language: Language) -> str:
    from deepwell.messages import render

    values = {
        "name": name,
        "errors": sum(one.level == "error" for one in findings),
        "warnings": sum(one.level == "warning" for one in findings),
        "cases": len(cases),
        "failed": sum(bool(one.differences or one.unexplained) for one in cases),
    }
    return render("rules_summary", language, values)[0]
