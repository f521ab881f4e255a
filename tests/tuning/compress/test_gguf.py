"""Pruned weights as GGUF, from a donor that is a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.models.builders import TINY, write_model_gguf
from tests.models.tokenizer_files import write_gguf as write_gguf_vocabulary

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.cut import cut_tensors, random_cut
from deepwell.tuning.compress.gguf import check_gguf, write_gguf
from deepwell.tuning.compress.shapes import Shape


def _vocabulary(path: Path) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    """Metadata of a vocabulary of real BPE, as a converter writes it."""
    fields = gguf.GGUFReader(write_gguf_vocabulary(path)).fields
    return {
        name: (one.contents(), one.types[0]) for name, one in fields.items() if name.startswith("tokenizer.")
    }


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_file_holds_the_same_model(architecture: str, tmp_path: Path) -> None:
    source, folder = tmp_path / "donor.gguf", tmp_path / "made"
    folder.mkdir()
    extra = _vocabulary(tmp_path / "vocabulary.gguf")
    size = len(extra["tokenizer.ggml.tokens"][0])
    config = replace(TINY, architecture=architecture, vocab_size=size, attention_bias=architecture == "qwen2")
    donor = open_checkpoint(write_model_gguf(source, config, extra=extra))
    cut = random_cut(donor.config, Shape(1, 64, 1), 0)
    smaller = cut.shape.applied(donor.config)
    weights = cut_tensors(donor.config, cut, donor.names, lambda name: donor.tensor(name).float32())
    path = folder / "model.gguf"
    write_gguf(path, donor, smaller, weights)
    found = open_checkpoint(path)
    assert found.config == smaller
    assert set(found.names) == set(weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(found.tensor(name).float32(), values, err_msg=name)
    text = "hello 12, 你好"
    assert Tokenizer.load(path).encode(text) == Tokenizer.load(source).encode(text)
    assert list(folder.iterdir()) == [path]


def test_other_donors_have_no_metadata_for_it(tmp_path: Path) -> None:
    class Folder:
        format = "safetensors"

    with pytest.raises(UnsupportedModel, match=r"model\.gguf"):
        check_gguf(Folder())  # type: ignore[arg-type]
