"""`deepwell world evaluate`: returns of policies over episodes with the same starts and the same chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag, print_table, reported_errors, write_json
from deepwell.cli.progress import counted
from deepwell.cli.world.options import EnvironmentArgument, Futures, Horizon, ModelFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepwell.agents.world.policies import Policy

__all__ = ["evaluate"]


def evaluate(
    environment: EnvironmentArgument,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Policy to run; repeat the option for more. plan, actor and greedy use the model, simulator plans with the "
            "true simulator, best is the exact best one of grid and inventory. Unset: random, greedy, actor and plan."
        ),
    ] = None,
    model: ModelFile = None,
    episodes: Annotated[int, typer.Option(min=1, max=10_000, help="Number of episodes.")] = 20,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first episode; each further one has the next.")
    ] = 1,
    futures: Futures = 16,
    horizon: Horizon = 12,
    json: JsonFlag = False,
) -> None:
    """Run policies through the same episodes and print their mean returns."""
    with reported_errors(as_json=json):
        import numpy as np

        from deepwell.agents.world import environment as environment_of
        from deepwell.agents.world import evaluate as evaluate_policy
        from deepwell.errors import InvalidRequest

        world, names = environment_of(environment), policy or ["random", "greedy", "actor", "plan"]
        make = _makers(environment, model, seed, (futures, horizon))
        for name in names:
            if name not in make:
                raise InvalidRequest(f"no policy is named {name}", fix=f"name one of {', '.join(make)}")
        rows: list[dict[str, Any]] = []
        for name in dict.fromkeys(names):
            with counted(f"{name}: steps", shown=not json) as update:
                returns = evaluate_policy(world, make[name](), range(seed, seed + episodes), update)
            error = float(returns.std(ddof=1) / np.sqrt(episodes)) if episodes > 1 else None
            rows.append({"policy": name, "mean_return": float(returns.mean()), "standard_error": error})
        if json:
            write_json({"environment": environment, "episodes": episodes, "policies": rows})
            return
        print_table(
            ("policy", "mean return", "standard error"),
            [
                (
                    row["policy"],
                    f"{row['mean_return']:.2f}",
                    "" if row["standard_error"] is None else f"{row['standard_error']:.2f}",
                )
                for row in rows
            ],
        )


def _makers(name: str, path: Any, seed: int, budget: tuple[int, int]) -> dict[str, Callable[[], Policy]]:
    """Returns what makes each policy; models are read when one is made."""
    from deepwell.agents.world import PlanOptions, world_model
    from deepwell.agents.world import environment as environment_of
    from deepwell.agents.world.policies import ActorPolicy, GreedyPolicy, PlanPolicy, RandomPolicy
    from deepwell.agents.world.simulated import best_policy, simulator_plan_policy
    from deepwell.errors import InvalidRequest

    world = environment_of(name)

    def best() -> Policy:
        found = best_policy(name)
        if found is None:
            raise InvalidRequest(f"{name} has no exact best policy", fix="use --policy simulator")
        return found

    return {
        "random": lambda: RandomPolicy(world, seed),
        "greedy": lambda: GreedyPolicy(world_model(world, path), seed),
        "actor": lambda: ActorPolicy(world_model(world, path), seed),
        "plan": lambda: PlanPolicy(world_model(world, path), seed, PlanOptions(*budget)),
        "simulator": lambda: simulator_plan_policy(name, seed),
        "best": best,
    }
