"""The example of data analysis: its tables are always the same, its questions are apart, and a chart is drawn of rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from deepwell_bench.suites.applications.data_analysis import HELD_OUT_SHA256, ORDERS_SHA256, make_tables

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "data-analysis"
QUESTIONS = REPOSITORY / "bench" / "data" / "analysis"


def test_the_tables_are_the_same_every_time(tmp_path: Path) -> None:
    make_tables(EXAMPLE / "make_data.py", tmp_path)
    assert hashlib.sha256((tmp_path / "orders.csv").read_bytes()).hexdigest() == ORDERS_SHA256
    assert {one.name for one in tmp_path.iterdir()} == {
        "customers.csv",
        "products.csv",
        "orders.csv",
        "company.db",
    }


def test_held_out_questions_are_frozen_and_apart() -> None:
    held_out = (QUESTIONS / "held_out.jsonl").read_bytes()
    assert hashlib.sha256(held_out).hexdigest() == HELD_OUT_SHA256
    asked = [json.loads(line)["question"] for line in held_out.decode().splitlines()]
    known = [
        json.loads(line)["question"]
        for line in (QUESTIONS / "development.jsonl").read_text("utf-8").splitlines()
    ]
    assert (len(set(asked)), len(set(known))) == (100, 40)
    assert not {one.lower() for one in asked} & {one.lower() for one in known}
