"""E5S1 files: an encoder and its vocabulary in one file. A sound file is read whole, and any other ends as an error."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.e5_files import PIECES, REPLACEMENTS, SCORES, SIZES, e5_bytes, tensors, write_e5

from deepwell.errors import DeepwellError, InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.e5 import read_e5_vocabulary
from deepwell.models.store.store import ModelStore
from deepwell.models.text.hosted import HostedTokenizer, open_tokenizer
from deepwell.models.text.tokenizer import Tokenizer

SOUND = e5_bytes()
Entries = list[tuple[bytes, int, int, int, int]]


def test_a_sound_file_is_a_bert_with_mean_pooling(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_e5(tmp_path / "model.bin"))
    config = checkpoint.config
    assert (config.architecture, config.pooling, config.is_encoder) == ("bert", "mean", True)
    assert (config.hidden_size, config.num_hidden_layers, config.max_position_embeddings) == (32, 1, 8)
    assert (config.layer_norm_eps, config.type_vocab_size, config.pad_token_id) == (1e-12, 1, 1)
    assert checkpoint.source_bits == 4
    stored = tensors()
    positions = checkpoint.tensor("embeddings.position_embeddings.weight").float32()
    assert np.array_equal(positions, stored["emb.pos"])
    up = checkpoint.tensor("encoder.layer.0.intermediate.dense.weight").float32()
    assert up.shape == (64, 32) and np.abs(up - stored["l0.fi.w"]).max() < 0.3


def test_the_vocabulary_is_read_with_its_normalisation(tmp_path: Path) -> None:
    vocabulary = read_e5_vocabulary(write_e5(tmp_path / "model.bin"))
    assert vocabulary.pieces == PIECES
    assert np.allclose(vocabulary.scores, SCORES)
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad, vocabulary.unk) == (0, 2, 1, 3)
    assert vocabulary.replacements == REPLACEMENTS


def test_its_tokens_are_the_most_probable_pieces_between_the_frame(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_e5(tmp_path / "model.bin"))
    assert (tokenizer.kind, tokenizer.prefix_ids, tokenizer.suffix_ids) == ("unigram", (0,), (2,))
    spelt = [tokenizer.spelling(token) for token in tokenizer.encode("\tＡab 京e\u0301 \x01 ﬀ?")]
    assert spelt == ["▁a", "ab", "▁", "京", "é", "▁", "b", "b", "<unk>"]
    assert tokenizer.decode(tokenizer.encode("  a   ab京 ")) == "a ab京"
    assert tokenizer.token_bytes(6) == b" a"


def test_a_strangers_file_is_tokenised_in_a_process_with_limits(tmp_path: Path) -> None:
    path = write_e5(tmp_path / "model.bin")
    hosted = open_tokenizer(path)
    assert isinstance(hosted, HostedTokenizer)
    try:
        own = Tokenizer.load(path)
        for text in ("", "a Ａ京", "e\u0301 \t?", "<s> a"):
            assert hosted.encode(text) == own.encode(text)
            assert hosted.decode(own.encode(text)) == own.decode(own.encode(text))
        assert [hosted.spelling(i) for i in range(13)] == list(PIECES)
        assert hosted.fewest_tokens("a" * 1000) == 0
    finally:
        hosted.process.close()


def test_the_store_takes_a_file_from_disk(tmp_path: Path) -> None:
    source = write_e5(tmp_path / "model.bin")
    stored = ModelStore(tmp_path / "store").pull(str(source))
    assert stored.path.name == "model.bin"
    assert stored.manifest is not None and stored.manifest.architecture == "bert"
    assert open_checkpoint(stored.path.parent).config == open_checkpoint(source).config
    (tmp_path / "LICENSE").write_text("MIT")
    copied = ModelStore(tmp_path / "store").pull(str(tmp_path), name="copied")
    assert copied.manifest is not None and {f.name for f in copied.manifest.files} == {"LICENSE", "model.bin"}


def test_other_bin_files_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DeepwellError):
        open_checkpoint(tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidModelFile):
        ModelStore(tmp_path / "store").pull(str(tmp_path / "pytorch_model.bin"))


def first(change: Callable[[list[Any]], None]) -> Callable[[Entries], Entries]:
    """Changes the first entry of the tensor table: name, kind, count, offset, bytes."""

    def changed(entries: Entries) -> Entries:
        entry: list[Any] = list(entries[0])
        change(entry)
        return [tuple(entry), *entries[1:]]  # pyright: ignore[reportReturnType]

    return changed


def put(index: int, value: Any) -> Callable[[Entries], Entries]:
    return first(lambda entry: entry.__setitem__(index, value))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": b"E5S2"}, "model.bin"),
        ({"version": 2}, "version"),
        ({"block": 64}, "blocks of 64"),
        ({"eps": 0.0}, "epsilon"),
        ({"eps": float("nan")}, "epsilon"),
        ({"sizes": SIZES | {"hidden": -1}}, "not positive"),
        ({"sizes": SIZES | {"heads": 5}}, "do not divide"),
        ({"sizes": SIZES | {"hidden": 64}}, "values, the sizes say"),
        ({"sizes": SIZES | {"layers": 2_000_000}}, "num_hidden_layers"),
        ({"sizes": SIZES | {"vocab": 4}}, "embeddings"),
        ({"sizes": SIZES | {"types": 2_000}}, "type_vocab_size"),
        ({"count": 1 << 20}, "pieces"),
        ({"count": -1}, "pieces"),
        ({"special": (0, 2, 1, 99)}, "special tokens"),
        ({"special": (0, 0, 1, 3)}, "special tokens"),
        ({"tensors": 1 << 30}, "do not fit"),
        ({"tensors": -1}, "do not fit"),
        ({"entries": put(1, 7)}, "unknown kind"),
        ({"entries": put(2, 0)}, "0 values"),
        ({"entries": put(4, 1)}, "in 1 bytes"),
        ({"entries": put(3, 0)}, "overlaps"),
        ({"entries": put(3, 1 << 60)}, "ends at byte"),
        ({"entries": put(0, b"emb.pos")}, "twice"),
        ({"entries": put(0, b"l01.q.w")}, "no model of this kind"),
        ({"entries": put(0, b"l.q.w")}, "no model of this kind"),
        ({"entries": put(0, b"l10.fi.w")}, "belongs to no model"),
        ({"entries": put(0, b"x" * 100)}, "100 bytes"),
        ({"values": {name: one for name, one in tensors().items() if name != "l0.fo.w"}}, "missing"),
    ],
)
def test_an_unsound_header_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_e5(tmp_path / "model.bin", **changes)
    with pytest.raises((InvalidModelFile, UnsupportedModel)) as caught:
        open_checkpoint(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pieces": (*PIECES[:-1], PIECES[4])}, "twice"),
        ({"pieces": (*PIECES[:-1], b"\xff")}, "UTF-8"),
        ({"pieces": (*PIECES[:-1], "")}, "divide"),
        ({"pieces": (*PIECES[:-1], "x" * 2000)}, "2000 bytes"),
        ({"scores": (*SCORES[:-1], float("nan"))}, "finite"),
        ({"rules": struct.pack("<iI", 1 << 30, 0)}, "replaced"),
        ({"rules": struct.pack("<iIIBI", 1, 9, 0x41, 1, 0xD800)}, "no character"),
        ({"rules": struct.pack("<iIIBI", 1, 9, 0x110000, 1, 0x41)}, "no character"),
        ({"rules": struct.pack("<iIIBI", 1, 9, 0x41, 200, 0x41)}, "cut off"),
        ({"rules": struct.pack("<iIIBI", 1, 9, 0x41, 0, 0x41)}, "left over"),
        ({"rules": struct.pack("<iIIBI", 1, 9, 0x41, 1, 0)}, "U+0000"),
        ({"rules": struct.pack("<iIIB255I", 1, 1025, 0x41, 255, *[0x4E2D] * 255)}, "bytes of one"),
    ],
)
def test_an_unsound_vocabulary_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_e5(tmp_path / "model.bin", **changes)
    with pytest.raises(InvalidModelFile) as caught:
        Tokenizer.load(path)
    assert reason in str(caught.value)


@settings(max_examples=150)
@given(data=st.data())
def test_any_damage_ends_as_an_error_or_as_a_model(tmp_path_factory: Any, data: st.DataObject) -> None:
    damaged = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(damaged) - 1))
        damaged[where] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    cut = data.draw(st.integers(0, len(damaged)))
    kept = bytes(damaged[:cut] if data.draw(st.booleans()) else damaged)
    path = tmp_path_factory.mktemp("e5") / "model.bin"
    path.write_bytes(kept)
    for read in (open_checkpoint, Tokenizer.load):
        try:
            read(path)
        except DeepwellError:
            continue
