"""`deepwell up`: its plan, what it refuses with the setting that works, and what it keeps from other programs."""

from __future__ import annotations

import json
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.cli.up.key import first_key
from deepwell.cli.up.models import choose_models
from deepwell.cli.up.parts import api_program, jupyter_program, notebook_folder, tensorboard_program
from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.settings import Settings
from deepwell.storage.database import LOCAL

HANZI = re.compile(r"[\u4e00-\u9fff]")
QUIET = ("--no-tensorboard", "--no-jupyter", "--port", "0")


def planned(runner: CliRunner, *arguments: str) -> dict[str, Any]:
    result = runner.invoke(app, ["up", *arguments, "--dry-run", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def refused(runner: CliRunner, *arguments: str) -> str:
    result = runner.invoke(app, ["up", *arguments, "--dry-run"])
    assert result.exit_code == 1, result.output
    return result.stderr


def test_the_plan_names_parts_model_precision_memory_and_batch_size(
    runner: CliRunner, tiny_model: Path
) -> None:
    plan = planned(runner, str(tiny_model), *QUIET, "--precision", "fp16", "--batch-size", "16")
    assert plan["precision"] == "fp16" and plan["batch_size"] == 16 and plan["tensor_parallel"] == 1
    (model,) = plan["models"]
    assert model["name"] == "tiny" and model["memory"]["precision"] == "fp16"
    assert model["memory"]["total_bytes"] > model["memory"]["weights_bytes"] > 0
    (api,) = plan["parts"]
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", api["url"]) and api["missing"] is None
    text = runner.invoke(app, ["up", str(tiny_model), *QUIET, "--dry-run"]).output
    assert "batch size: 64 sequences" in text and "weights" in text and "API and console" in text
    assert not (Settings.load().data_dir / "up.json").exists()


def test_the_plan_speaks_the_language_of_the_terminal(
    runner: CliRunner, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    text = runner.invoke(app, ["up", str(tiny_model), *QUIET, "--dry-run"]).output
    assert all(HANZI.search(line) for line in text.splitlines() if not line.startswith("tiny  "))
    assert "weights" not in text and "available" not in text
    assert not HANZI.search(json.dumps(planned(runner, str(tiny_model), *QUIET), ensure_ascii=False))


def test_auto_is_a_batch_size(runner: CliRunner, tiny_model: Path) -> None:
    assert planned(runner, str(tiny_model), *QUIET, "--batch-size", "auto")["batch_size"] == 64
    assert "batch_size" in refused(runner, str(tiny_model), *QUIET, "--batch-size", "0")


def test_a_model_that_is_not_here_is_to_be_pulled_and_not_now(runner: CliRunner) -> None:
    plan = planned(runner, "smollm2", *QUIET)
    assert plan["models"] == [{"name": "smollm2", "path": None, "pull": True}]
    assert "smolm2" in refused(runner, "smolm2", *QUIET)


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("--tensor-parallel", "2"), "--tensor-parallel 1 or auto"),
        (("--tensor-parallel", "x"), "auto, 1"),
        (("--gpus", "99"), "leave --gpus out"),
        (("--gpus", "some"), "all"),
        (("--improve",), "leave --improve out"),
        (("--knowledge", "./nowhere"), "folder"),
        (("--model-path", "./nowhere"), "-v ./models:/models"),
        (("--policy", "strct"), "strict"),
        (("--precision", "int5"), "auto, int8, int4"),
        (("--tensorboard-port", "8000", "--port", "8000"), "--tensorboard-port 8001"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_with_the_setting_that_works(
    runner: CliRunner,
    tiny_model: Path,
    arguments: tuple[str, ...],
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
    extras: Path,
) -> None:
    assert extras
    assert fix in refused(runner, str(tiny_model), *arguments)
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert HANZI.search(refused(runner, str(tiny_model), *arguments))


@pytest.fixture
def extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages by the names of the extras, to be found and not to be run."""
    folder = tmp_path / "extras"
    for name in ("tensorboard", "jupyterlab"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.parametrize("part", ["tensorboard", "jupyter"])
def test_a_port_that_is_taken_names_its_owner_and_the_option(
    runner: CliRunner, tiny_model: Path, extras: Path, part: str
) -> None:
    assert extras
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(runner, str(tiny_model), "--port", "0", f"--{part}-port", str(port))
    assert f"port {port}" in said and "pid" in said
    assert f"--{part}-port {port + 1} or --no-{part}" in said


def test_an_extra_that_is_missing_is_one_line_and_the_rest_starts(
    runner: CliRunner, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.cli.up.plan.has_modules", lambda name: name == "deepwell")
    arguments = (str(tiny_model), "--port", "0")
    parts = {one["name"]: one["missing"] for one in planned(runner, *arguments)["parts"]}
    assert parts["api"] is None
    assert parts["tensorboard"] == "deepwell[tensorboard]" and parts["jupyter"] == "deepwell[jupyter]"
    text = runner.invoke(app, ["up", *arguments, "--dry-run"]).output
    lines = [line for line in text.splitlines() if "pip install" in line]
    assert len(lines) == 2 and "pip install 'deepwell[jupyter]'" in lines[1] and "--no-jupyter" in lines[1]


def test_a_path_is_a_model_a_folder_of_models_a_store_or_one_to_be(tmp_path: Path, tiny_model: Path) -> None:
    settings = Settings.load()
    assert choose_models(settings, (), tiny_model).names == (str(tiny_model),)
    folder = tmp_path / "models"
    folder.mkdir()
    empty = choose_models(settings, (), folder)
    assert empty.models_dir == folder and empty.missing == ("smollm2",)
    (folder / "a.gguf").touch()
    assert choose_models(settings, (), folder).names == (str(folder / "a.gguf"),)
    (folder / "b").symlink_to(tiny_model)
    with pytest.raises(InvalidRequest, match=r"several models: a, b: .*deepwell up a --model-path"):
        choose_models(settings, (), folder)
    assert choose_models(settings, ("b",), folder).names == (str(folder / "b"),)
    assert choose_models(settings, ("smollm2",), folder).missing == ("smollm2",)
    with pytest.raises(ModelNotFound):
        choose_models(settings, ("./nothing.gguf",), folder)
    store = tmp_path / "store"
    (store / "mine").mkdir(parents=True)
    (store / "mine" / "manifest.json").write_text("{}")
    with pytest.raises(ModelNotFound):  # another model than that of the store
        choose_models(settings, ("other",), store)


def test_a_container_listens_to_others_and_shows_its_key_once(
    runner: CliRunner, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_CONTAINER", "1")
    plan = planned(runner, str(tiny_model), *QUIET)
    assert plan["host"] == "0.0.0.0" and plan["container"]
    assert planned(runner, str(tiny_model), *QUIET, "--host", "127.0.0.1")["host"] == "127.0.0.1"
    settings = Settings.load(host="0.0.0.0")
    key, note = first_key(settings)
    assert key.startswith("dw-") and note is not None and key in note.said("en")
    again, note = first_key(settings)
    said = "" if note is None else note.said("en")
    assert again == "" and key not in said and key[-4:] in said and "first start" in said
    listed = json.loads(runner.invoke(app, ["keys", "list", "--json"]).output)["keys"]
    assert [(one["tenant"], one["scopes"]) for one in listed] == [(LOCAL, ["inference", "files"])]
    runner.invoke(app, ["keys", "revoke", listed[0]["id"]])
    assert first_key(settings) == ("", None)  # its owner closed the door


def test_a_container_with_a_key_of_its_own_gets_no_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPWELL_API_KEYS", "a-key-that-was-given")
    assert first_key(Settings.load()) == ("", None)
    assert not (home / "data" / "deepwell.db").exists()


def test_elsewhere_other_machines_are_let_in_when_asked_alone(runner: CliRunner, tiny_model: Path) -> None:
    assert planned(runner, str(tiny_model), *QUIET)["host"] == "127.0.0.1"
    result = runner.invoke(app, ["up", str(tiny_model), *QUIET, "--host", "0.0.0.0"])
    assert result.exit_code == 1 and "deepwell keys create" in result.stderr


def test_programs_that_run_code_get_no_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEEPWELL_API_KEYS", "DEEPWELL_API_KEY", "DEEPWELL_DATABASE_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret-secret-secret")
    jupyter, token = jupyter_program(home / "data", "127.0.0.1", 8888, "http://127.0.0.1:8000")
    tensorboard = tensorboard_program(home, "127.0.0.1", 6006)
    for one in (jupyter, tensorboard):
        assert "secret" not in json.dumps(dict(one.environ))
    named = {name: value for name, value in jupyter.environ.items() if name.startswith("DEEPWELL")}
    assert named == {"DEEPWELL_URL": "http://127.0.0.1:8000"}
    assert token not in json.dumps([jupyter.command, dict(jupyter.environ)]) and len(token) >= 32
    file = home / "data" / "jupyter" / "config" / "jupyter_server_config.json"
    assert token in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert jupyter.folder == file.parent, "Jupyter obeys a settings file of the folder that it starts in"
    server = json.loads(file.read_text())["ServerApp"]
    assert server["allow_unauthenticated_access"] is False and server["allow_remote_access"] is False
    assert jupyter_program(home / "data", "127.0.0.1", 8888, "http://127.0.0.1:8000")[1] != token
    api = api_program(home, ["toy"], {"port": 8000, "guard": None}, ("0.0.0.0", 8000))
    assert api.environ["DEEPWELL_API_KEYS"] and api.address == ("127.0.0.1", 8000)
    assert "--guard" not in api.command and api.required


def test_notebooks_are_copied_once_and_never_over_changes(tmp_path: Path) -> None:
    folder = notebook_folder(tmp_path)
    names = sorted(one.name for one in folder.iterdir())
    assert len(names) == 6
    first = folder / names[0]
    first.write_text("mine")
    (folder / names[1]).unlink()
    notebook_folder(tmp_path)
    assert first.read_text() == "mine" and (folder / names[1]).exists()


def test_status_and_down_say_that_nothing_runs(runner: CliRunner) -> None:
    result = runner.invoke(app, ["status"])
    assert result.exit_code == 1 and "deepwell up" in result.output
    assert json.loads(runner.invoke(app, ["status", "--json"]).output) == {"running": False}
    result = runner.invoke(app, ["down"])
    assert result.exit_code == 1 and "deepwell up" in result.stderr
