"""`deepwell rollout start|preview|status|judge|promote|abort|revert`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.rollout.opened import Alias, By, Reason, minute, opened_rollouts

if TYPE_CHECKING:
    from deepwell.fleet.promotion.rollout import Status
    from deepwell.storage.registry.story import Rollout

__all__ = ["Kind", "abort", "judge", "preview", "promote", "revert", "start", "status"]

Kind = Literal["canary", "blue-green"]
"""Manners of a switch."""

TenantOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Tenant whose votes decide, each of its users for itself; may be repeated. "
        "Unset: all tenants, each API key with one vote."
    ),
]
StepsOption = Annotated[
    str | None,
    typer.Option(
        help="Shares in percent that a deployment takes one after the other, such as 5,25,50,75,100. "
        "Unset: those of its declaration.",
        metavar="PERCENT",
    ),
]
HoldOption = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds that each step is held while its figures are looked at."),
]
KindOption = Annotated[
    Kind | None,
    typer.Option(help="Manner of a deployment's switch: by steps, or all users at once."),
]


def start(
    alias: Alias,
    version: Annotated[
        int,
        typer.Argument(
            min=1, help="Number of the version, as `deepwell models versions` lists it.", metavar="VERSION"
        ),
    ],
    share: Annotated[
        float, typer.Option(help="Share of the users that get the version, between 0 and 1.")
    ] = 0.1,
    margin: Annotated[
        float, typer.Option(help="Difference of approval that is still accepted, as a share of the users.")
    ] = 0.05,
    alpha: Annotated[
        float,
        typer.Option(help="Largest probability of a wrong decision, however often the votes are looked at."),
    ] = 0.05,
    most_users: Annotated[
        int, typer.Option(help="Users of the version after whom an undecided roll-out ends.")
    ] = 5000,
    most_days: Annotated[float, typer.Option(help="Days after which an undecided roll-out ends.")] = 30,
    ungated: Annotated[
        str,
        typer.Option(
            help="Reason for a version that its gates did not let pass; the ledger keeps it.",
            metavar="REASON",
        ),
    ] = "",
    tenant: TenantOption = None,
    steps: StepsOption = None,
    hold: HoldOption = None,
    kind: KindOption = None,
    by: By = "cli",
    json: JsonFlag = False,
) -> None:
    """Give a version to a share of the users of an alias. The same users get it until the roll-out ends.

    Where a deployment of the alias runs, it starts replicas of the version, and takes the steps by itself.
    """
    with reported_errors(as_json=json):
        from deepwell.cli.rollout.stepped import deployment_of
        from deepwell.fleet.deploy.stepped import steps_of
        from deepwell.fleet.promotion.judge import Plan

        plan = Plan(alpha, margin, most_users, most_days)
        deployed = deployment_of(alias)
        stepped = steps_of(deployed, steps, hold, kind)
        with opened_rollouts(alias) as rollouts:
            made = asyncio.run(
                rollouts.start(
                    f"{alias}#{version}",
                    by,
                    share=share,
                    plan=plan,
                    ungated=ungated,
                    tenants=tenant or (),
                    steps=stepped,
                )
            )
        if json:
            write_json(asdict(made))
            return
        if stepped is not None:
            shares = ", ".join(f"{100 * one:g}" for one in stepped.shares)
            where = "the deployment" if deployed is None else f"the deployment {deployed['name']}"
            said = f"{where} starts {made.candidate}, and gives it to {shares} % of the users, {stepped.hold_seconds:g} s each"
            console().print(said, soft_wrap=True)
            console().print(f"Look at it first: deepwell rollout preview {alias}", soft_wrap=True)
            return
        said = (
            f"{100 * made.share:g} % of the users of {alias} get {made.candidate}, the others {made.current}"
        )
        console().print(said, soft_wrap=True)
        console().print(f"Judge it by their votes: deepwell rollout judge {alias}", soft_wrap=True)


def preview(alias: Alias, json: JsonFlag = False) -> None:
    """Show how to ask the candidate of a deployment before any user gets it."""
    with reported_errors(as_json=json):
        from deepwell.cli.rollout.stepped import deployment_of
        from deepwell.errors import InvalidRequest

        deployed = deployment_of(alias)
        if deployed is None:
            raise InvalidRequest.of("rollout_preview", alias=alias)
        rollout = deployed.get("rollout")
        if rollout is None:
            raise InvalidRequest.of("rollout_none", alias=alias)
        header = {"x-deepwell-release": "candidate"}
        if json:
            write_json({"url": deployed["url"], "headers": header, "rollout": rollout})
            return
        body = f'{{"model": "{alias}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
        console().print(
            f"{rollout['version']} has {100 * rollout['share']:g} % of the users; {rollout['next']}"
        )
        bearer = ' -H "Authorization: Bearer $DEEPWELL_API_KEY"' if deployed.get("keys") else ""
        for line in (
            f"curl {deployed['url']}/v1/chat/completions -H 'Content-Type: application/json'{bearer} \\",
            f"  -H 'x-deepwell-release: candidate' -d '{body}'",
        ):
            console().print(line, soft_wrap=True)


def status(
    alias: Annotated[
        str | None, typer.Argument(help="Name of the alias; unset: the roll-outs of all.", metavar="ALIAS")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show the roll-outs that are under way with their votes, and how the last ones ended."""
    with reported_errors(as_json=json):
        with opened_rollouts(alias) as rollouts:
            story = asyncio.run(rollouts.registry.story(alias))
            under_way = [one.alias for one in story.rollouts.values() if one.state == "canary"]
            found = [one for name in under_way if (one := asyncio.run(rollouts.status(name))) is not None]
        ended = [one for one in story.rollouts.values() if one.state != "canary"][-10:]
        if json:
            write_json({"under_way": [_plain(one) for one in found], "ended": [asdict(one) for one in ended]})
            return
        for one in found:
            _print(one)
        if ended:
            rows = [
                (one.version, one.state.replace("_", " "), _ended(one), one.ended_by, one.reason)
                for one in ended
            ]
            columns = ("version", "outcome", "ended", "by", "reason")
            print_table(columns, rows, folded=columns[-1:])
        if not found and not ended:
            console().print("There was no roll-out yet: `deepwell rollout start ALIAS VERSION` starts one.")


def judge(alias: Alias, by: By = "votes", json: JsonFlag = False) -> None:
    """Promote or roll back the version if the votes of users decide by now; else leave it as it is."""
    with reported_errors(as_json=json):
        with opened_rollouts(alias) as rollouts:
            found = asyncio.run(rollouts.judge(alias, by))
        if json:
            write_json(_plain(found))
            return
        _print(found)


def promote(alias: Alias, reason: Reason = "", by: By = "cli", json: JsonFlag = False) -> None:
    """Give the version to all users now, whatever their votes say."""
    with reported_errors(as_json=json):
        with opened_rollouts(alias) as rollouts:
            ended = asyncio.run(rollouts.promote(alias, by, reason))
        _tell(ended, f"{alias} means {ended.candidate} for all users", as_json=json)


def abort(alias: Alias, reason: Reason = "", by: By = "cli", json: JsonFlag = False) -> None:
    """End the roll-out: all users get the model of before."""
    with reported_errors(as_json=json):
        with opened_rollouts(alias) as rollouts:
            ended = asyncio.run(rollouts.abort(alias, by, reason))
        _tell(ended, f"{alias} means {ended.current} for all users", as_json=json)


def revert(alias: Alias, reason: Reason = "", by: By = "cli", json: JsonFlag = False) -> None:
    """Undo the newest promotion: the alias means again what it meant before."""
    with reported_errors(as_json=json):
        with opened_rollouts(alias) as rollouts:
            made = asyncio.run(rollouts.revert(alias, by, reason))
        if json:
            write_json({"name": made.name, "model": made.model})
            return
        console().print(f"{alias} means {made.model} again", soft_wrap=True)


def _tell(ended: Rollout, text: str, *, as_json: bool) -> None:
    if as_json:
        write_json(asdict(ended))
    else:
        console().print(text, soft_wrap=True)


def _print(status: Status) -> None:
    out, one, arms = console(), status.rollout, status.arms
    out.print(
        f"{one.version}: {_state(one)} since {minute(one.ended_ms or one.started_ms)}",
        soft_wrap=True,
    )
    rows = [
        (name, model, str(counts.users), f"{100 * counts.share:.1f} %" if counts.users else "-")
        for name, model, counts in (
            (f"current ({100 * (1 - one.share):g} %)", one.current, arms.current),
            (f"candidate ({100 * one.share:g} %)", one.candidate, arms.candidate),
        )
    ]
    print_table(("side", "model", "users who voted", "approve"), rows)
    if arms.unknown:
        out.print(f"{arms.unknown} votes name no user, and count for neither side", soft_wrap=True)
    if arms.unverified:
        said = f"{arms.unverified} votes are for no answer that the server kept, or come without a key, and do not count"
        out.print(said, soft_wrap=True)
    out.print(f"{status.verdict.action.replace('_', ' ')}: {status.verdict.reason}", soft_wrap=True)


def _state(rollout: Rollout) -> str:
    """Returns the state for people: the ledger calls each roll-out that is under way a canary."""
    blue_green = (
        rollout.state == "canary" and rollout.steps is not None and rollout.steps.kind == "blue_green"
    )
    return "blue-green" if blue_green else rollout.state.replace("_", " ")


def _ended(rollout: Rollout) -> str:
    return "" if rollout.ended_ms is None else minute(rollout.ended_ms)


def _plain(status: Status) -> dict[str, Any]:
    verdict = status.verdict
    return asdict(status.rollout) | {
        "verdict": {"action": verdict.action, "reason": verdict.reason, "numbers": dict(verdict.numbers)}
    }
