"""Engines beyond this machine from the command line: GPUs that are asked for, and vLLM as a child that is kept."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests.engine.conformance import collect, request
from tests.engine.remote.peer import model_folder

from deepwell.cli.engines.gpus import check_devices, check_gpus, check_tensor_parallel, count_gpus
from deepwell.cli.engines.opening import open_beyond
from deepwell.cli.engines.vllm import find_vllm, vllm_program, wants_vllm
from deepwell.errors import InvalidRequest, MissingDependency
from deepwell.settings import Settings

# Stands for the Python that has vLLM: it serves vLLM's shapes on the port that it is told.
STAND_IN = """#!{python}
import os, sys
sys.path[:0] = {path!r}
import uvicorn
from tests.engine.fakes import fake_engine
from tests.engine.remote.peer import CONTEXT, Peer
assert sys.argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"], sys.argv
given = dict(zip(sys.argv[3::2], sys.argv[4::2]))
if {fails}:
    sys.exit("no such model")
peer = Peer(fake_engine(max_model_len=CONTEXT))
peer.key = os.environ["VLLM_API_KEY"]
assert "DEEPWELL_ENGINE_MODEL" not in os.environ
open({pids!r}, "a").write(f"{{os.getpid()}}\\n")
uvicorn.run(peer.app, port=int(given["--port"]), log_level="warning", lifespan="off")
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return stand_in(tmp_path)


def stand_in(folder: Path, *, fails: bool = False) -> Path:
    root = Path(__file__).parents[2]
    path = [str(root), str(root / "src")]
    file = folder / "python"
    text = STAND_IN.format(python=sys.executable, path=path, fails=fails, pids=str(folder / "pids"))
    file.write_text(text)
    file.chmod(0o755)
    return file


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def settings_of(tmp_path: Path, python: Path, **values: object) -> Settings:
    model = model_folder(tmp_path / "fake")
    (model / "model.safetensors").touch()
    given = {"model": str(model), "engine": "vllm", "vllm_python": python, "engine_wait_s": 60} | values
    return Settings(**given)  # pyright: ignore[reportArgumentType]


def test_gpus_need_vllm() -> None:
    assert check_gpus(None, 0, vllm=False) == () == check_gpus("0", 3, vllm=False)
    assert "no GPU" in check_gpus("all", 0, vllm=True)[0].said("en")
    assert "vLLM is not installed" in check_gpus("all", 2, vllm=False)[0].said("en")
    assert check_gpus("all", 2, vllm=True) == () == check_gpus("2", 2, vllm=True)
    with pytest.raises(InvalidRequest, match="more GPUs than the 2"):
        check_gpus("3", 2, vllm=True)
    with pytest.raises(InvalidRequest, match="needs vLLM"):
        check_gpus("2", 2, vllm=False)
    check_tensor_parallel("4", vllm=True)
    with pytest.raises(InvalidRequest, match="vLLM alone"):
        check_tensor_parallel("4", vllm=False)


def test_gpus_are_counted(tmp_path: Path) -> None:
    assert count_gpus(tmp_path) == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert count_gpus(tmp_path) == 2


def test_several_devices_mean_vllm(python: Path) -> None:
    settings, notes = check_devices(Settings(tensor_parallel=2, vllm_python=python))
    assert (settings.engine, notes) == ("vllm", ())
    assert not wants_vllm(Settings(gpus="0")) and not wants_vllm(Settings(tensor_parallel=1))
    with pytest.raises(InvalidRequest, match="engines of this machine"):
        check_devices(Settings(engine="http://h:8000", tensor_parallel=2))


def test_vllm_is_told_what_was_asked_for_and_no_setting(
    tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPWELL_ENGINE_KEY", "a-secret-of-deepwell")
    settings = settings_of(tmp_path, python, gpus="2", tensor_parallel=2, context=4096, precision="bf16")
    program = vllm_program(settings, "toy", tmp_path / "fake", 4711, "the-key", adapters=True)
    command = " ".join(program.command)
    for part in (
        "--tensor-parallel-size 2",
        "--max-model-len 4096",
        "--dtype bfloat16",
        "--host 127.0.0.1",
        "--enable-lora",
    ):
        assert part in command
    assert "the-key" not in command, "a list of processes shows it"
    assert program.environ["CUDA_VISIBLE_DEVICES"] == "0,1" and program.environ["VLLM_API_KEY"] == "the-key"
    assert not any(name.startswith("DEEPWELL_") for name in program.environ)
    with pytest.raises(InvalidRequest, match="precision int4"):
        vllm_program(settings_of(tmp_path, python, precision="int4"), "toy", tmp_path, 1, "k", adapters=False)


def test_a_missing_vllm_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="DEEPWELL_VLLM_PYTHON") as caught:
        find_vllm(Settings(vllm_python=tmp_path / "none"))
    assert "pip install vllm" in caught.value.fix


def test_a_file_of_ggufs_is_to_be_converted_first(tmp_path: Path, python: Path) -> None:
    settings = settings_of(tmp_path, python)
    (tmp_path / "fake" / "model.safetensors").unlink()
    with pytest.raises(InvalidRequest, match="safetensors") as caught:
        open_beyond(settings, adapters=False, as_json=True)
    assert "deepwell models export" in caught.value.fix


def test_a_vllm_that_ends_at_once_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(tmp_path, stand_in(tmp_path, fails=True))
    with pytest.raises(MissingDependency, match="ended before it served"):
        open_beyond(settings, adapters=False, as_json=True)
    assert "vllm | no such model" in capfd.readouterr().err


async def test_vllm_is_kept_and_ends_with_its_server(tmp_path: Path, python: Path) -> None:
    beyond = await asyncio.to_thread(open_beyond, settings_of(tmp_path, python), adapters=False, as_json=True)
    try:
        assert beyond.tasks == ("generate",) and beyond.settings.engine.startswith("vllm=http://127.0.0.1:")
        assert len((await collect(beyond.engine, request("a"))).tokens) == 8
        first = int((tmp_path / "pids").read_text())
        os.kill(first, 9)
        assert len((await collect(beyond.engine, request("b"))).tokens) == 8, "the next one answers"
    finally:
        await asyncio.to_thread(beyond.close)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and not any(map(is_running, pids))
