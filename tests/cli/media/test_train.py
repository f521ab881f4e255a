"""`deepwell media train`: what needs torch names the extra that brings it, before anything is read."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from typer.testing import CliRunner

from deepwell.cli import app


@pytest.mark.parametrize("command", [["image"], ["space"], ["space", "--encoder-only"]])
def test_a_training_without_torch_names_its_extra(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str, *more: Any) -> Any:
        return None if name == "torch" else find_spec(name, *more)

    monkeypatch.setattr("importlib.util.find_spec", found)
    result = CliRunner().invoke(app, ["media", "train", *command])
    assert result.exit_code == 1
    assert "torch" in result.output and "pip install 'deepwell[tune]'" in result.output
