"""Names of strangers in model cards, and weights that are no numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.tuning.compress.cut import _read_me
from deepwell.tuning.compress.sound import check_finite, check_result, in_markdown
from deepwell.tuning.train.artefact import RECORD, write_record

HOSTILE = "a](http://x)\n# Title <img src=x>\x1b[31m `code`\u202e"


def test_a_name_stays_a_name_in_a_card() -> None:
    assert in_markdown("qwen2.5-coder_0.5b") == "qwen2.5-coder_0.5b"
    card = {
        "base": HOSTILE,
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
    text = _read_me(card)
    assert [line for line in text.splitlines() if line.startswith("#")] == [text.splitlines()[0]]
    assert not {"\x1b", "\u202e"} & set(text)
    assert "](" not in text.replace("\\]", "") and "<" not in text.replace("\\<", "")


def test_a_record_takes_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    write_record(tmp_path, {"base": "a\udcff"})
    assert json.loads((tmp_path / RECORD).read_text())["base"] == "a\udcff"


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
