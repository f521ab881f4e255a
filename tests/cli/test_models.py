"""The store through the command line: what is listed, what is freed, what is refused, and how narrow it may get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.options import known_models, stored_models
from deepwell.dialogue.opening import open_model, plan_model
from deepwell.models.store.catalog import shipped_catalog
from deepwell.settings import Settings


def pulled(runner: CliRunner, model: Path, name: str) -> None:
    result = runner.invoke(app, ["pull", str(model), "--name", name])
    assert result.exit_code == 0, result.output


def packed_files() -> list[Path]:
    return sorted(Settings.load().packed_folder.glob("*.dwpack"))


def load_once(name: str) -> None:
    open_model(plan_model(Settings.load(model=name))).engine.close()


def test_the_bytes_of_file_and_packed_weights_are_listed_and_freed(
    runner: CliRunner, tiny_model: Path
) -> None:
    pulled(runner, tiny_model, "tiny")
    load_once("tiny")
    (packed,) = packed_files()
    (listed,) = json.loads(runner.invoke(app, ["models", "list", "--json"]).stdout)["models"]
    assert listed["packed_bytes"] == packed.stat().st_size and listed["size_bytes"] > 0
    removed = json.loads(runner.invoke(app, ["rm", "tiny", "--json"]).stdout)
    assert removed == {"removed": "tiny", "freed_bytes": listed["packed_bytes"] + listed["size_bytes"]}
    assert packed_files() == []


def test_packed_weights_may_lie_apart_from_models_that_cannot_be_written_to(
    runner: CliRunner, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = tmp_path / "apart"
    monkeypatch.setenv("DEEPWELL_PACKED_DIR", str(apart))
    pulled(runner, tiny_model, "tiny")
    load_once("tiny")
    assert packed_files() == list(apart.iterdir())
    assert runner.invoke(app, ["rm", "tiny"]).exit_code == 0
    assert packed_files() == []


def test_packed_weights_that_another_name_uses_stay(runner: CliRunner, tiny_model: Path) -> None:
    pulled(runner, tiny_model, "one")
    pulled(runner, tiny_model, "two")
    load_once("one")
    assert runner.invoke(app, ["models", "remove", "one"]).exit_code == 0
    assert len(packed_files()) == 1
    assert runner.invoke(app, ["models", "remove", "two"]).exit_code == 0
    assert packed_files() == []


def test_a_damaged_model_hides_no_other(runner: CliRunner, tiny_model: Path) -> None:
    pulled(runner, tiny_model, "one")
    pulled(runner, tiny_model, "two")
    (Settings.load().models_dir / "one/manifest.json").write_text("{")
    listed = runner.invoke(app, ["models", "list", "--json"])
    assert [model["name"] for model in json.loads(listed.stdout)["models"]] == ["two"]
    assert listed.stderr.startswith("one: ")
    assert runner.invoke(app, ["models", "remove", "two"]).exit_code == 0


def test_a_pull_refuses_what_cannot_be_served_and_leaves_nothing(runner: CliRunner, tiny_model: Path) -> None:
    config = tiny_model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["GPT2LMHeadModel"]}))
    result = runner.invoke(app, ["pull", str(tiny_model)])
    assert result.exit_code == 1 and "GPT2LMHeadModel" in result.stderr
    assert json.loads(runner.invoke(app, ["list", "--json"]).stdout)["models"] == []
    store = Settings.load().models_dir
    assert not list(store.glob("**/*.safetensors"))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_name_is_cut_or_wrapped_and_no_table_is_wider_than_the_terminal(
    runner: CliRunner, tiny_model: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    name = "a-model-with-a-long-name"
    pulled(runner, tiny_model, name)
    lines = runner.invoke(app, ["models", "list"]).output.splitlines()
    words = {word for line in lines for word in line.split()}
    assert {name, *shipped_catalog()} <= words
    assert lines[0] == "In the store:" and "In the catalog, not pulled yet:" in lines
    if width >= 60:
        table = lines[: lines.index("", lines.index("") + 1)]
        assert all(cell_len(line.rstrip()) <= width for line in table)
        assert len(table) < 4 * len(shipped_catalog()), "a table, not a block for each model"


@pytest.mark.parametrize("width", [40, 60, 120])
def test_no_key_is_cut_or_wrapped(runner: CliRunner, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    made = json.loads(runner.invoke(app, ["keys", "create", "a laptop", "--tenant", "acme", "--json"]).stdout)
    shown = runner.invoke(app, ["keys", "create", "another"]).output.splitlines()[0]
    assert shown.startswith("dw-") and len(shown) == len(made["key"])
    listed = runner.invoke(app, ["keys", "list"]).output
    assert made["id"] in listed and made["hint"] in listed and "valid" in listed


@pytest.mark.parametrize(
    ("alias", "verb"),
    [(["list"], ["models", "list"]), (["show", "tiny"], ["models", "show", "tiny"])],
    ids=["list", "show"],
)
def test_an_alias_is_the_same_verb(
    runner: CliRunner, tiny_model: Path, alias: list[str], verb: list[str]
) -> None:
    pulled(runner, tiny_model, "tiny")
    assert runner.invoke(app, alias).output == runner.invoke(app, verb).output


def test_a_path_where_a_name_is_wanted_is_told_how_it_gets_one(runner: CliRunner, tiny_model: Path) -> None:
    for verb in ("show", "remove"):
        said = runner.invoke(app, ["models", verb, str(tiny_model)]).stderr
        assert f"deepwell pull {tiny_model} --name NAME" in said


def test_rm_takes_several_and_names_the_nearest(runner: CliRunner, tiny_model: Path) -> None:
    for name in ("one", "two", "three"):
        pulled(runner, tiny_model, name)
    assert runner.invoke(app, ["rm", "one", "two"]).exit_code == 0
    assert "did you mean three?" in runner.invoke(app, ["rm", "thre"]).stderr


def test_run_answers_with_a_question_and_talks_without(runner: CliRunner, toy_server: object) -> None:
    assert runner.invoke(app, ["run", "toy", "hello", "--temperature", "0"]).output == "hello\n"
    talk = runner.invoke(app, ["run", "toy", "--temperature", "0"], input="good\n/bye\n").output
    assert "toy from" in talk and "good" in talk


def test_a_repository_is_written_as_the_hubs_show_it(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    result = runner.invoke(app, ["pull", "Qwen/Qwen2.5-0.5B-Instruct"])
    assert result.exit_code == 1 and result.stderr.count("cannot reach 127.0.0.1") == 2


def test_the_shell_completes_models(runner: CliRunner, tiny_model: Path) -> None:
    pulled(runner, tiny_model, "tiny")
    assert stored_models("t") == ["tiny"] and stored_models("x") == []
    assert "smollm2" in known_models("smol")
    environment = os.environ | {"_DEEPWELL_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from deepwell.cli import app; app(prog_name='deepwell')"]
    for line, expected in (("deepwell serve t", "tiny"), ("deepwell pull smollm2-", "smollm2-360m")):
        done = subprocess.run(
            command, env=environment | {"COMP_WORDS": line}, capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == [expected], done.stderr
