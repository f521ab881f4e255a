"""`import deepwell` loads nothing else, and has the public names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import deepwell

LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import deepwell
print(*sorted(set(sys.modules) - before))
"""


def test_the_import_loads_nothing_else() -> None:
    """Neither numpy, pydantic and tokenizers, nor the larger modules of the standard library."""
    # Without site-packages: the import hook of an editable install has imports of its own.
    command = [sys.executable, "-I", "-S", "-c", LOADED, str(Path(deepwell.__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__future__", "deepwell"]


def test_the_public_names_are_there() -> None:
    assert deepwell.__version__ == version("deepwell")
    assert set(deepwell.__all__) <= set(dir(deepwell))
    for name in deepwell.__all__:
        assert getattr(deepwell, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'LLm'"):
        _ = deepwell.LLm  # type: ignore[attr-defined]


def test_the_package_is_typed() -> None:
    assert files("deepwell").joinpath("py.typed").is_file()
