"""Names of strangers in model cards, and weights that are no numbers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.models.builders import write_model_gguf
from tests.models.tokenizer_files import write_directory

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.cut import _read_me, write_cut
from deepwell.tuning.compress.sound import (
    check_finite,
    check_result,
    in_command,
    in_front_matter,
    in_markdown,
)
from deepwell.tuning.train.artefact import RECORD, write_record

HOSTILE = "a](http://x)\n# Title <img src=x>\x1b[31m `code`\u202e"


CARD = {
    "base": HOSTILE,
    "license": HOSTILE,
    "cut": 0.2,
    "parameters": 8,
    "base_parameters": 10,
    "shape": {"layers": 1, "channels": 2, "kv_heads": 1},
    "layers": [0],
    "calibration": {"tokens": 1, "sha256": "0"},
    "recovery": {},
    "loss_before": 1.0,
    "loss": 1.0,
}


def test_a_name_stays_a_name_in_a_card() -> None:
    assert in_markdown("qwen2.5-coder_0.5b") == "qwen2.5-coder_0.5b"
    text = _read_me(CARD)
    _, head, body = text.split("---\n", 2)
    assert [line for line in text.splitlines() if line.startswith("#")] == [body.strip().splitlines()[0]]
    told = yaml.safe_load(head)
    assert told.keys() == {"base_model", "license", "library_name"} and "\n" not in told["base_model"]
    assert told["base_model"].startswith("a](http://x) # Title <img src=x>") and "--against DONOR" in body
    assert not {"\x1b", "\u202e"} & set(text)
    assert "](" not in text.replace("\\]", "") and "<" not in text.replace("\\<", "")


@pytest.mark.parametrize(
    "name", ["tiny", "qwen2.5-coder_0.5b", "my model", "3e5", "no", "a: b", "a'b\\", "---", "{", "$(ls)"]
)
def test_a_name_is_whole_in_front_matter_and_in_commands(name: str) -> None:
    assert yaml.safe_load(f"base_model: {in_front_matter(name)}\n") == {"base_model": name}
    assert shlex.split(in_command(name, "DONOR")) == ["DONOR" if "\\" in name else name]
    assert in_front_matter("tiny") == in_command("tiny", "DONOR") == "tiny"


def test_a_record_takes_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    write_record(tmp_path, {"base": "a\udcff"})
    assert json.loads((tmp_path / RECORD).read_text())["base"] == "a\udcff"


def test_a_folder_has_its_name_only_with_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    donor = open_checkpoint(write_model_gguf(tmp_path / "donor.gguf"))
    weights = {name: donor.tensor(name).float32() for name in donor.names}
    tokenizer = Tokenizer.load(write_directory(tmp_path / "tokenizer"))
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        assert {RECORD, "README.md"} <= {one.name for one in path.iterdir()}
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    write_cut(tmp_path / "made", donor.config, weights, tokenizer, CARD)
    assert json.loads((tmp_path / "made" / RECORD).read_text())["base"] == HOSTILE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    check_finite("w", np.ones(3, np.float32))
    with pytest.raises(InvalidModelFile, match="weights of w"):
        check_finite("w", np.array([1, value], np.float32))
    with pytest.raises(UnsupportedModel, match="no numbers"):
        check_result(value)


def test_weights_beyond_the_scales_of_blocks_are_named() -> None:
    check_finite("w", np.array([-65504.0]), 65504.0)
    with pytest.raises(InvalidModelFile, match=r"reach 1e\+30"):
        check_finite("w", np.array([1, -1e30]), 65504.0)
