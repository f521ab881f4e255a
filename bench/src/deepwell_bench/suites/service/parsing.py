"""The parsers of tool calls against golden transcripts, cut everywhere, and against streams of scraps."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.dialect import Dialect
from deepwell.dialogue.parsers.events import (
    CallArguments,
    CallStart,
    Content,
    Event,
    OutputParser,
    Reasoning,
    join,
)
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import DeepwellError
from deepwell_bench.harness.assets import repository

__all__ = ["bench_parsing", "fuzz", "parser_of", "random_stream", "read_in_pieces", "shown", "transcripts"]

_FAMILIES = ("hermes", "deepseek", "dsml", "json", "text")
# What real streams are made of, and what resembles it.
_SCRAPS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool", "</", "<", ">", "<|python_tag|>", "<|"),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    ),
    *("function", "```json\n", "```", "\n```", "<｜", "｜>"),
    *(
        "<｜DSML｜function_calls>",
        "</｜DSML｜function_calls>",
        "<｜DSML｜tool_calls>",
        '<｜DSML｜invoke name="f">',
    ),
    *(
        "</｜DSML｜invoke>",
        '<｜DSML｜parameter name="a" string="true">',
        '<｜DSML｜parameter name="b" string="false">',
    ),
    *("</｜DSML｜parameter>", "<｜DSML｜invoke", "<｜DSML｜parameter", "｜DSML｜"),
    *(
        '{"name": "f", "arguments": {"a": 1}}',
        '{"name": "f", ',
        '"arguments": ',
        '"parameters": ',
        '"name"',
        '"f"',
    ),
    *("{", "}", "[", "]", '"', "\\", ":", ",", ";", "{}", "null", "1.5e3", "true", "'", "\n", " ", "\t"),
    *("f", "text", "天气", "🌦", "\ud800", "\x00", "é"),
)


def transcripts() -> list[dict[str, Any]]:
    """Returns the golden transcripts: `family`, `reasoning`, `tools`, `text`, and `events` as `shown` gives them."""
    path = repository() / "bench" / "data" / "transcripts.json"
    return json.loads(path.read_text(encoding="utf-8"))


def parser_of(transcript: Mapping[str, Any]) -> OutputParser:
    """Returns a fresh parser for one transcript."""
    family = transcript["family"]
    tools = [FunctionTool(name) for name in transcript["tools"]]
    return Dialect("hermes" if family == "text" else family).parser(tools, transcript["reasoning"])


def read_in_pieces(transcript: Mapping[str, Any], pieces: Sequence[str]) -> list[Event]:
    """Returns the events of a text that comes in pieces, joined."""
    parser = parser_of(transcript)
    events = [event for piece in pieces for event in parser.push(piece)]
    return join([*events, *parser.finish()])


def shown(events: Sequence[Event]) -> list[list[Any]]:
    """Returns the events as JSON has them."""
    rows: list[list[Any]] = []
    for event in events:
        match event:
            case Content(text):
                rows.append(["content", text])
            case Reasoning(text):
                rows.append(["reasoning", text])
            case CallStart(index, name):
                rows.append(["call", index, name])
            case CallArguments(index, text):
                rows.append(["arguments", index, text])
    return rows


def random_stream(chance: random.Random) -> str:
    """Returns some scraps in a row."""
    return "".join(chance.choices(_SCRAPS, k=chance.randint(0, 24)))


def fuzz(streams: int, seed: int) -> int:
    """Reads random streams twice, whole and in pieces.

    Returns:
        The streams read: `streams`.

    Raises:
        DeepwellError: one read differently in pieces; anything else: a parser failed.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible, and guards nothing
    for number in range(streams):
        text = random_stream(chance)
        transcript = {
            "family": _FAMILIES[number % len(_FAMILIES)],
            "reasoning": chance.choice(("off", "tagged", "begun")),
            "tools": ["f"] if number % len(_FAMILIES) < 4 else [],
        }
        cuts = sorted(chance.randint(0, len(text)) for _ in range(chance.randint(0, 8)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        whole, cut = read_in_pieces(transcript, [text]), read_in_pieces(transcript, pieces)
        if whole != cut:
            raise DeepwellError(
                f"{transcript['family']}, reasoning {transcript['reasoning']}: {pieces!r} reads as {shown(cut)}, "
                f"and whole as {shown(whole)}"
            )
    return streams


def bench_parsing(report: Report, *, streams: int = 100_000, seed: int = 0) -> dict[str, Any]:
    """Reads every transcript whole, by characters and cut at every place and every pair of places; then random streams.

    `wrong` counts readings that differ from the transcript's own.
    """
    golden = transcripts()
    readings: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for transcript in golden:
        text = transcript["text"]
        cuts = [[text], list(text)]
        cuts += [[text[:a], text[a:]] for a in range(len(text) + 1)]
        step = max(1, len(text) // 40)
        places = range(0, len(text) + 1, step)
        cuts += [[text[:a], text[a:b], text[b:]] for a in places for b in places if a <= b]
        for pieces in cuts:
            readings[transcript["family"]] += 1
            wrong[transcript["family"]] += shown(read_in_pieces(transcript, pieces)) != transcript["events"]
    start = time.perf_counter()
    fuzz(streams, seed)
    seconds = time.perf_counter() - start
    families = Counter(transcript["family"] for transcript in golden)
    report.table(
        "Golden transcripts",
        ["family", "transcripts", "readings", "wrong"],
        [[family, families[family], readings[family], wrong[family]] for family in _FAMILIES],
    )
    report.note(f"{streams} random streams, each read whole and in pieces, in {seconds:.0f} s: no exception")
    return {
        "transcripts": len(golden),
        "readings": sum(readings.values()),
        "wrong": sum(wrong.values()),
        "streams": streams,
        "streams_per_second": rounded(streams / seconds, 3),
    }
