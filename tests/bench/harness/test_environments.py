"""Environments of other engines: built once, resumed, and refused with a reason."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from deepwell.errors import DeepwellError
from deepwell_bench.harness.environments import Environment, Install, PeerError, environment_python

pytestmark = pytest.mark.slow


def package(folder, name):
    """A wheel with one empty module, made by hand: pip installs it without any index."""
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(wheel)


def environment(*installs, check="pass", uninstall=()):
    return Environment("toy", "DEEPWELL_BENCH_TOY", installs, check, 1, 2, 3, uninstall=uninstall)


@pytest.fixture
def console(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPWELL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DEEPWELL_BENCH_TOY", raising=False)
    return Console(record=True, width=200)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """What is left of a build that stopped once it had pip: making that takes seconds, copying it does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPWELL_HOME", str(tmp_path_factory.mktemp("bare")))
        with pytest.raises(PeerError):
            environment_python(environment(check="import nothing_yet"), Console(record=True))
        return environment().home


@pytest.fixture
def begun(bare, console):
    """The build has begun before, and stopped."""
    shutil.copytree(bare, environment().home, symlinks=True)


def build(recipe, console):
    """What was built, and what was said."""
    python = environment_python(recipe, console)
    return python, console.export_text()


def imports(python, module):
    return subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL).returncode == 0


def test_it_is_announced_with_its_cost_and_built_once(tmp_path, console):
    wanted = environment(
        Install(("--no-index", "no-such-package"), ("--no-index", package(tmp_path, "first"))),
        Install(("--no-index", package(tmp_path, "second"))),
        check="import first",
        uninstall=("second",),
    )

    python, said = build(wanted, console)
    again, silence = build(wanted, console)

    assert "1 MB to download, 2 MB on disk, about 3 minutes" in said
    assert (again, silence) == (python, "")
    assert imports(python, "first")
    assert not imports(python, "second")


@pytest.mark.usefixtures("begun")
def test_a_build_that_failed_says_why_and_goes_on_where_it_stopped(tmp_path, console):
    wheel = package(tmp_path, "first")
    with pytest.raises(PeerError, match="no-such-package") as failed:
        environment_python(
            environment(Install((wheel,)), Install(("--no-index", "no-such-package"))), console
        )
    assert "DEEPWELL_BENCH_TOY" in str(failed.value.fix)

    Path(wheel).unlink()  # what is installed already is not asked for again
    python = environment_python(environment(Install(("--no-index", "first")), check="import first"), console)

    assert imports(python, "first")


@pytest.mark.usefixtures("begun")
def test_an_environment_that_cannot_import_its_engine_is_not_finished(console):
    broken = environment(check="import engine_that_is_not_there")

    for _ in range(2):
        with pytest.raises(PeerError, match="engine_that_is_not_there"):
            environment_python(broken, console)


def test_a_named_interpreter_is_used_or_refused(tmp_path, console, monkeypatch):
    monkeypatch.setenv("DEEPWELL_BENCH_TOY", sys.executable)
    assert str(environment_python(environment(), console)) == sys.executable

    monkeypatch.setenv("DEEPWELL_BENCH_TOY", str(tmp_path / "python"))
    with pytest.raises(DeepwellError, match="cannot be run"):
        environment_python(environment(), console)
