"""Hostile files are read or refused, and the next one is read. `deepwell bench media-hostile` sends all 100 to a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.media.images.pictures import encoded_as, image_of

from deepwell.errors import InvalidFile, UnsupportedFile
from deepwell.media.audio.decode import decode_audio
from deepwell.media.images.reader import ImageReader
from deepwell_bench.workloads.media import hostile

READ = {"frames.png", "polyglot-zip.png", "exif-turned-99.jpg", "exif-junk.jpg", "polyglot-script.jpg"}
REFUSED = {
    "bomb-65000.png",
    "bomb-largest.png",
    "no-width.png",
    "text-bomb.png",
    "profile-bomb.png",
    "huge-chunk.png",
    "bomb.jpg",
    "bomb.webp",
    "bomb.gif",
    "script.svg",
    "script-named.png",
    "entities.svg",
    "program.png",
    "bomb.tiff",
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return dict(hostile.hostile_images() + hostile.hostile_sounds())


def test_there_are_100_files_of_as_many_names(files: dict[str, bytes]) -> None:
    assert len(files) == 100 and max(map(len, files.values())) < 50 << 20


async def test_hostile_images_are_read_or_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    reader = ImageReader()
    path = tmp_path / "file"
    try:
        for name in sorted(READ | REFUSED):
            path.write_bytes(files[name])
            if name in READ:
                assert (await reader.read("t", path, 64, 256)).full.shape == (256, 256, 3), name
            else:
                with pytest.raises((InvalidFile, UnsupportedFile)):
                    await reader.read("t", path, 64, 256)
        path.write_bytes(encoded_as(image_of(), "PNG"))
        assert (await reader.read("t", path, 64, 256)).width == 96
    finally:
        await reader.close()


@pytest.mark.parametrize(
    "name",
    [
        "empty.wav",
        "header-alone.wav",
        "channels.wav",
        "no-numbers.wav",
        "nested.mp4",
        "local.m3u8",
        "list.ffconcat",
    ],
)
def test_hostile_sounds_are_refused(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(files[name])
    with pytest.raises((InvalidFile, UnsupportedFile)):
        decode_audio(path, 3600.0)
