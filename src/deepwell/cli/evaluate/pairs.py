"""`deepwell evaluate pairs` and `ratings`: answers of two models for people to compare, and what they say of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import ApiKeyOption, Context, ModelsDir, Precision, ServerPort, Threads, Url
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.tuning.evaluate.statistics import Estimate

__all__ = ["pairs", "ratings"]


def pairs(
    model: Annotated[str, typer.Argument(help="Model whose answers come first.", metavar="MODEL[:ADAPTER]")],
    other: Annotated[str, typer.Argument(help="Model to compare it with.", metavar="OTHER[:ADAPTER]")],
    prompts: Annotated[Path, typer.Option(help="File of prompts, one a line or JSON lines.", metavar="FILE")],
    output: Annotated[Path, typer.Option(help="File of pairs to write.", metavar="FILE")] = Path(
        "pairs.jsonl"
    ),
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    precision: Precision = None,
    context: Context = None,
    threads: Threads = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Answer prompts with two models and write the pairs for people to compare, blind, on the console's page of ratings."""
    with reported_errors(as_json=json):
        from deepwell.cli.progress import counting
        from deepwell.errors import InvalidRequest
        from deepwell.tuning.evaluate.generation import Answer, answers_of
        from deepwell.tuning.evaluate.pairs import dump, pair_lines
        from deepwell.tuning.evaluate.run import read_prompts
        from deepwell.tuning.evaluate.subjects import open_subjects, parse_subject

        given = {"precision": precision, "context": context, "threads": threads, "models_dir": models_dir}
        options: Any = {name: value for name, value in given.items() if value is not None}
        names = [parse_subject(model), parse_subject(other)]
        if names[0].label == names[1].label:
            raise InvalidRequest("both models are the same", fix="name two, or a model and its adapter")
        asked = read_prompts(prompts)
        answers: dict[str, list[Answer]] = {}
        with counting("answering", 2 * len(asked), shown=not json) as counted:
            for base in dict.fromkeys(name.model for name in names):
                with open_subjects([one for one in names if one.model == base], options) as subjects:
                    for subject in subjects:
                        answers[subject.name.label] = answers_of(
                            subject, asked, chat=True, max_tokens=max_tokens, stop=(), counted=counted
                        )
        labels = (names[0].label, names[1].label)
        lines = list(pair_lines(labels, asked, (answers[labels[0]], answers[labels[1]])))
        output.write_text("".join(map(dump, lines)), encoding="utf-8")
        same = len(asked) - len(lines)
        if json:
            write_json({"pairs": len(lines), "same": same, "output": str(output)})
            return
        out = console()
        out.print(f"{len(lines)} pairs in {output}", soft_wrap=True)
        if same:
            out.print(f"left out: {same} prompts that both answer alike", soft_wrap=True)
        out.print("rate them on the page Ratings of the console of `deepwell serve`", soft_wrap=True)


def ratings(
    study: Annotated[
        str,
        typer.Argument(
            help="Votes that the page of ratings exported, or the id of a study on a server.", metavar="STUDY"
        ),
    ],
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Print the win rate of a study with its interval, the votes of each rater, and the agreement of raters."""
    with reported_errors(as_json=json):
        from deepwell.settings import Settings

        if Path(study).is_file():
            found = _of_file(Path(study))
        else:
            found = _of_server(study, Settings.load(url=url, port=port, api_key=api_key))
        if json:
            write_json(found)
            return
        _print(found)


def _of_file(path: Path) -> dict[str, Any]:
    """Returns the results of exported votes, in the shape of the server's."""
    from deepwell.tuning.evaluate.agreement import preference_of
    from deepwell.tuning.evaluate.pairs import read_votes

    votes = read_votes(path)
    found = preference_of(votes.by_rater)
    return {
        "first": votes.first,
        "second": votes.second,
        "rated": found.rated,
        "win_rate": _interval(found.win_rate),
        "raters": [
            {"rater": one.rater, "first": one.first, "second": one.second, "tie": one.tie}
            for one in found.raters
        ],
        "agreements": [
            {
                "raters": list(one.raters),
                "pairs": one.pairs,
                "agreement": _interval(one.share),
                "kappa": _interval(one.kappa),
            }
            for one in found.agreements
        ],
    }


def _of_server(id: str, settings: Any) -> dict[str, Any]:
    from urllib.parse import quote

    import httpx

    from deepwell.cli.servers import client_key, server_url
    from deepwell.errors import DeepwellError, InvalidRequest

    url = f"{server_url(settings)}/v1/ratings/studies/{quote(id, safe='')}/results"
    key = client_key(settings)
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = httpx.get(url, headers=headers, timeout=30.0, trust_env=False)
        body: Any = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise InvalidRequest(
            f"{id!r} is no file, and no server answers at {server_url(settings)}: {error}",
            fix="give a file of exported votes, or start `deepwell serve`",
        ) from None
    if answer.status_code != 200:
        told = body.get("error", {}) if isinstance(body, Mapping) else {}
        raise DeepwellError(
            str(told.get("message", answer.status_code)), fix=str(told.get("fix") or "name a study")
        )
    return body


def _print(found: Mapping[str, Any]) -> None:
    out = console()
    first, second = found["first"], found["second"]
    rate = found["win_rate"]
    if rate is None:
        out.print("no votes yet")
        return
    verdict = "preferred" if rate["low"] > 0.5 else "less liked" if rate["high"] < 0.5 else "within noise"
    out.print(
        f"{second} wins {_percent(rate)} against {first} on {found['rated']} pairs: {verdict}", soft_wrap=True
    )
    rows = [(one["rater"], str(one["first"]), str(one["second"]), str(one["tie"])) for one in found["raters"]]
    print_table(("rater", first, second, "tie"), rows)
    for one in found["agreements"]:
        kappa = one["kappa"]
        said = (
            "undefined"
            if kappa is None
            else f"{kappa['value']:.2f} ({kappa['low']:.2f} .. {kappa['high']:.2f})"
        )
        who = " and ".join(one["raters"])
        out.print(
            f"{who}: agree on {_percent(one['agreement'])} of {one['pairs']} pairs, Cohen's kappa {said}",
            soft_wrap=True,
        )
    if not found["agreements"]:
        out.print("no pair has two raters, so there is no agreement to print")


def _percent(value: Mapping[str, float]) -> str:
    return f"{100 * value['value']:.1f} % ({100 * value['low']:.1f} .. {100 * value['high']:.1f})"


def _interval(found: Estimate | None) -> dict[str, float] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}
