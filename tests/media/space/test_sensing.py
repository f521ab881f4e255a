"""Images and sounds are put into the space by a confined process; either works without the other's model."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.media.images.pictures import encoded_as, image_of
from tests.media.recordings import TONE, tone, wav
from tests.media.space.heads import image_parameters, sound_parameters

from deepwell.errors import InvalidFile, InvalidModelFile, ModelNotFound, UnsupportedFile
from deepwell.media.space.features import ENCODER_FILE
from deepwell.media.space.heads import DIMENSIONS
from deepwell.media.space.options import SenseModels, SensingLimits
from deepwell.media.space.process import Sensing, open_sensing
from deepwell.media.space.tags import Name, Vocabulary, VocabularyLimits, shipped_vocabulary
from deepwell.media.space.training.onnx_file import OnnxGraph
from deepwell.media.space.weights import SHIPPED, SpaceConfig, SpaceWeights


def toy_encoder() -> bytes:
    """Returns a graph of the image encoder's shape: mean colours, spread over the features."""
    graph = OnnxGraph("toy")
    image = graph.input("image", ("n", 3, "height", "width"))
    means = graph.node("Flatten", [graph.node("GlobalAveragePool", [image])])
    spread = np.random.default_rng(0).standard_normal((3, 2048)).astype(np.float32)
    graph.output(graph.node("MatMul", [means, graph.tensor(spread)]), "stages", ("n", 2048))
    return graph.file()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SenseModels:
    folder = tmp_path_factory.mktemp("sense")
    (folder / ENCODER_FILE).write_bytes(toy_encoder())
    tensors = {f"image.{name}": value for name, value in image_parameters().items()}
    tensors |= {f"sound.{name}": value for name, value in sound_parameters().items()}
    tensors["centre"] = np.full(DIMENSIONS, 0.05, np.float32)
    SpaceWeights(SpaceConfig(), tensors).write(folder / "weights")
    vectors = np.eye(2, DIMENSIONS, dtype=np.float32)
    names = [Name("red", "红", caption=False), Name("a red square", "红色方块", caption=True)]
    everything = VocabularyLimits(-1.0, -1.0)
    Vocabulary(names, vectors, np.zeros(2, np.float32), everything).write(folder / "weights")
    return SenseModels(folder / ENCODER_FILE, None, None, folder / "weights")


@pytest.fixture
async def sensing(models: SenseModels) -> AsyncIterator[Sensing]:
    sensing = Sensing(models)
    yield sensing
    await sensing.close()


async def test_an_image_has_a_unit_vector_and_names(sensing: Sensing) -> None:
    seen = await sensing.image("t", encoded_as(image_of(), "PNG"))
    assert seen.vector.shape == (DIMENSIONS,) and seen.vector.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(seen.vector), 1, atol=1e-5)
    assert (seen.tags[0].name, seen.tags[0].name_zh) == ("red", "红")
    assert (seen.caption, seen.caption_zh) == ("a red square", "红色方块")
    assert (seen.width, seen.height) == image_of().size and seen.unsafe == -1
    again = await sensing.image("t", encoded_as(image_of(), "PNG"))
    assert again.vector.tobytes() == seen.vector.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF"])
async def test_every_format_is_seen_alike(sensing: Sensing, format: str) -> None:
    plain = Image.new("RGB", (300, 40), (200, 30, 40))
    one = await sensing.image("t", encoded_as(plain, "PNG"))
    other = await sensing.image("t", encoded_as(plain, format))
    assert float(one.vector @ other.vector) > 0.99 and (other.width, other.height) == (300, 40)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", InvalidFile),
        (b"no image", UnsupportedFile),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedFile),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, InvalidFile),
    ],
)
async def test_what_is_no_image_is_refused_and_the_process_stays(
    sensing: Sensing, data: bytes, error: type[Exception]
) -> None:
    await sensing.image("t", encoded_as(image_of(), "PNG"))
    before = sensing.pid
    with pytest.raises((error, UnsupportedFile)):
        await sensing.image("t", data)
    assert (await sensing.image("t", encoded_as(image_of(), "PNG"))).vector.any() and sensing.pid == before


async def test_an_image_that_unpacks_to_too_much_is_refused(sensing: Sensing) -> None:
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    with pytest.raises(InvalidFile, match="pixels"):
        await sensing.image("t", bomb.getvalue())


async def test_a_process_that_takes_too_long_is_replaced(models: SenseModels) -> None:
    sensing = Sensing(models, SensingLimits(image_s=1e-4))
    large = encoded_as(
        Image.effect_noise((4000, 3000), 90).convert("RGB"), "PNG"
    )  # many ticks of the kernel's clock
    try:
        with pytest.raises(InvalidFile, match="processor time"):
            await sensing.image("t", large)
        with pytest.raises(InvalidFile, match="processor time"):
            await sensing.image("t", large)
    finally:
        await sensing.close()


async def test_images_do_without_the_model_of_sounds(sensing: Sensing) -> None:
    with pytest.raises(ModelNotFound, match="deepwell pull whisper-base"):
        await sensing.sound("t", wav(tone(1)))
    assert (await sensing.image("t", encoded_as(image_of(), "PNG"))).tags


async def test_sounds_do_without_the_encoder_of_images(models: SenseModels, tmp_path: Path) -> None:
    sensing = Sensing(SenseModels(sound=tmp_path, weights=models.weights))
    try:
        with pytest.raises(ModelNotFound, match="encoder-only"):
            await sensing.image("t", encoded_as(image_of(), "PNG"))
        assert await sensing.unsafe("t", encoded_as(image_of(), "PNG")) == -1
        with pytest.raises((InvalidModelFile, InvalidFile)):  # an empty folder
            await sensing.sound("t", TONE.read_bytes())
        assert await sensing.unsafe("t", encoded_as(image_of(), "PNG")) == -1
    finally:
        await sensing.close()


async def test_an_image_becomes_a_page(models: SenseModels) -> None:
    sensing = Sensing(SenseModels(weights=models.weights))
    try:
        data = await sensing.page("t", encoded_as(image_of(), "PNG"))
        looked = await sensing.look("t", encoded_as(image_of(), "PNG"))
    finally:
        await sensing.close()
    assert data.startswith(b"%PDF-") and data.count(b"/Type /Page\n") == 1
    assert (looked.width, looked.height, looked.unsafe) == (*image_of().size, -1)


async def test_a_damaged_encoder_is_told(models: SenseModels, tmp_path: Path) -> None:
    (tmp_path / ENCODER_FILE).write_bytes(b"no graph")
    sensing = Sensing(SenseModels(tmp_path / ENCODER_FILE, weights=models.weights))
    try:
        with pytest.raises(InvalidModelFile):
            await sensing.image("t", encoded_as(image_of(), "PNG"))
    finally:
        await sensing.close()


def test_texts_lose_their_common_mean(models: SenseModels) -> None:
    sensing = Sensing(models)
    vectors = np.random.default_rng(1).standard_normal((2, DIMENSIONS)).astype(np.float32)
    found = sensing.text(vectors)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    moved = vectors[0] - np.float32(0.05)
    np.testing.assert_allclose(sensing.text(vectors[0]), moved / np.linalg.norm(moved), atol=1e-3)
    assert sensing.pid == 0


def test_models_are_found_and_missing_ones_named(tmp_path: Path) -> None:
    store = tmp_path / "models"
    store.mkdir()
    with pytest.raises(ModelNotFound, match="encoder-only"):
        open_sensing(store)
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / ENCODER_FILE).write_bytes(b"graph")
    found = open_sensing(store).models
    assert found.image is not None and found.sound is None and found.weights == SHIPPED


def test_the_shipped_names_are_whole_and_small() -> None:
    found = shipped_vocabulary()
    assert len(found.names) > 1000 and all(one.name and one.name_zh for one in found.names)
    assert 0 < found.limits.tag < 1 and 0 < found.limits.caption < 1
    assert sum((SHIPPED / name).stat().st_size for name in ("names.json", "names.safetensors")) < 1 << 20
    apple = next(place for place, one in enumerate(found.names) if one.name == "red apple")
    named = found.of(found._vectors[apple])
    assert named.caption is not None and named.caption.name_zh == "红苹果"
    assert any(tag.name == "apple" for tag in named.tags)


def test_a_vector_that_is_near_nothing_has_no_name() -> None:
    named = shipped_vocabulary().of(np.zeros(DIMENSIONS, np.float32))
    assert named.tags == () and named.caption is None


@pytest.mark.parametrize("damage", ["cut", "limits", "count", "missing"])
def test_a_damaged_vocabulary_is_refused(models: SenseModels, tmp_path: Path, damage: str) -> None:
    for name in ("names.json", "names.safetensors"):
        (tmp_path / name).write_bytes((models.weights / name).read_bytes())
    names, vectors = tmp_path / "names.json", tmp_path / "names.safetensors"
    if damage == "cut":
        vectors.write_bytes(vectors.read_bytes()[:-3])
    elif damage == "limits":
        names.write_text(names.read_text("utf-8").replace('"tag"', '"other"'), "utf-8")
    elif damage == "count":
        names.write_text(names.read_text("utf-8").replace('["red","红"]', ""), "utf-8")
    else:
        names.unlink()
    with pytest.raises(InvalidModelFile):
        Vocabulary.read(tmp_path)
