"""`deepwell ask --data`: the query that a scripted model writes, its rows, and a chart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.needs import SANDBOX
from tests.server.agents.serving import ScriptedEngine
from tests.server.conftest import codec as codec
from tests.server.conftest import start
from tests.server.fakes import make_service
from typer.testing import CliRunner, Result

from deepwell.cli import app
from deepwell.dialogue.text import Codec

pytestmark = pytest.mark.needs(SANDBOX)

ORDERS = "id,state,amount\n1,open,3.5\n2,open,4\n3,closed,\n"
COUNTS = "SELECT state, count(*) AS n FROM orders GROUP BY state ORDER BY n DESC"
Ask = Callable[..., Result]


@pytest.fixture
def ask(codec: Codec, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ask]:
    """Asks a server whose model says the lines of the parameter, about `orders.csv`."""
    engine = ScriptedEngine(lines=list(request.param))
    live = start(make_service(engine, codec, model="toy"), engine)
    (tmp_path / "orders.csv").write_text(ORDERS)
    env = {"DEEPWELL_HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8", "COLUMNS": "120"}

    def run(*words: str, **more: str) -> Result:
        given = ["ask", "How many orders does each state have?", "--url", live.url, *words]
        return CliRunner().invoke(app, given, env={**env, **more})

    yield run
    live.stop()


def says(*lines: str) -> Any:
    return pytest.mark.parametrize("ask", [lines], indirect=True)


@says(COUNTS)
def test_the_query_is_shown_with_its_rows_and_a_chart(ask: Ask, tmp_path: Path) -> None:
    done = ask("--data", str(tmp_path / "orders.csv"), "--chart", str(tmp_path / "chart.svg"))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(COUNTS)
    assert ["open", "2"] in [line.split() for line in done.stdout.splitlines()]
    assert "e5-small-q4 is not in the store" in done.stderr
    assert (tmp_path / "chart.svg").read_text().startswith("<?xml")


@says(COUNTS)
def test_json_has_the_query_and_all_rows(ask: Ask, tmp_path: Path) -> None:
    told = json.loads(ask("--data", str(tmp_path), "--json").stdout)
    assert (told["sql"], told["attempts"], told["problem"]) == (f"{COUNTS}\nLIMIT 1001", 1, "")
    assert (told["columns"], told["rows"]) == (["state", "n"], [["open", 2], ["closed", 1]])
    assert (told["tables"], told["more"], told["chart"]) == (["orders"], False, None)


@says("SELECT state FROM orders", "SELECT state FROM orders")
def test_rows_without_a_number_are_shown_though_they_have_no_chart(ask: Ask, tmp_path: Path) -> None:
    words = ("--data", str(tmp_path), "--chart", str(tmp_path / "chart.svg"))
    done = ask(*words)
    assert done.exit_code == 1 and "closed" in done.stdout and "no row has a number" in done.stderr
    told = json.loads(ask(*words, "--json").stdout)
    assert (told["rows"][0], told["chart"]) == (["open"], None) and "no row has" in told["problem"]


@says("")
def test_what_is_no_chart_is_said_before_a_model_is_asked(ask: Ask, tmp_path: Path) -> None:
    done = ask("--data", str(tmp_path), "--chart", str(tmp_path / "chart.txt"), "--json")
    assert "does not end as a picture" in json.loads(done.stdout)["error"]["message"]


@says("DROP TABLE orders", "DELETE FROM orders", "I cannot.")
def test_what_is_no_reading_query_is_not_run(ask: Ask, tmp_path: Path) -> None:
    done = ask("--data", str(tmp_path), "--chart", str(tmp_path / "chart.svg"))
    assert done.exit_code == 3
    assert "No query could be run" in done.stderr and not (tmp_path / "chart.svg").exists()


@says("")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chart", "c.svg"], "no data is given"),
        (["--data", "{here}", "--system", "x"], "--data writes a query at temperature 0"),
        (["--data", "{here}", "--temperature", "1.5"], "--data writes a query at temperature 0"),
        (["--data", "{here}/no"], "there is no"),
        (["--data", "{here}/home.txt"], "is no table"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_cannot_be_asked_is_refused(ask: Ask, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "home.txt").write_text("no table")
    done = ask(*(word.replace("{here}", str(tmp_path)) for word in words), "--json")
    assert done.exit_code == 1
    assert said in json.loads(done.stdout)["error"]["message"]
