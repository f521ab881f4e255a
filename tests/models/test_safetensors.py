"""The safetensors header parser: the reference implementation's files, named attacks, and fuzzing."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.models.builders import crafted_safetensors, safetensors_bytes

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.safetensors import (
    MAX_HEADER_BYTES,
    read_json,
    read_safetensors_header,
    read_safetensors_index,
)


def test_header_of_the_reference_writer_is_read(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    infos = read_safetensors_header(path)
    assert {(info.name, info.dtype, info.shape) for info in infos.values()} == {
        ("a", "F32", (2, 3)),
        ("b", "F16", (5,)),
    }
    data = path.read_bytes()
    for name, values in tensors.items():
        info = infos[name]
        assert data[info.offset : info.offset + info.nbytes] == values.tobytes()


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "header length": (crafted_safetensors({}, header_bytes=MAX_HEADER_BYTES + 1), "at most"),
    "header beyond the end": (crafted_safetensors({}, header_bytes=1000), "claims 1000 bytes"),
    "not an object": (crafted_safetensors([1, 2]), "not a JSON object"),
    "not JSON": (crafted_safetensors(b'{"a": '), "not JSON"),
    "not UTF-8": (crafted_safetensors(b'{"\xff\xfe": 1}'), "not JSON"),
    "deep nesting": (crafted_safetensors(b'{"a":' + b"[" * 200_000), "not JSON"),
    "digits": (crafted_safetensors(b'{"a":' + b"9" * 10_000 + b"}"), "not JSON"),
    "duplicate name": (
        crafted_safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
        "same key twice",
    ),
    "entry": (crafted_safetensors({"a": 3}, bytes(8)), "not described by an object"),
    "dtype": (crafted_safetensors({"a": entry("Q4")}, bytes(8)), "unknown dtype 'Q4'"),
    "unhashable dtype": (crafted_safetensors({"a": entry(["F32"])}, bytes(8)), "unknown dtype"),
    "shape": (crafted_safetensors({"a": entry(shape="2")}, bytes(8)), "no shape"),
    "dimensions": (crafted_safetensors({"a": entry(shape=[1] * 9)}, bytes(8)), "no shape of at most 8"),
    "negative": (crafted_safetensors({"a": entry(shape=[-2, -1])}, bytes(8)), "not made of sizes"),
    "fraction": (crafted_safetensors({"a": entry(shape=[2.0])}, bytes(8)), "not made of sizes"),
    "boolean": (crafted_safetensors({"a": entry(shape=[True, 2])}, bytes(8)), "not made of sizes"),
    "shape overflow": (crafted_safetensors({"a": entry(shape=[2**62, 8])}, bytes(8)), "offsets span 8"),
    "offsets": (crafted_safetensors({"a": entry(offsets=[0])}, bytes(8)), "no pair"),
    "reversed": (crafted_safetensors({"a": entry(offsets=[8, 0])}, bytes(8)), "lies at 8..0"),
    "out of range": (crafted_safetensors({"a": entry(offsets=[0, 16], shape=[4])}, bytes(8)), "has 8 bytes"),
    "overlap": (
        crafted_safetensors({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
        "'a' and 'b' overlap",
    ),
    "same place": (crafted_safetensors({"a": entry(), "b": entry()}, bytes(8)), "overlap"),
    "hole": (
        crafted_safetensors({"a": entry(), "b": entry(offsets=[16, 24])}, bytes(24)),
        "leave a hole",
    ),
    "hidden tail": (crafted_safetensors({"a": entry()}, bytes(20)), "12 bytes after the last tensor"),
    "empty file": (b"", "0 bytes"),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_file_is_refused_with_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidModelFile, match=reason):
        read_safetensors_header(path)


def test_claimed_header_is_not_read_before_it_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(crafted_safetensors({}, header_bytes=MAX_HEADER_BYTES - 1))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidModelFile):
            read_safetensors_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()


def shard(name: str) -> bytes:
    return safetensors_bytes({name: ("F32", (2,), bytes(8))})


def write_index(directory: Path, weight_map: Any) -> Path:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def test_index_joins_shards(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(shard("a"))
    (tmp_path / "two.safetensors").write_bytes(shard("b"))
    infos = read_safetensors_index(write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}))
    assert {name: info.path.name for name, info in infos.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }


@pytest.mark.parametrize(
    "name",
    [
        "../one.safetensors",
        "/etc/one.safetensors",
        "a/b.safetensors",
        "..\\one.safetensors",
        "one.bin",
        "",
        3,
    ],
)
def test_shard_outside_the_directory_is_refused(tmp_path: Path, name: Any) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "one.safetensors").write_bytes(shard("a"))
    with pytest.raises(InvalidModelFile, match="not a plain file name"):
        read_safetensors_index(write_index(inside, {"a": name}))


def test_missing_shard_and_missing_tensor_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(shard("a"))
    with pytest.raises(InvalidModelFile, match=r"two\.safetensors.*missing"):
        read_safetensors_index(write_index(tmp_path, {"b": "two.safetensors"}))
    with pytest.raises(InvalidModelFile, match="does not hold 'b'"):
        read_safetensors_index(write_index(tmp_path, {"b": "one.safetensors"}))
    with pytest.raises(InvalidModelFile, match="no weight_map"):
        read_safetensors_index(write_index(tmp_path, []))


def test_which_file_is_the_model_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match="holds no safetensors"):
        read_safetensors_index(tmp_path)
    (tmp_path / "one.safetensors").write_bytes(shard("a"))
    assert list(read_safetensors_index(tmp_path)) == ["a"]
    (tmp_path / "two.safetensors").write_bytes(shard("b"))
    with pytest.raises(InvalidModelFile, match="2 safetensors files"):
        read_safetensors_index(tmp_path)


@pytest.mark.parametrize("content", [b"[1]", b"{", b'{"a":1,"a":2}', b"\xff", b"[" * 100_000])
def test_json_file_must_be_a_sound_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InvalidModelFile, match=r"config\.json"):
        read_json(tmp_path / "config.json")


SOUND = safetensors_bytes(
    {
        "a.weight": ("F32", (4, 3), bytes(48)),
        "b": ("BF16", (7,), bytes(14)),
        "c": ("F8_E4M3", (2, 2), bytes(4)),
    }
)
EDITS = st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=6)), max_size=4)


@given(edits=EDITS, cut=st.integers(0, len(SOUND)), splice=st.integers(0, len(SOUND)))
def test_damaged_file_is_read_or_refused_in_bounded_memory(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], cut: int, splice: int
) -> None:
    data = bytearray(SOUND)
    for start, written in edits:
        data[start : start + len(written)] = written
    data[splice:splice] = data[splice // 2 : splice]
    del data[len(data) - cut :]
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        read_safetensors_header(path)
    except InvalidModelFile as error:
        assert len(str(error)) < 1000  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1 << 19


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__"]),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from(["F32", "BF16"]) | JSON_VALUES,
                "shape": st.lists(st.integers(0, 4), max_size=3) | JSON_VALUES,
                "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2) | JSON_VALUES,
            },
        )
        | JSON_VALUES,
    )
)
def test_any_json_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, header: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "json.safetensors"
    path.write_bytes(crafted_safetensors(header, bytes(16)))
    try:
        infos = read_safetensors_header(path)
    except InvalidModelFile:
        return
    assert sum(info.nbytes for info in infos.values()) == 16
