"""The process of a search: its events, and that it goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from deepwell.dialogue.prompts.text import PromptText
from deepwell.tuning.prompts.worker import CONFIG, SearchConfig, run_search


def test_a_search_tells_its_plan_its_calls_and_its_report_and_remembers_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    lines = [{"input": f"hello {number}", "label": "ab"[number % 2]} for number in range(60)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = PromptText("Say a or b.")
    config = SearchConfig(
        str(tiny_model), "tiny", start, str(data), calls=100, precision="fp32", max_examples=0, threads=1
    )
    (tmp_path / CONFIG).write_bytes(msgspec.json.encode(config))
    told: list[dict[str, Any]] = []
    assert run_search(tmp_path, told.append) == 0
    assert told[0]["event"] == "plan" and sum(told[0]["rows"].values()) == 60
    steps = [one for one in told if one["event"] == "progress" and one["step"] == "search"]
    assert 0 < steps[-1]["done"] <= steps[-1]["total"] == 100
    done = told[-1]
    assert done["event"] == "done" and done["report"]["search"]["remembered"] == 0
    winner = msgspec.convert(done["winner"], PromptText)
    assert done["better"] or winner.instructions
    again: list[dict[str, Any]] = []
    run_search(tmp_path, again.append)
    report = again[-1]["report"]
    assert report["search"]["remembered"] == report["search"]["calls"] == done["report"]["search"]["calls"]
    assert again[-1]["winner"] == done["winner"]
