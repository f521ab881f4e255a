"""`deepwell simulate run`: a load on different numbers of replicas, or the fewest that keep a target."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.simulate import options as of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepwell.fleet.simulate.figures import Figures
    from deepwell.fleet.simulate.loads import Load, Mix
    from deepwell.fleet.simulate.planning import Goal, Plan
    from deepwell.fleet.simulate.simulation import Fleet

__all__ = ["run"]


def run(
    profile: of.ProfileFile,
    users: of.Users = None,
    rate: of.Rate = None,
    trace: of.Trace = None,
    speed: of.TraceSpeed = 1.0,
    think_s: of.Think = 30.0,
    turns: of.Turns = 4.0,
    prompt_tokens: of.PromptTokens = 200,
    answer_tokens: of.AnswerTokens = 150,
    spread: of.Spread = 0.8,
    system_tokens: of.SystemTokens = 0,
    exact_hits: of.ExactHits = 0.0,
    semantic_hits: of.SemanticHits = 0.0,
    replicas: of.Replicas = "1,2,4",
    target_p95_ms: of.Target = None,
    metric: of.MetricOption = "first",
    most_replicas: of.MostReplicas = 4096,
    routing: of.RoutingOption = "prefix",
    longest_wait_s: of.MaxWait = 60.0,
    max_waiting: of.MaxWaiting = 0,
    seconds: of.Seconds = None,
    warmup_s: of.Warmup = None,
    seed: of.Seed = 0,
    repeats: of.Repeats = 3,
    plot: of.Plot = None,
    json: JsonFlag = False,
) -> None:
    """Simulate a load on a fleet of replicas, and print throughput and latencies.

    The load is --users in conversations, requests at random times by --rate, or a recorded --trace. With --target-p95-ms, the
    answer is the fewest replicas whose p95 keeps the target for every seed. Without it, each number in --replicas is
    simulated.
    """
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidRequest
        from deepwell.fleet.simulate.loads import Mix
        from deepwell.fleet.simulate.planning import Goal
        from deepwell.fleet.simulate.profile import read_profile
        from deepwell.fleet.simulate.simulation import Fleet

        if exact_hits + semantic_hits > 1:
            raise InvalidRequest(
                "--exact-hits and --semantic-hits are more than all requests together", fix="lower one"
            )
        mix = Mix(prompt_tokens, answer_tokens, spread, system_tokens, exact_hits, semantic_hits)
        load, warm = _timed(_load((users, rate, trace), mix, (think_s, turns), speed), seconds, warmup_s)
        fleet = Fleet(read_profile(profile), 1, routing, longest_wait_s, max_waiting)
        if target_p95_ms is None:
            counts = _counts(replicas, most_replicas)
            runs = _each(fleet, load, counts, (seed, warm), shown=not json)
            _tell(runs, as_json=json, plot=plot, title=_title(fleet, load))
            return
        goal = Goal(target_p95_ms, metric, most_replicas=most_replicas, repeats=repeats)
        plan = _search(fleet, load, goal, (seed, warm), shown=not json)
        _tell_plan(plan, goal, as_json=json, plot=plot, title=_title(fleet, load))


def _load(
    given: tuple[int | None, float | None, Path | None],
    mix: Mix,
    talk: tuple[float, float],
    speed: float,
) -> Load:
    """Returns the one load that was named; its length is not known yet."""
    from deepwell.errors import InvalidRequest
    from deepwell.fleet.simulate.loads import PoissonLoad, UserLoad, read_trace

    users, rate, trace = given
    if sum(one is not None for one in given) != 1:
        raise InvalidRequest.of("simulate_load")
    if users is not None:
        return UserLoad(users, talk[0], 0.0, talk[1], mix)
    if rate is not None:
        return PoissonLoad(rate, 0.0, mix)
    assert trace is not None
    return replace(read_trace(trace, speed=speed), shared_tokens=mix.shared_tokens)


def _timed(load: Load, seconds: float | None, warmup_s: float | None) -> tuple[Load, float]:
    """Returns the load with its length, and the seconds of warm-up."""
    from deepwell.errors import InvalidRequest
    from deepwell.fleet.simulate.loads import PoissonLoad, UserLoad
    from deepwell.fleet.simulate.planning import measured_time

    if not isinstance(load, PoissonLoad | UserLoad):
        return load, warmup_s or 0.0
    long, warm = measured_time(load, seconds, warmup_s)
    if warm >= long:
        raise InvalidRequest(
            f"the warm-up of {warm:g} s leaves nothing of {long:g} s",
            fix="raise --seconds, or lower --warmup-s",
        )
    return replace(load, seconds=long), warm


def _counts(text: str, most: int) -> list[int]:
    from deepwell.errors import InvalidRequest

    try:
        counts = sorted({int(one) for one in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1 or counts[-1] > most:
        raise InvalidRequest.of("simulate_replicas", text=text, most=most)
    return counts


def _each(
    fleet: Fleet, load: Load, counts: Sequence[int], begin: tuple[int, float], *, shown: bool
) -> list[Figures]:
    from deepwell.cli.progress import counting
    from deepwell.fleet.simulate.simulation import simulate

    runs: list[Figures] = []
    with counting("simulations", len(counts), shown=shown) as update:
        for count in counts:
            runs.append(simulate(replace(fleet, replicas=count), load, seed=begin[0], warmup_s=begin[1]))
            update(1)
    return runs


def _search(fleet: Fleet, load: Load, goal: Goal, begin: tuple[int, float], *, shown: bool) -> Plan:
    from deepwell.fleet.simulate.planning import fewest_replicas

    err = console(stderr=True)

    def say(figures: Figures) -> None:
        if shown and err.is_terminal:
            count, p95_ms = figures.replicas, goal.p95_ms(figures)
            err.print(f"{count} replicas: p95 {p95_ms:,.0f} ms, {100 * figures.busy:.0f} % busy", style="dim")

    return fewest_replicas(fleet, load, goal, seed=begin[0], warmup_s=begin[1], say=say)


def _title(fleet: Fleet, load: Load) -> str:
    from deepwell.fleet.simulate.loads import PoissonLoad, TraceLoad, UserLoad

    if isinstance(load, UserLoad):
        said = f"{load.users:,} users who think for {load.think_s:g} s"
    elif isinstance(load, PoissonLoad):
        said = f"{load.rate:g} requests a second"
    else:
        said = f"a trace of {len(load.rows):,} requests" if isinstance(load, TraceLoad) else "a load"
    return f"{fleet.profile.name}: {said}, routing {fleet.routing}"


_COLUMNS = (
    "replicas",
    "requests/s",
    "tokens/s",
    "first p50 ms",
    "first p95 ms",
    "answer p95 ms",
    "refused %",
    "busy %",
    "cached %",
)


def _row(one: Figures) -> tuple[str, ...]:
    return (
        str(one.replicas),
        f"{one.requests_per_s:.4g}",
        f"{one.tokens_per_s:,.0f}",
        f"{one.first_p50_ms:,.0f}",
        f"{one.first_p95_ms:,.0f}",
        f"{one.answer_p95_ms:,.0f}",
        f"{100 * one.rejected:.1f}",
        f"{100 * one.busy:.0f}",
        f"{100 * one.cached:.0f}",
    )


def _tell(runs: Sequence[Figures], *, as_json: bool, plot: Path | None, title: str) -> None:
    if plot:
        from deepwell.fleet.simulate.picture import draw

        draw(runs, plot, title=title)
    if as_json:
        write_json({"load": title, "runs": [asdict(one) for one in runs], "picture": plot and str(plot)})
        return
    print_table(_COLUMNS, [_row(one) for one in runs], optional=("tokens/s", "first p50 ms", "cached %"))
    if plot:
        console().print(f"{plot}", soft_wrap=True)


def _tell_plan(plan: Plan, goal: Goal, *, as_json: bool, plot: Path | None, title: str) -> None:
    if plot:
        from deepwell.fleet.simulate.picture import draw

        draw(plan.runs, plot, title=title, goal=goal, chosen=plan.replicas)
    seeds = [next(one for one in plan.runs if one.replicas == plan.replicas), *plan.confirmed]
    if as_json:
        found = {"load": title, "replicas": plan.replicas, "goal": asdict(goal)}
        runs = {"runs": [asdict(one) for one in plan.runs], "seeds": [asdict(one) for one in seeds]}
        write_json({**found, **runs, "picture": plot and str(plot)})
        return
    print_table(_COLUMNS, [_row(one) for one in plan.runs], optional=("tokens/s", "first p50 ms", "cached %"))
    p95_ms = [goal.p95_ms(one) for one in seeds]
    out = console()
    out.print(
        f"{plan.replicas} replicas keep the p95 within {goal.target_p95_ms:g} ms: {min(p95_ms):,.0f} to "
        f"{max(p95_ms):,.0f} ms over {len(seeds)} seeds",
        soft_wrap=True,
    )
    if plot:
        out.print(f"{plot}", soft_wrap=True)
