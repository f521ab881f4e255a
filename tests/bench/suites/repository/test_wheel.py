"""A wheel holds what it must, and nothing that it must not."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from deepwell_bench.suites.repository.wheel import wheel_faults

pytestmark = pytest.mark.native


def module() -> bytes:
    spec = importlib.util.find_spec("deepwell._native")
    assert spec and spec.origin
    return Path(spec.origin).read_bytes()


def good() -> dict[str, bytes]:
    return {
        "deepwell/__init__.py": b"",
        "deepwell/py.typed": b"",
        "deepwell/_native.abi3.so": module(),
        "deepwell-0.1.0.dist-info/licenses/LICENSE": b"",
    }


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    wheel = folder / "deepwell-0.1.0-cp312-abi3-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel


def test_the_module_as_it_is_built_has_no_fault(tmp_path: Path) -> None:
    wheel = write(tmp_path, good())
    assert wheel_faults(wheel, (Path(__file__).parents[4], Path.home())) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"deepwell/py.typed": None}, "no py.typed"),
        ({"deepwell-0.1.0.dist-info/licenses/LICENSE": None}, "no licence"),
        ({"deepwell/_native.abi3.so": None}, "0 compiled modules"),
        ({"deepwell/_native.cpython-311.so": b""}, "2 compiled modules"),
        ({"deepwell/__pycache__/x.pyc": b""}, "x.pyc does not belong there"),
        ({"csrc/pool.cpp": b""}, "csrc/pool.cpp does not belong there"),
        ({"deepwell/_native.abi3.so": module() + b"/home/ada/deepwell/csrc"}, "names /home/ada"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, changes: Mapping[str, bytes | None], fault: str) -> None:
    files = {name: data for name, data in (good() | dict(changes)).items() if data is not None}
    faults = wheel_faults(write(tmp_path, files), (Path("/home/ada"),))
    assert len(faults) == 1 and fault in faults[0]
