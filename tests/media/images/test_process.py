"""Images are drawn and read in confined processes: turns, seeds, what stays, limits, and hostile files."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.media.images.pictures import drawing_model, encoded_as, image_of

from deepwell.errors import EngineUnavailable, InvalidFile, InvalidModelFile, InvalidRequest, ModelNotFound
from deepwell.media.images.decode import Picture
from deepwell.media.images.options import ImageModel, ImageRequest, find_safety, open_image_model, size_of
from deepwell.media.images.process import DrawingBusy, ImageRefused, Painter, PainterLimits, Step
from deepwell.media.images.reader import ImageReader
from deepwell.models.store.store import ModelStore

CONDITION = np.full(384, 0.05, np.float32)
ASKED = ImageRequest(CONDITION, 7, steps=3, size=(256, 256), mark=False)


@pytest.fixture
def model(tmp_path: Path) -> ImageModel:
    return drawing_model(tmp_path / "toy-draw")


@pytest.fixture
async def painter(model: ImageModel) -> AsyncIterator[Painter]:
    painter = Painter(model)
    yield painter
    await painter.close()


@pytest.fixture
async def reader() -> AsyncIterator[ImageReader]:
    reader = ImageReader()
    yield reader
    await reader.close()


async def drawn(painter: Painter, request: ImageRequest) -> list[Step]:
    async with aclosing(painter.draw("t", request)) as steps:
        return [step async for step in steps]


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


async def test_an_image_comes_step_by_step(painter: Painter) -> None:
    canvas = await painter.start("t")
    assert (canvas.size, canvas.condition, canvas.text_encoder) == (
        64,
        384,
        "e5-small-q4",
    )
    steps = await drawn(painter, replace(ASKED, count=2))
    assert [(one.image, one.seed, one.done, one.last) for one in steps] == [
        (0, 7, 1, False),
        (0, 7, 2, False),
        (0, 7, 3, True),
        (1, 8, 4, False),
        (1, 8, 5, False),
        (1, 8, 6, True),
    ]
    assert all(bool(one.data) is one.last for one in steps)
    assert pixels(steps[2].data).shape == (256, 256, 3)


async def test_an_image_depends_on_its_own_seed_and_prompt_alone(painter: Painter) -> None:
    many = [one.data for one in await drawn(painter, replace(ASKED, count=2)) if one.last]
    (alone,) = [one.data for one in await drawn(painter, replace(ASKED, seed=8)) if one.last]
    (other,) = [one.data for one in await drawn(painter, replace(ASKED, condition=-CONDITION)) if one.last]
    assert many[1] == alone and many[0] != alone and other != many[0]


async def test_unfinished_images_are_shown_where_they_are_asked_for(painter: Painter) -> None:
    steps = await drawn(painter, replace(ASKED, steps=8, partials=3, format="jpeg"))
    assert [one.done for one in steps if one.data] == [2, 4, 6, 8]
    assert all(one.data.startswith(b"\xff\xd8") for one in steps if one.data)
    few = await drawn(painter, replace(ASKED, steps=2, partials=3))
    assert few[-1].last and few[-1].data


async def test_what_stays_of_a_picture_stays(painter: Painter, reader: ImageReader, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded_as(image_of(), "PNG"))
    picture = await reader.read("t", tmp_path / "a.png", 64, 256)
    stays, keep = np.zeros((256, 256), np.uint8), np.zeros((64, 64), np.uint8)
    stays[:, :128] = keep[:, :32] = 255
    steps = await drawn(painter, replace(ASKED, picture=picture, opacity=(stays, keep)))
    found = pixels(steps[-1].data)
    assert np.array_equal(found[:, :128], picture.full[:, :128])
    assert np.abs(found[:, 128:] - picture.full[:, 128:]).mean() > 10


async def test_a_variation_is_nearer_to_its_picture_the_less_is_given_up(
    painter: Painter, reader: ImageReader, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encoded_as(image_of(), "PNG"))
    picture = await reader.read("t", tmp_path / "a.png", 64, 256)

    async def distance(strength: float) -> float:
        steps = await drawn(painter, replace(ASKED, condition=None, picture=picture, strength=strength))
        return float(np.abs(pixels(steps[-1].data) - picture.full).mean())

    assert await distance(0.05) < await distance(0.5) < await distance(1.0)


@pytest.mark.parametrize("strength", [0.01, 0.05, 0.3, 0.5, 0.7, 1.0])
async def test_the_steps_are_those_of_the_sampler(painter: Painter, strength: float) -> None:
    shapes = (256, 256, 3), (256, 256), (64, 64, 3), (64, 64), (1, 1, 3)
    picture = Picture(64, 64, *(np.zeros(shape, np.uint8) for shape in shapes))
    for steps in (1, 5, 24):
        asked = replace(ASKED, steps=steps, picture=picture, strength=strength)
        found = await drawn(painter, asked)
        assert [one.last for one in found] == [*[False] * (asked.steps_an_image - 1), True]
        assert found[-1].done == found[-1].total and found[-1].data


async def test_requests_take_turns_and_one_that_is_left_ends(painter: Painter) -> None:
    order: list[str] = []

    async def run(name: str, most: int) -> None:
        async with aclosing(painter.draw("t", replace(ASKED, steps=6))) as steps:
            async for one in steps:
                order.append(name)
                if one.done == most:
                    return

    await asyncio.gather(run("a", 6), run("b", 6), run("c", 2))
    assert (order.count("a"), order.count("b"), order.count("c")) == (6, 6, 2)
    assert order.index("b") < 5 and order.index("a") < 5, "no request waits for the whole of another"
    assert len(await drawn(painter, ASKED)) == 3


async def test_more_requests_than_may_wait_are_refused(
    painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = painter._turns  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(turns, "_rules", replace(turns._rules, most=1))  # pyright: ignore[reportPrivateUsage]
    async with aclosing(painter.draw("t", ASKED)) as steps:
        await anext(steps)
        with pytest.raises(DrawingBusy) as raised:
            await drawn(painter, ASKED)
    assert raised.value.status == 503 and raised.value.retry_after


async def test_a_process_that_was_killed_is_replaced(painter: Painter) -> None:
    async with aclosing(painter.draw("t", ASKED)) as steps:
        await anext(steps)
        os.kill(painter.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            await anext(steps)
    assert len(await drawn(painter, ASKED)) == 3


async def test_a_model_that_cannot_be_loaded_is_named(model: ImageModel) -> None:
    (model.folder / "model.safetensors").write_bytes(b"nothing")
    painter = Painter(model)
    with pytest.raises(InvalidModelFile):
        await painter.start("t")
    await painter.close()


async def test_the_safety_model_looks_at_what_is_sent_and_drawn(
    model: ImageModel, opennsfw_path: Path, reader: ImageReader, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encoded_as(image_of(), "PNG"))
    look = (await reader.read("t", tmp_path / "a.png", 64, 256)).look
    for most, refused in ((1.0, False), (0.0, True)):
        painter = Painter(model, opennsfw_path, PainterLimits(1, most))
        for work in (painter.check("t", look), drawn(painter, ASKED)):
            if refused:
                with pytest.raises(ImageRefused, match="likely unsafe") as raised:
                    await work
                assert raised.value.code == "moderation_blocked"
            else:
                await work
        await painter.close()


async def test_a_file_that_takes_too_much_ends_neither_the_reader_nor_a_drawing(
    painter: Painter, tmp_path: Path
) -> None:
    small = ImageReader(memory_bytes=96 << 20)
    large = tmp_path / "large.png"
    large.write_bytes(encoded_as(Image.new("RGB", (6000, 6000)), "PNG", compress_level=1))
    (tmp_path / "a.png").write_bytes(encoded_as(image_of(), "PNG"))
    async with aclosing(painter.draw("t", ASKED)) as steps:
        await anext(steps)
        with pytest.raises(InvalidFile, match="96 MB"):
            await small.read("t", large, 64, 256)
        assert (await small.read("t", tmp_path / "a.png", 64, 256)).width == 96
        assert [one.last async for one in steps] == [False, True]
    await small.close()


@pytest.mark.parametrize("size", ["64x64", "1024x768", "0x0", "large", "99999x99999"])
def test_a_size_that_is_not_made_is_refused(size: str) -> None:
    with pytest.raises(InvalidRequest, match="not made at the size"):
        size_of(size)


def test_models_are_found_by_name_or_path(model: ImageModel, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    assert open_image_model(store, str(model.folder)).name == "toy-draw"
    assert store.pull(str(model.folder)).name == "toy-draw"
    assert open_image_model(store, "toy-draw").folder == tmp_path / "models" / "toy-draw"
    with pytest.raises(ModelNotFound):
        open_image_model(store, "absent")


def test_the_safety_model_may_be_missing_unless_it_is_required(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert find_safety(store, "auto") is None and find_safety(store, "off") is None
    with pytest.raises(ModelNotFound, match="deepwell pull opennsfw"):
        find_safety(store, "required")
