"""Pruned weights as GGUF, from a donor that is a GGUF file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.models.builders import TINY, array_entry, string_entry, write_model_gguf
from tests.models.tokenizer_files import write_gguf as write_gguf_vocabulary

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import RopeScaling
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.cut import cut_tensors, random_cut
from deepwell.tuning.compress.gguf import check_gguf, write_gguf
from deepwell.tuning.compress.metadata import folder_entries
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


def _with_entry(source: Path, path: Path, entry: bytes) -> Path:
    """Writes a file again with one more entry in front of its metadata, and a second one that keeps tensors aligned."""
    data, pad = bytearray(source.read_bytes()), -(len(entry) + len(string_entry("pad", ""))) % 64
    data[24:24] = entry + string_entry("pad", "x" * pad)
    data[16:24] = (int.from_bytes(data[16:24], "little") + 2).to_bytes(8, "little")
    path.write_bytes(data)
    return path


def test_what_holds_for_the_donors_file_alone_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, kinds = tmp_path / "donor.gguf", gguf.GGUFValueType
    extra = {"general.alignment": (64, kinds.UINT32), "deepwell.quantised": ("{}", kinds.STRING)}
    with monkeypatch.context() as patch:
        patch.setattr("gguf.gguf_writer.GGUF_DEFAULT_ALIGNMENT", 64)
        write_model_gguf(source, extra=extra)
    nested = array_entry("nested", 9, 1, (4).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(4))
    for number, entry in enumerate((b"", array_entry("empty", 4, 0, b""), nested)):
        donor = open_checkpoint(_with_entry(source, tmp_path / f"{number}.gguf", entry) if entry else source)
        check_gguf(donor)
        kept = tmp_path / "made.partial"
        kept.write_text("of somebody else")
        path = tmp_path / f"made-{number}.gguf"
        write_gguf(path, donor, donor.config, {name: donor.tensor(name).float32() for name in donor.names})
        found = open_checkpoint(path)
        for name in donor.names:
            np.testing.assert_array_equal(found.tensor(name).float32(), donor.tensor(name).float32())
        assert not {"general.alignment", "deepwell.quantised", "empty", "nested"} & found.metadata.keys()
        assert kept.read_text() == "of somebody else"


def test_hostile_metadata_are_refused_before_they_are_copied(tmp_path: Path) -> None:
    source = write_model_gguf(tmp_path / "donor.gguf")
    many = array_entry("many", 0, 5 << 20, bytes(5 << 20))
    for entry, words in ((string_entry("GGUF.version", "x"), r"GGUF\.version"), (many, "5242880 items")):
        donor = open_checkpoint(_with_entry(source, tmp_path / "hostile.gguf", entry))
        with pytest.raises(InvalidModelFile, match=words):
            check_gguf(donor)


def test_a_file_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor = open_checkpoint(write_model_gguf(tmp_path / "donor.gguf"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    folder = tmp_path / "made"
    folder.mkdir()
    with pytest.raises(OSError, match="No space"):
        write_gguf(folder / "model.gguf", donor, donor.config, {})
    assert not list(folder.iterdir())


def test_other_donors_have_no_metadata_for_it(tmp_path: Path) -> None:
    class Folder:
        format = "safetensors"

    with pytest.raises(UnsupportedModel, match=r"model\.gguf"):
        check_gguf(Folder())  # type: ignore[arg-type]


@pytest.mark.parametrize("attention_factor", [None, 1.0, 1.5])
def test_yarn_of_a_folder_means_the_same_in_gguf(attention_factor: float | None, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_gguf_vocabulary(tmp_path / "vocabulary.gguf"))
    scaling = RopeScaling("yarn", 4.0, 32, beta_fast=16.0, attention_factor=attention_factor)
    config = replace(TINY, vocab_size=tokenizer.vocab_size, rope_scaling=scaling)
    entries = {one.key: (one.value, one.kind) for one in folder_entries(config, tokenizer, "it")}
    extra = {key: value for key, value in entries.items() if key.startswith("llama.rope.scaling.")}
    found = open_checkpoint(write_model_gguf(tmp_path / "model.gguf", extra=extra)).config
    assert found.rope_scaling == scaling
    longrope = replace(config, rope_scaling=RopeScaling("longrope", 1.0, 128, factors=(1.0,) * 8))
    with pytest.raises(UnsupportedModel, match="longrope"):
        list(folder_entries(longrope, tokenizer, "it"))
