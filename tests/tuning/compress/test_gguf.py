"""Pruned weights as GGUF, from a donor that is a GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.cut import cut_tensors, random_cut
from deepwell.tuning.compress.gguf import check_gguf, write_gguf
from deepwell.tuning.compress.shapes import Shape


@pytest.mark.model
def test_the_file_holds_the_same_model(smollm2_path: Path, tmp_path: Path) -> None:
    donor = open_checkpoint(smollm2_path)
    cut = random_cut(donor.config, Shape(2, 64, 2), 0)
    config = cut.shape.applied(donor.config)

    def tensor(name: str) -> np.ndarray:
        return donor.tensor(name).float32()

    needed = tuple(
        name
        for name in donor.names
        if not name.startswith("model.layers.") or int(name.split(".")[2]) in cut.layers
    )
    weights = cut_tensors(donor.config, cut, needed, tensor)
    path = tmp_path / "model.gguf"
    write_gguf(path, donor, config, weights)
    found = open_checkpoint(path)
    assert found.config == config
    assert set(found.names) == set(weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(found.tensor(name).float32(), values, err_msg=name)
    text = "A quick test, 一次快速的测试。"
    assert Tokenizer.load(path).encode(text) == Tokenizer.load(smollm2_path).encode(text)
    assert list(tmp_path.iterdir()) == [path]


def test_other_donors_have_no_metadata_for_it(tmp_path: Path) -> None:
    class Folder:
        format = "safetensors"

    with pytest.raises(UnsupportedModel, match=r"model\.gguf"):
        check_gguf(Folder())  # type: ignore[arg-type]
