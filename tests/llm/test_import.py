"""`import deepwell` loads nothing else, and has the public names."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest

import deepwell

LOADED = """
import json, sys
before = set(sys.modules)
import deepwell
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# Of the standard library, those that take milliseconds.
HEAVY = {
    "asyncio",
    "concurrent",
    "dataclasses",
    "email",
    "importlib.metadata",
    "inspect",
    "json",
    "logging",
    "tomllib",
}


def test_the_import_loads_no_other_package() -> None:
    out = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(out))
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"deepwell"}
    assert {name for name in loaded if name.startswith("deepwell")} == {"deepwell"}
    before = json.loads(
        subprocess.run(
            [sys.executable, "-c", "import json, sys; print(json.dumps(sorted(sys.modules)))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert loaded & HEAVY <= set(before)


def test_the_public_names_are_there() -> None:
    assert deepwell.__version__ == version("deepwell")
    assert set(deepwell.__all__) <= set(dir(deepwell))
    for name in deepwell.__all__:
        assert getattr(deepwell, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'LLm'"):
        _ = deepwell.LLm  # type: ignore[attr-defined]


def test_the_package_is_typed() -> None:
    assert files("deepwell").joinpath("py.typed").is_file()
