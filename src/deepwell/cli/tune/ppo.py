"""`deepwell tune ppo`: an adapter by reinforcement, with rollouts on the engine that serves."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deepwell.cli.output import JsonFlag, console, reported_errors
from deepwell.cli.tune.preferences import ConfigFile, Model, Set
from deepwell.messages import say

__all__ = ["ppo"]


def ppo(
    config: ConfigFile = None,
    algorithm: Annotated[
        Literal["ppo", "grpo"] | None,
        typer.Option(
            help="Algorithm: ppo learns a value for every token, grpo compares answers to one prompt; unset: the one of "
            "CONFIG, else ppo."
        ),
    ] = None,
    model: Model = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="File of prompts to train on; repeatable.", metavar="FILE"),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            help="File of held-out prompts, or the share of the prompts to hold out, such as 0.1.",
            metavar="FILE|SHARE",
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Kind of reward: classifier, states, preferences, rule, grader, safety or moderation; its keys "
            "are set by --set reward.KEY=VALUE.",
            metavar="KIND",
        ),
    ] = None,
    grader: Annotated[
        Path | None,
        typer.Option(
            help="File with one of OpenAI's graders, as JSON or YAML, whose score is the reward.",
            metavar="FILE",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run; a run that was stopped there continues. Unset: runs/ and the name of the data."
        ),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Number of rounds of rollouts and updates; unset: 20.")
    ] = None,
    set: Set = None,
    json: JsonFlag = False,
) -> None:
    """Train an adapter by PPO or GRPO on the score of a reward, and print what it changed on held-out prompts."""
    with reported_errors(as_json=json):
        from deepwell.cli.tune.reinforcing import command
        from deepwell.cli.tune.running import configured, print_end, trained
        from deepwell.errors import InvalidRequest
        from deepwell.tuning.align.ppo.config import PPOConfig

        assignments = [*(set or [])]
        if reward is not None:
            assignments.append(f"reward.type={reward}")
        if iterations is not None:
            assignments.append(f"train.iterations={iterations}")
        given: dict[str, Any] = {
            "algorithm": algorithm,
            "model": model,
            "data": data,
            "validation": validation,
            "output": output,
        }
        kind: Any = PPOConfig
        if config is None and data is None and not any(one.startswith("data=") for one in assignments):
            raise InvalidRequest.of("tune_ppo_no_data")
        if config is None and grader is None and not any(one.startswith("reward") for one in assignments):
            raise InvalidRequest.of("tune_ppo_no_reward", param="reward")
        if grader is not None:
            assignments += _graded(grader, reward)
        run = configured(kind, config, given, None, assignments).placed(Path.cwd())
        artefact = trained(run, command(str(run.output)), json=json)
        if not json:
            _print_figures(artefact)
            print_end(run, artefact)


def _graded(grader: Path, reward: str | None) -> list[str]:
    """Returns the assignments that make the score of a grader the reward.

    Raises:
        InvalidRequest: another reward is named as well, or the file holds no grader.
    """
    from deepwell.errors import InvalidRequest

    if reward not in (None, "grader"):
        raise InvalidRequest.of("tune_ppo_two_rewards", reward=reward)
    text = jsons.dumps(_grader_of(grader), ensure_ascii=False)  # JSON is YAML, which assignments are
    return ["reward.type=grader", f"reward.grader={text}"]


def _grader_of(path: Path) -> dict[str, Any]:
    """Returns the grader of a file.

    Raises:
        InvalidRequest: the file cannot be read, or holds no grader.
    """
    import yaml

    from deepwell.errors import InvalidRequest
    from deepwell.tuning.evaluate.graders import parse_grader

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        raise InvalidRequest.of("tune_ppo_grader_file", param="grader", file=path) from None
    parse_grader(found)
    return found


def _print_figures(artefact: Path) -> None:
    from rich.table import Table

    metrics = jsons.loads((artefact / "deepwell.json").read_text(encoding="utf-8"))["metrics"]
    out = console()
    out.print(say("tune_ppo_table", prompts=metrics["prompts"]), style="italic", soft_wrap=True)
    table = Table()
    for column in ("", say("tune_base"), say("tune_tuned"), say("tune_change")):
        table.add_column(column, justify="left" if not column else "right")
    for name in ("reward", "cost", "judge", "ended", "tokens", "perplexity", "distinct_2", "kl"):
        before, after = metrics["base"][name], metrics["tuned"][name]
        if before is not None and after is not None:
            table.add_row(say(f"tune_ppo_{name}"), f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}")
    out.print(table)
    if metrics["taken_back"]:
        out.print(say("tune_ppo_taken_back"), soft_wrap=True)
