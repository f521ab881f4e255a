"""Options of `deepwell simulate run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "AnswerTokens",
    "ExactHits",
    "MaxWait",
    "MaxWaiting",
    "MetricOption",
    "MostReplicas",
    "Plot",
    "ProfileFile",
    "PromptTokens",
    "Rate",
    "Repeats",
    "Replicas",
    "RoutingOption",
    "Seconds",
    "Seed",
    "SemanticHits",
    "Spread",
    "SystemTokens",
    "Target",
    "Think",
    "Trace",
    "TraceSpeed",
    "Turns",
    "Users",
    "Warmup",
]

_LOAD = "The load"
_FLEET = "The fleet"
_RUN = "The simulation"

ProfileFile = Annotated[
    Path,
    typer.Argument(
        metavar="PROFILE", help="File that `deepwell simulate calibrate` wrote: one replica's speed."
    ),
]
Users = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1_000_000,
        help="Users in conversations, who read and think between their messages.",
        rich_help_panel=_LOAD,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        min=1e-3, max=1e5, help="Requests a second, at random times, each alone.", rich_help_panel=_LOAD
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSON lines with at_s, prompt_tokens, answer_tokens and, for turns that belong together, conversation.",
        rich_help_panel=_LOAD,
    ),
]
TraceSpeed = Annotated[
    float,
    typer.Option(
        "--speed", min=1e-3, max=1e3, help="Factor by which the trace runs faster.", rich_help_panel=_LOAD
    ),
]
Think = Annotated[
    float,
    typer.Option(
        "--think-s",
        min=0.1,
        max=86_400,
        help="Mean seconds between an answer and the user's next message.",
        rich_help_panel=_LOAD,
    ),
]
Turns = Annotated[
    float,
    typer.Option(min=1, max=1000, help="Mean number of messages in a conversation.", rich_help_panel=_LOAD),
]
PromptTokens = Annotated[
    float,
    typer.Option(min=1, max=1e6, help="Mean length of a user's message, in tokens.", rich_help_panel=_LOAD),
]
AnswerTokens = Annotated[
    float, typer.Option(min=1, max=1e6, help="Mean length of an answer, in tokens.", rich_help_panel=_LOAD)
]
Spread = Annotated[
    float,
    typer.Option(
        min=0,
        max=5,
        help="Standard deviation of lengths, divided by their mean; 0: all are equal.",
        rich_help_panel=_LOAD,
    ),
]
SystemTokens = Annotated[
    int,
    typer.Option(
        min=0,
        max=1_000_000,
        help="Tokens that all prompts begin with, such as a system message.",
        rich_help_panel=_LOAD,
    ),
]
ExactHits = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Share of the requests that the response cache answers.", rich_help_panel=_LOAD
    ),
]
SemanticHits = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Share of the requests that the semantic cache answers.", rich_help_panel=_LOAD
    ),
]
Replicas = Annotated[
    str,
    typer.Option(
        metavar="N,N,...",
        help="Numbers of replicas to simulate. With --target-p95-ms the fewest are searched instead.",
        rich_help_panel=_FLEET,
    ),
]
Target = Annotated[
    float | None,
    typer.Option(
        "--target-p95-ms",
        min=0.001,
        help="Search for the fewest replicas whose p95 is at most so many milliseconds.",
        rich_help_panel=_FLEET,
    ),
]
MetricOption = Annotated[
    Literal["first", "answer"],
    typer.Option(
        "--metric",
        help="Time that the target is for: first (to the first token) or answer (to the last one).",
        rich_help_panel=_FLEET,
    ),
]
MostReplicas = Annotated[
    int, typer.Option(min=1, max=10_000, help="Largest number of replicas to try.", rich_help_panel=_FLEET)
]
RoutingOption = Annotated[
    Literal["round-robin", "least-loaded", "prefix"],
    typer.Option(
        "--routing",
        help="Choice of the replica: in turn, with the fewest requests, or where the conversation's prefix is, load first.",
        rich_help_panel=_FLEET,
    ),
]
MaxWait = Annotated[
    float,
    typer.Option(
        "--longest-wait-s",
        min=0,
        help="Longest wait that a replica accepts, as its setting max_wait_s has it; 0: any.",
        rich_help_panel=_FLEET,
    ),
]
MaxWaiting = Annotated[
    int,
    typer.Option(
        min=0,
        help="Requests that may wait for a replica; further ones are refused; 0: any number.",
        rich_help_panel=_FLEET,
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        min=1,
        max=1e6,
        help="Simulated seconds, warm-up included; unset: enough for 20,000 requests, 3 minutes at least.",
        rich_help_panel=_RUN,
    ),
]
Warmup = Annotated[
    float | None,
    typer.Option(
        "--warmup-s",
        min=0,
        help="Seconds at the beginning that do not count; unset: 60, or twice the thinking time.",
        rich_help_panel=_RUN,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0, help="Seed of the first run; the same seed gives the same figures.", rich_help_panel=_RUN
    ),
]
Repeats = Annotated[
    int,
    typer.Option(min=1, max=100, help="Seeds that must all keep the target.", rich_help_panel=_RUN),
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Picture to write, PNG or SVG by its ending. It needs the extra eval."),
]
