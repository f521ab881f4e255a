"""The GGUF header parser: sound files of another writer, named attacks, and fuzzing."""

from __future__ import annotations

import struct
import tracemalloc
import weakref
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.builders import (
    GGUFBytes,
    array_entry,
    string_entry,
    tensor_entry,
    text,
    u32_entry,
    write_model_gguf,
)

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.gguf import GGML_TYPES, MAX_HEADER_BYTES, GGUFHeader, read_gguf_header


def read(tmp_path: Path, file: GGUFBytes) -> GGUFHeader:
    return read_gguf_header(file.write(tmp_path / "model.gguf"))


def test_a_header_that_somebody_holds_is_parsed_once_and_a_changed_file_again(tmp_path: Path) -> None:
    path = GGUFBytes([u32_entry("k", 1)]).write(tmp_path / "model.gguf")
    held = read_gguf_header(path)
    assert read_gguf_header(path) is held
    other = GGUFBytes([u32_entry("k", 2)]).write(tmp_path / "other.gguf")
    assert read_gguf_header(other).metadata == {"k": 2}
    other.replace(path)
    assert read_gguf_header(path).metadata == {"k": 2}
    gone = weakref.ref(held)
    del held
    assert gone() is None


def test_every_metadata_type_of_another_writer_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -5)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -7)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1e-300)
    writer.add_bool("bool", True)
    writer.add_string("string", "你好")
    writer.add_array("strings", ["a", "", "ü"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("bools", [True, False])
    writer.add_array("nested", [[1, 2], [3]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_gguf_header(tmp_path / "model.gguf").metadata
    scalars = {key: value for key, value in metadata.items() if not isinstance(value, list | np.ndarray)}
    assert scalars == {
        "general.architecture": "llama",
        "u8": 255,
        "i8": -128,
        "u16": 65535,
        "i16": -5,
        "u32": 2**32 - 1,
        "i32": -7,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 1e-300,
        "bool": True,
        "string": "你好",
    }
    assert metadata["strings"] == ["a", "", "ü"]
    assert metadata["ints"].tolist() == [1, -2, 3]
    assert metadata["bools"].tolist() == [True, False]
    assert [inner.tolist() for inner in metadata["nested"]] == [[1, 2], [3]]


def test_tensor_table_says_where_the_bytes_are(tmp_path: Path) -> None:
    values = np.arange(96, dtype=np.float32).reshape(3, 32)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_custom_alignment(64)
    writer.add_tensor("plain", values)
    writer.add_tensor("blocks", gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0), raw_dtype=8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_gguf_header(tmp_path / "model.gguf")
    plain, blocks = header.tensors["plain"], header.tensors["blocks"]
    assert (plain.shape, plain.ggml_type, plain.nbytes) == ((3, 32), "F32", 384)
    assert (blocks.shape, blocks.ggml_type, blocks.nbytes) == ((3, 32), "Q8_0", 3 * 34)
    assert header.alignment == 64
    assert plain.offset == header.data_offset
    data = (tmp_path / "model.gguf").read_bytes()[plain.offset : plain.offset + plain.nbytes]
    assert np.array_equal(np.frombuffer(data, np.float32).reshape(3, 32), values)


def test_block_sizes_are_those_of_ggml() -> None:
    for number, (name, values, nbytes) in GGML_TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (kind.value, gguf.GGML_QUANT_SIZES[kind]) == (number, (values, nbytes))


HOSTILE = {
    "magic": (GGUFBytes(magic=b"GGML"), "starts with b'GGML'"),
    "tensor count": (GGUFBytes(tensor_count=2**60), "claims 1152921504606846976 tensors"),
    "metadata count": (GGUFBytes(entry_count=2**63), "metadata entries, the header has room"),
    "key length": (GGUFBytes([struct.pack("<Q", 2**40) + bytes(32)]), "metadata key is 1099511627776 bytes"),
    "string length": (
        GGUFBytes([text("k") + struct.pack("<IQ", 8, 2**25)]),
        "needs 33554432 bytes at byte",
    ),
    "string array length": (GGUFBytes([array_entry("k", 8, 2**58, b"")]), "the file ends at"),
    "number array length": (GGUFBytes([array_entry("k", 4, 2**61, b"")]), "the file ends at"),
    "string within an array": (
        GGUFBytes([array_entry("k", 8, 2, text("a") + struct.pack("<Q", 2**50))]),
        "string 1 of metadata 'k'",
    ),
    "deep nesting": (
        GGUFBytes([array_entry("k", 9, 1, struct.pack("<IQ", 9, 1) * 500)]),
        "nests arrays deeper",
    ),
    "value type": (GGUFBytes([text("k") + struct.pack("<II", 77, 0)]), "unknown value type 77"),
    "array value type": (GGUFBytes([array_entry("k", 13, 0, b"")]), "unknown value type 13"),
    "boolean": (GGUFBytes([text("k") + struct.pack("<IB", 7, 2)]), "boolean with the value 2"),
    "text encoding": (GGUFBytes([text("k") + struct.pack("<IQ", 8, 2) + b"\xff\xfe"]), "not UTF-8"),
    "array text encoding": (
        GGUFBytes([array_entry("k", 8, 1, struct.pack("<Q", 2) + b"\xff\xfe")]),
        "string 0 .* not UTF-8",
    ),
    "duplicate key": (GGUFBytes([string_entry("k", "a"), string_entry("k", "b")]), "'k' appears twice"),
    "alignment": (GGUFBytes([u32_entry("general.alignment", 24)]), "alignment 24"),
    "zero alignment": (GGUFBytes([u32_entry("general.alignment", 0)]), "alignment 0"),
    "duplicate tensor": (
        GGUFBytes(tensors=[tensor_entry("a", [8]), tensor_entry("a", [8], offset=32)]),
        "'a' appears twice",
    ),
    "unaligned tensor": (GGUFBytes(tensors=[tensor_entry("a", [4], offset=8)]), "not a multiple of 32"),
    "overlap": (
        GGUFBytes(tensors=[tensor_entry("a", [16]), tensor_entry("b", [8], offset=32)]),
        "'a' and 'b' overlap",
    ),
    "same place": (GGUFBytes(tensors=[tensor_entry("a", [8]), tensor_entry("b", [8])]), "overlap"),
    "beyond the end": (GGUFBytes(tensors=[tensor_entry("a", [17])]), "ends at byte"),
    "offset overflow": (
        GGUFBytes(tensors=[tensor_entry("a", [8], offset=2**64 - 32)]),
        "ends at byte 18446744073709551",
    ),
    "dimensions": (GGUFBytes(tensors=[tensor_entry("a", [1] * 5)]), "5 dimensions"),
    "no dimensions": (GGUFBytes(tensors=[tensor_entry("a", []), tensor_entry("b", [8])]), "0 dimensions"),
    "empty dimension": (GGUFBytes(tensors=[tensor_entry("a", [8, 0])]), "dimension of zero"),
    "size overflow": (GGUFBytes(tensors=[tensor_entry("a", [2**32, 2**32, 16])]), "claims"),
    "partial block": (
        GGUFBytes(tensors=[tensor_entry("a", [48], kind=8)]),
        "48 values, not a multiple of Q8_0",
    ),
    "tensor name": (GGUFBytes(tensors=[tensor_entry("n" * 300, [8])]), "name is 300 bytes"),
}


@pytest.mark.parametrize(("file", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_file_is_refused_with_its_reason(tmp_path: Path, file: GGUFBytes, reason: str) -> None:
    with pytest.raises(InvalidModelFile, match=reason):
        read(tmp_path, file)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (GGUFBytes(version=1), "version 1"),
        (GGUFBytes(version=0x03000000), "big-endian"),
        (GGUFBytes(tensors=[tensor_entry("a", [8], kind=99)]), "ggml type 99"),
    ],
    ids=["old version", "big endian", "tensor type"],
)
def test_what_deepwell_does_not_know_is_unsupported(tmp_path: Path, file: GGUFBytes, reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        read(tmp_path, file)


@pytest.mark.parametrize("size", [0, 1, 23])
def test_file_shorter_than_a_header_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF"[:size] + bytes(max(0, size - 4)))
    with pytest.raises(InvalidModelFile, match=f"{size} bytes"):
        read_gguf_header(path)


def test_header_size_is_bounded_whatever_the_file_size(tmp_path: Path) -> None:
    """A sparse file of 4 GiB backs a claimed array of 2 GiB: nothing near that size is allocated."""
    path = GGUFBytes([array_entry("k", 0, 2 << 30, b"")]).write(tmp_path / "model.gguf")
    with path.open("r+b") as file:
        file.truncate(4 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModelFile, match=f"larger than {MAX_HEADER_BYTES >> 20} MiB"):
            read_gguf_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_many_tiny_strings_are_bounded(tmp_path: Path) -> None:
    """24 MB of empty strings would become 3 million objects."""
    path = GGUFBytes([array_entry("k", 8, 3 << 20, b"")]).write(tmp_path / "model.gguf")
    with path.open("r+b") as file:
        file.truncate(64 << 20)
    with pytest.raises(InvalidModelFile, match="strings and arrays"):
        read_gguf_header(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    words = (["<s>", "a", "b"], gguf.GGUFValueType.ARRAY)
    path = write_model_gguf(
        tmp_path_factory.mktemp("fuzz") / "m.gguf", extra={"tokenizer.ggml.tokens": words}
    )
    return path.read_bytes()


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    """Positions (as a share of 2^16 of the header or the whole file) and what is written there."""
    edits = st.tuples(st.integers(0, 1 << 16), st.one_of(st.binary(min_size=1, max_size=9), EXTREMES))
    return draw(st.lists(edits, min_size=1, max_size=4))


EXTREMES = st.sampled_from([struct.pack("<Q", n) for n in (0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)])


@given(edits=damage(), cut=st.none() | st.integers(0, 1 << 16), splice=st.none() | st.integers(0, 1 << 16))
def test_damaged_file_is_read_or_refused_in_bounded_memory(
    sound: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[int, bytes]],
    cut: int | None,
    splice: int | None,
) -> None:
    header_bytes = 3000  # nearly all the structure lies here
    data = bytearray(sound)
    for place, written in edits:
        start = place * header_bytes >> 16
        data[start : start + len(written)] = written
    if splice is not None:
        start = splice * header_bytes >> 16
        data[start:start] = data[start // 2 : start]
    if cut is not None:
        del data[cut * len(data) >> 16 :]
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        read_gguf_header(path)
    except (InvalidModelFile, UnsupportedModel) as error:
        assert len(str(error)) < 1000  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.model
def test_real_header(smollm2_path: Path) -> None:
    header = read_gguf_header(smollm2_path)
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 49152
    assert header.tensors["token_embd.weight"].shape == (49152, 576)
    last = max(header.tensors.values(), key=lambda info: info.offset)
    assert last.offset + last.nbytes <= header.file_bytes
