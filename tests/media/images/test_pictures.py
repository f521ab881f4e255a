"""Contracts of a set of captioned pictures, and of its split by family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepwell.errors import InvalidRequest
from deepwell.media.images.training.families import families, split
from deepwell.media.images.training.pictures import SIDE, Picture, PictureSet

RNG = np.random.default_rng(0)


def noise(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [Picture("1F600", "emoji", "grinning face", ("嘿嘿",), ("face",), ("脸",), "face")]
    made = PictureSet(rows, noise(1))
    made.write(tmp_path)
    read = PictureSet.read(tmp_path)
    assert read.rows == rows
    assert np.array_equal(read.images, made.images)
    assert read.fingerprint("train") == made.fingerprint("train")
    assert rows[0].captions() == ["grinning face", "嘿嘿", "grinning face: face", "嘿嘿：脸"]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        PictureSet.read(tmp_path)
    PictureSet([Picture("a", "own", "a")], noise(2)).write(tmp_path)
    with pytest.raises(InvalidRequest):
        PictureSet.read(tmp_path)


def test_one_concept_and_pictures_that_look_alike_are_one_family() -> None:
    rows = [
        Picture("1", "emoji", "man farmer"),
        Picture("2", "emoji", "woman farmer"),
        Picture("3", "clipart", "cat 01"),
        Picture("4", "clipart", "tiger"),
        Picture("5", "clipart", "ship"),
        Picture("6", "emoji", "one o’clock"),
        Picture("7", "emoji", "two o’clock"),
    ]
    images = noise(7)
    images[3] = images[2]
    images[3, 0, 0] = 0
    found = families(rows, images)
    assert found[0] == found[1] and found[2] == found[3] and found[5] == found[6]
    assert len(set(found)) == 4


def test_no_family_is_on_both_sides_of_a_split() -> None:
    rows = [Picture(str(n), "clipart", f"thing {n}", family=f"family {n // 3}") for n in range(90)]
    rows += [Picture(str(n), "clipart", f"large {n}", family="large") for n in range(13)]
    done = split(rows, {"clipart": 5}, {"clipart": 4})
    by_split = {
        name: {row.family for row in done if row.split == name}
        for name in ("train", "development", "held-out", "unused")
    }
    assert len(by_split["held-out"]) == 5 and len(by_split["development"]) == 4
    assert by_split["held-out"].isdisjoint(by_split["development"])
    assert by_split["train"].isdisjoint(by_split["held-out"] | by_split["development"] | by_split["unused"])
    assert "large" in by_split["train"]
    assert sum(row.split == "held-out" for row in done) == 5
    assert done == split(rows, {"clipart": 5}, {"clipart": 4})
