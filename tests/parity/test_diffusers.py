"""Pipelines of diffusers draw in a confined process: steps, seeds, sizes, masks, and folders that are refused."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from diffusers import PNDMScheduler
from openai import BadRequestError, OpenAI
from PIL import Image
from tests.media.images.pictures import encoded_as, image_of
from tests.parity.pipelines import (
    SIDE,
    flux,
    latent_consistency,
    pixart,
    pixart_sigma,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
)
from tests.server.conftest import codec, start  # noqa: F401  # codec is a fixture
from tests.server.fakes import FakeEngine, make_service
from typer.testing import CliRunner

from deepwell.cli import app
from deepwell.dialogue.text import Codec
from deepwell.errors import DeepwellError, InvalidModelFile, InvalidRequest
from deepwell.media.images.diffusion.folder import PIPELINES, read_pipeline
from deepwell.media.images.diffusion.pipeline import PipelineDrawer
from deepwell.media.images.options import ImageModel, ImageRequest, opacity_of, open_image_model
from deepwell.media.images.process import Painter, Step
from deepwell.media.images.protocol import Begin, DrawMode
from deepwell.media.images.reader import ImageReader
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.store import ModelStore
from deepwell.server.options import ImageServing

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED = ImageRequest(None, 7, steps=4, size=(256, 256), mark=False, prompt="a red apple", drawn=(SIDE, SIDE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stable_diffusion(tmp_path_factory.mktemp("pipelines") / "tiny-diffusion")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def painter(folder: Path) -> AsyncIterator[Painter]:
    painter = Painter(ImageModel("tiny-diffusion", folder))
    yield painter
    await painter.close()


async def drawn(painter: Painter, request: ImageRequest) -> list[Step]:
    async with aclosing(painter.draw("t", request)) as steps:
        return [step async for step in steps]


async def finished(painter: Painter, **changes: Any) -> Any:
    return pixels((await drawn(painter, replace(ASKED, **changes)))[-1].data)


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


async def test_a_pipeline_draws_step_by_step(painter: Painter) -> None:
    canvas = await painter.start("t")
    assert (canvas.size, canvas.text_encoder, canvas.negative) == (SIDE, "", True)
    assert canvas.modes == ("text", "image", "mask")
    steps = await drawn(painter, replace(ASKED, count=2))
    assert [(one.seed, one.done, one.total, one.last) for one in steps] == [
        (7 + n // 4, n + 1, 8, n % 4 == 3) for n in range(8)
    ]
    assert all(bool(one.data) is one.last for one in steps)
    assert np.array_equal(pixels(steps[-1].data), await finished(painter, seed=8))


async def test_an_image_depends_on_what_is_asked_for(painter: Painter) -> None:
    first = await finished(painter)
    for change in (
        {"prompt": "a blue pear"},
        {"negative": "leaves"},
        {"guidance": 15.0},
        {"seed": 9},
        {"steps": 7},
    ):
        assert not np.array_equal(await finished(painter, **change), first), change
    assert np.array_equal(await finished(painter), first), "no drawing changes the next"


async def test_sizes_keep_their_ratio(painter: Painter) -> None:
    canvas = await painter.start("t")
    assert canvas.file_size("auto") == (SIDE, SIDE)
    for size in ((1024, 1024), (1536, 1024), (1024, 1536)):
        width, height = canvas.drawn_size(size, square=False)
        assert width * size[1] == height * size[0] and not width % canvas.multiple
        assert 0.7 < width * height / SIDE**2 < 1.4
        assert (await finished(painter, size=size, drawn=(width, height))).shape == (*size[::-1], 3)
    assert canvas.drawn_size((1536, 1024), square=True) == (SIDE, SIDE)


async def test_unfinished_images_are_shown(painter: Painter) -> None:
    steps = await drawn(painter, replace(ASKED, steps=8, partials=3, format="jpeg"))
    assert [one.done for one in steps if one.data] == [2, 4, 6, 8]
    assert len({one.data for one in steps if one.data}) == 4


async def test_drawings_take_turns_and_one_that_is_left_ends(painter: Painter) -> None:
    order: list[str] = []

    async def run(name: str, most: int) -> None:
        async with aclosing(painter.draw("t", replace(ASKED, steps=6))) as steps:
            async for one in steps:
                order.append(name)
                if one.done == most:
                    return

    await asyncio.gather(run("a", 6), run("b", 6), run("c", 2))
    assert (order.count("a"), order.count("b"), order.count("c")) == (6, 6, 2)
    assert order.index("b") < 5 and order.index("a") < 5
    assert len(await drawn(painter, ASKED)) == 4


async def test_a_picture_is_varied_and_painted_anew_in_part(painter: Painter, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded_as(image_of(), "PNG"))
    image = image_of().convert("RGBA")
    image.paste((0, 0, 0, 0), (48, 0, 96, 96))
    (tmp_path / "mask.png").write_bytes(encoded_as(image, "PNG"))
    reader = ImageReader()
    picture, mask = [await reader.read("t", tmp_path / name, SIDE, 256) for name in ("a.png", "mask.png")]
    await reader.close()
    other = replace(picture, small=255 - picture.small)
    varied = [
        await finished(painter, prompt="", picture=one, strength=strength)
        for one, strength in ((picture, 0.3), (picture, 0.9), (other, 0.3))
    ]
    assert not any(np.array_equal(one, two) for one, two in combinations(varied, 2))
    steps = await drawn(painter, replace(ASKED, picture=picture, strength=0.5, steps=8))
    assert [one.total for one in steps] == [4] * 4
    found = await finished(painter, picture=picture, opacity=opacity_of(picture, mask))
    assert np.array_equal(found[:, :116], picture.full[:, :116])
    assert np.abs(found[:, 140:] - picture.full[:, 140:]).mean() > 10


async def test_a_prompt_that_would_be_cut_is_refused(painter: Painter) -> None:
    assert await painter.count("t", "apple") == 7
    with pytest.raises(InvalidRequest, match="reads 77"):
        await painter.count("t", "word " * 60)


async def test_a_scheduler_that_takes_more_steps_says_so(tmp_path: Path) -> None:
    folder = stable_diffusion(tmp_path / "pndm", scheduler=PNDMScheduler)
    (folder / "hook.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    (folder / "unet" / "unet.py").write_text((folder / "hook.py").read_text())
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    painter = Painter(ImageModel("pndm", folder))
    steps = await drawn(painter, ASKED)
    await painter.close()
    assert len(steps) == steps[-1].total > 4 and steps[-1].last
    assert not list(folder.rglob("ran")), "no program of the folder has run"


def begin(mode: DrawMode, side: int, partials: int) -> Begin:
    """A call for an image, as `Painter` makes it."""
    start = bytes(side * side * 3) if mode != "text" else b""
    keep = bytes(side * side // 2) + b"\xff" * (side * side // 2) if mode == "mask" else b""
    drawn = (side * 3 // 2, side) if mode == "text" else (side, side)
    return Begin(
        id=1,
        condition=b"",
        prompt="a red apple",
        negative="",
        steps=4,
        guidance=-1.0,
        seed=3,
        start=start,
        strength=0.5 if mode == "image" else 1.0,
        keep=keep,
        original=b"",
        stays=b"",
        size=drawn,
        drawn=drawn,
        format="png",
        compression=100,
        label="",
        mark=False,
        partials=partials,
    )


@pytest.mark.parametrize(
    "make", [latent_consistency, stable_diffusion_xl, stable_diffusion_3, flux, pixart, pixart_sigma]
)
async def test_other_families_draw_in_the_ways_they_name(make: Any, tmp_path: Path) -> None:
    drawer = PipelineDrawer(make(tmp_path / "tiny"), 1)
    canvas = drawer.canvas()
    assert canvas.modes == tuple(PIPELINES[read_pipeline(tmp_path / "tiny").name])
    assert drawer.count("a red apple") >= 9
    for mode in canvas.modes:
        asked = begin(mode, canvas.size, 1)
        steps = list(drawer.begin(asked))
        assert [one.step for one in steps] == list(range(1, steps[-1].total + 1)), mode
        pixels = steps[-1].pixels()
        assert pixels.shape == (asked.drawn[1], asked.drawn[0], 3) and np.isfinite(pixels).all(), mode
        assert np.abs(pixels).max() <= 1 and not steps[-1].unsafe, mode
    first = next(iter(drawer.begin(begin("text", canvas.size, 1))))
    if make is flux:
        with pytest.raises(InvalidRequest, match="no unfinished"):
            first.pixels()
    else:
        assert np.isfinite(first.pixels()).all()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"_class_name": ["pipeline", "MyPipeline"]}, "image_pipeline_class"),
        ({"_class_name": "CogVideoXPipeline"}, "image_pipeline_class"),
        ({"unet": ["diffusers", "StableDiffusionPipeline"]}, "image_pipeline_code"),
        ({"unet": ["my_unet", "MyUNet"]}, "image_pipeline_code"),
        ({"unet": ["diffusers", "../UNet"]}, "image_pipeline_code"),
        ({"unet": ["os", "system"]}, "image_pipeline_code"),
        ({"../unet": ["diffusers", "UNet2DConditionModel"]}, "image_pipeline_code"),
        ({"unet": ["diffusers"]}, "image_pipeline_code"),
        ({"padding": "x" * 70_000}, "image_pipeline_unusable"),
    ],
)
async def test_an_index_of_strangers_is_judged(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert read_pipeline(tmp_path).parts == ("unet",)
    (tmp_path / "model_index.json").write_text(json.dumps(index | change))
    with pytest.raises(InvalidModelFile) as raised:
        read_pipeline(tmp_path)
    assert raised.value.texts[0] == key


async def test_a_program_of_the_librarys_name_is_refused(tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusers.py").write_text("raise SystemExit")
    with pytest.raises(InvalidModelFile) as raised:
        read_pipeline(tmp_path)
    assert raised.value.texts[0] == "image_pipeline_code"


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 60_000])
async def test_an_index_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(InvalidModelFile):
        read_pipeline(tmp_path)


async def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = ModelStore(tmp_path).pull(str(folder)).path
    assert kind_of(copy) == "image" and open_image_model(ModelStore(tmp_path), folder.name).folder == copy
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InvalidModelFile, match=r"unet/diffusion_pytorch_model\.bin"):
        read_pipeline(copy)


async def test_weights_that_are_damaged_are_named(folder: Path, tmp_path: Path) -> None:
    copy = ModelStore(tmp_path).pull(str(folder)).path
    (copy / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    painter = Painter(ImageModel("damaged", copy))
    with pytest.raises(DeepwellError, match="cannot be loaded"):
        await painter.start("t")
    await painter.close()


async def test_the_terminal_draws_with_a_folder(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "apple.png"
    asked = ["media", "draw", "an apple", "--model", str(folder), "--out", str(out), "--steps", "2"]
    asked += ["--seed", "1", "--negative", "a pear", "--json"]
    found = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["size"] == f"{SIDE}x{SIDE}"
    assert Image.open(out).size == (SIDE, SIDE)


async def test_a_server_draws_with_a_pipeline(
    folder: Path,
    codec: Codec,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ModelStore(tmp_path).pull(str(folder), name="stable-diffusion-v1-5")
    engine = FakeEngine()
    serving = ImageServing(model="stable-diffusion-v1-5", models_dir=tmp_path, threads=1)
    running = start(make_service(engine, codec, model="toy", images=serving), engine)
    client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    try:
        guide = Path(__file__).parents[2] / "docs" / "guides" / "images.md"
        blocks = re.findall(r"```(\w+)\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
        ((code, printed),) = [
            (code, printed) for (_, code), (_, printed) in pairwise(blocks) if "negative_prompt" in code
        ]
        await asyncio.to_thread(exec, compile(code, "guide", "exec"), {"client": client})
        assert capsys.readouterr().out == printed
        await asyncio.to_thread(_ask_for_more, client)
    finally:
        client.close()
        running.stop()


def _ask_for_more(client: OpenAI) -> None:
    few: dict[str, Any] = {"model": "gpt-image-1", "extra_body": {"steps": 4, "seed": 5}}
    made = client.images.generate(prompt="a red apple", **few)
    assert (made.size, made.usage and made.usage.input_tokens) == (f"{SIDE}x{SIDE}", 11)
    stream = client.images.generate(prompt="a red apple", stream=True, partial_images=2, **few)
    assert [event.type.rpartition(".")[2] for event in stream] == ["partial_image"] * 2 + ["completed"]
    image = ("a.png", encoded_as(image_of(), "PNG"))
    edited = client.images.edit(image=image, prompt="a pear", size="256x256", **few)
    assert (edited.size, edited.to_dict()["drawn_size"]) == ("256x256", f"{SIDE}x{SIDE}")
    varied = client.images.create_variation(image=image, **few)
    assert varied.data and varied.data[0].b64_json
    with pytest.raises(BadRequestError, match="reads 77"):
        client.images.generate(prompt="word " * 60, **few)
