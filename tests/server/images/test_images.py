"""Images over HTTP: a small model behind the real SDK, its sizes, formats and streams, edits, guard, labels and metrics."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image
from tests.media.images.pictures import drawing_model, encoded_as, image_of, unsafe_image
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.safety.labels import read_png_label
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.app import create_app
from deepwell.server.options import GuardOptions, ImageServing, KnowledgeOptions
from deepwell.storage.database import Database

GENERATIONS, EDITS, VARIATIONS = (f"/v1/images/{one}" for one in ("generations", "edits", "variations"))
POLICY = "version: 1\nterms: [own]\nrefusal: {en: Against the rules., zh: 不符合规范。}\n"
LABELLED = "version: 1\nlabel: true\nproducer: tester\n"
FEW: dict[str, Any] = {"steps": 2, "seed": 5}


def options(folder: Path, e5_path: Path, **images: Any) -> dict[str, Any]:
    """The options of a server whose model draws from the real text encoder."""
    store = e5_path.parent.parent if e5_path.is_file() else e5_path.parent
    model = drawing_model(folder / "toy-draw")
    return {
        "images": ImageServing(
            model=str(model.folder), models_dir=images.pop("models_dir", None), threads=1, **images
        ),
        "knowledge": KnowledgeOptions(models_dir=store),
    }


@pytest.fixture(scope="module")
def drawing(codec: Codec, e5_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    engine = FakeEngine()
    folder = tmp_path_factory.mktemp("draw")
    running = start(make_service(engine, codec, model="toy", **options(folder, e5_path)), engine)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(drawing: Live) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{drawing.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def opened(text: str | None) -> Image.Image:
    assert text
    return Image.open(io.BytesIO(base64.b64decode(text)))


def pixels(text: str | None) -> Any:
    return np.asarray(opened(text).convert("RGB")).astype(int)


def sent(image: Image.Image, format: str = "PNG") -> tuple[str, bytes]:
    return f"image.{format.lower()}", encoded_as(image, format)


def mask(width: int = 96, height: int = 96) -> Image.Image:
    """Transparent on the right half."""
    found = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    found.paste((0, 0, 0, 0), (width // 2, 0, width, height))
    return found


@pytest.mark.parametrize(
    ("model", "size", "made"),
    [
        ("gpt-image-1", "auto", (512, 512)),
        ("dall-e-2", "256x256", (256, 256)),
        ("dall-e-3", "1024x1024", (1024, 1024)),
        ("gpt-image-1-mini", "1536x1024", (1536, 1024)),
        ("toy-draw", "1024x1536", (1024, 1536)),
    ],
)
def test_a_text_becomes_an_image_in_every_size(
    client: OpenAI, model: str, size: Any, made: tuple[int, int]
) -> None:
    answer = client.images.generate(model=model, prompt="a red apple", size=size, extra_body=FEW)
    assert answer.data and opened(answer.data[0].b64_json).size == made
    assert answer.size == f"{made[0]}x{made[1]}" and answer.background == "opaque"
    assert (answer.quality, answer.output_format) == ("medium", "png")
    extra: Any = answer.model_extra
    assert extra["drawn_size"] == "64x64" and extra["padded"] is (made[0] != made[1])
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.input_tokens == 3
    assert answer.usage.input_tokens_details.image_tokens == 0


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_images_come_in_every_format(client: OpenAI, format: Any) -> None:
    answer = client.images.generate(
        prompt="a red apple", output_format=format, size="256x256", quality="low", extra_body=FEW
    )
    assert answer.data and opened(answer.data[0].b64_json).format == format.upper()
    assert answer.output_format == format and answer.quality == "low"


def test_a_seed_draws_an_image_again(client: OpenAI) -> None:
    raw = client.images.with_raw_response
    first = raw.generate(prompt="a red apple", n=2, size="256x256", extra_body={"steps": 2})
    seed = int(first.headers["x-seed"])
    data: Any = first.parse().data
    assert [one.model_extra["seed"] for one in data] == [seed, seed + 1]
    again = client.images.generate(
        prompt="a red apple", size="256x256", extra_body={"steps": 2, "seed": seed + 1}
    )
    other = client.images.generate(
        prompt="a blue car", size="256x256", extra_body={"steps": 2, "seed": seed + 1}
    )
    assert again.data and other.data
    assert again.data[0].b64_json == data[1].b64_json != other.data[0].b64_json


def test_a_stream_shows_unfinished_images(client: OpenAI) -> None:
    stream = client.images.generate(
        prompt="a red apple",
        stream=True,
        partial_images=2,
        size="256x256",
        output_format="jpeg",
        extra_body={"steps": 6, "seed": 5},
    )
    events = list(stream)
    assert [one.type for one in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [one.partial_image_index for one in events if one.type.endswith("partial_image")] == [0, 1]  # pyright: ignore
    assert all(opened(one.b64_json).size == (256, 256) for one in events)
    last = events[-1]
    assert last.type == "image_generation.completed" and last.usage.total_tokens == 3
    whole = client.images.generate(
        prompt="a red apple", size="256x256", output_format="jpeg", extra_body={"steps": 6, "seed": 5}
    )
    assert whole.data and whole.data[0].b64_json == last.b64_json


def test_a_mask_says_what_is_painted_anew(client: OpenAI) -> None:
    answer = client.images.edit(
        image=sent(image_of()), mask=sent(mask()), prompt="a cat", size="256x256", extra_body=FEW
    )
    assert answer.data
    found = pixels(answer.data[0].b64_json)
    plain = np.asarray(image_of(256, 256)).astype(int)
    assert np.abs(found[:200, :110] - plain[:200, :110]).max() <= 2, "the rest is the image itself"
    assert np.abs(found[:200, 140:] - plain[:200, 140:]).mean() > 10


def test_transparent_parts_of_the_image_are_a_mask(client: OpenAI) -> None:
    image = image_of(mode="RGBA")
    image.putalpha(mask().getchannel("A"))
    answer = client.images.edit(image=[sent(image)], prompt="a cat", size="256x256", extra_body=FEW)
    assert answer.data
    assert np.abs(pixels(answer.data[0].b64_json)[:200, :110] - (255, 0, 0)).max() <= 2


def test_without_a_mask_the_strength_says_how_much_is_given_up(client: OpenAI) -> None:
    def changed(strength: float) -> float:
        answer = client.images.edit(
            image=sent(image_of(), "JPEG"),
            prompt="a cat",
            size="256x256",
            input_fidelity="low",
            extra_body=FEW | {"strength": strength},
        )
        assert answer.data
        return float(np.abs(pixels(answer.data[0].b64_json) - np.asarray(image_of(256, 256))).mean())

    assert changed(0.05) < changed(1.0)


def test_an_edit_streams(client: OpenAI) -> None:
    stream = client.images.edit(
        image=sent(image_of(), "WEBP"),
        prompt="a cat",
        stream=True,
        partial_images=1,
        size="256x256",
        extra_body={"steps": 4},
    )
    assert [one.type for one in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_an_image_has_variations(client: OpenAI) -> None:
    answer = client.images.create_variation(
        image=sent(image_of()), n=2, size="256x256", response_format="b64_json", extra_body=FEW
    )
    assert answer.data and answer.usage is not None and answer.usage.total_tokens == 0
    assert answer.data[0].b64_json != answer.data[1].b64_json


@pytest.mark.parametrize(
    ("changed", "said", "param"),
    [
        ({"prompt": ""}, "prompt", "prompt"),
        ({"prompt": "a" * 4001}, "prompt", "prompt"),
        ({"n": 0}, "'n'", "n"),
        ({"n": 11}, "'n'", "n"),
        ({"size": "64x64"}, "size '64x64' is not supported", "size"),
        ({"size": "1792x1024"}, "size '1792x1024' is not supported", "size"),
        ({"response_format": "url"}, "no URL", "response_format"),
        ({"background": "transparent"}, "images are opaque", "background"),
        ({"style": "vivid"}, "describe the style in the prompt", "style"),
        ({"output_format": "gif"}, "output_format 'gif' is not supported", "output_format"),
        ({"frame_count": 4}, "only GIF output", "frame_count"),
        ({"svg": {"model": "x"}}, "SVG is not written", "svg"),
        ({"output_compression": 50}, "send output_format jpeg or webp", "output_compression"),
        ({"partial_images": 2}, "needs stream", "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images", "partial_images"),
        ({"quality": "best"}, "quality", "quality"),
        ({"steps": 101}, "steps", "steps"),
        ({"guidance": 21}, "guidance", "guidance"),
        ({"strength": 0.5}, "send it to /v1/images/edits", "strength"),
        ({"promt": "x"}, "promt", "promt"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    drawing: Live, changed: dict[str, Any], said: str, param: str
) -> None:
    answer = httpx.post(f"{drawing.url}{GENERATIONS}", json={"prompt": "an apple"} | changed, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"], error
    assert error["param"] == param


IMAGE = ("image", ("a.png", encoded_as(image_of(), "PNG")))


@pytest.mark.parametrize(
    ("fields", "said", "param"),
    [
        ([("prompt", (None, "x"))], "missing parameter 'image'", "image"),
        ([IMAGE], "prompt", "prompt"),
        ([IMAGE, IMAGE], "'image' comes twice", "image"),
        ([IMAGE, ("image[]", IMAGE[1])], "comes twice", "image[]"),
        ([IMAGE, ("prompt", (None, "x")), ("n", (None, "two"))], "'n'", "n"),
        (
            [IMAGE, ("prompt", (None, "x")), ("input_fidelity", (None, "high"))],
            "send a mask",
            "input_fidelity",
        ),
        ([IMAGE, ("prompt", (None, "x")), ("colour", (None, "blue"))], "colour", "colour"),
        ([("image", ("a.png", b"")), ("prompt", (None, "x"))], "empty file", "image"),
        ([("image", ("a.svg", b"<svg></svg>")), ("prompt", (None, "x"))], "SVG", "image"),
        ([IMAGE, ("prompt", (None, "x")), ("mask", sent(mask(50, 50)))], "the mask has 50x50", "mask"),
        ([IMAGE, ("prompt", (None, "x")), ("mask", sent(image_of()))], "nothing of the mask", "mask"),
        ([IMAGE, ("prompt", (None, "x")), ("mask", ("m.png", b"no"))], "no image in a known format", "mask"),
        (
            [IMAGE, ("prompt", (None, "x")), ("mask", sent(mask())), ("strength", (None, "0.5"))],
            "leave out strength",
            "strength",
        ),
    ],
)
def test_a_form_that_cannot_be_done_is_refused_by_name(
    drawing: Live, fields: list[Any], said: str, param: str
) -> None:
    answer = httpx.post(f"{drawing.url}{EDITS}", files=fields, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == 400 and said in error["message"], error
    assert error["param"] == param


def test_a_variation_has_no_prompt(drawing: Live) -> None:
    files: list[Any] = [IMAGE, ("prompt", (None, "a cat"))]
    answer = httpx.post(f"{drawing.url}{VARIATIONS}", files=files, timeout=60)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"


def test_a_model_that_is_not_here_is_named(client: OpenAI) -> None:
    for name in ("toy", "/etc", "smollm2"):
        with pytest.raises(openai.NotFoundError, match=f"no model '{name}' here that draws"):
            client.images.generate(model=name, prompt="an apple")


def test_errors_come_in_the_language_of_the_client(drawing: Live) -> None:
    files: list[Any] = [("image", ("a.svg", b"<svg></svg>")), ("prompt", (None, "x"))]
    answer = httpx.post(f"{drawing.url}{EDITS}", files=files, headers={"accept-language": "zh"}, timeout=60)
    assert "SVG 是绘图程序" in answer.json()["error"]["message"]


def test_metrics_count_the_images(client: OpenAI, drawing: Live) -> None:
    def count() -> float:
        lines = httpx.get(f"{drawing.url}/metrics").text.splitlines()
        found = [line for line in lines if line.startswith("deepwell_images_drawn_total{")]
        return sum(float(line.split()[-1]) for line in found)

    before = count()
    client.images.generate(prompt="a red apple", n=2, size="256x256", extra_body=FEW)
    assert count() == before + 2
    text = httpx.get(f"{drawing.url}/metrics").text
    assert (
        'gen_ai_operation_name="image_generation"' in text and "deepwell_first_image_seconds_bucket" in text
    )


@asynccontextmanager
async def asked(
    codec: Codec, folder: Path, e5_path: Path, *, policy: str = "", **images: Any
) -> AsyncIterator[httpx.AsyncClient]:
    more: dict[str, Any] = options(folder, e5_path, **images)
    if policy:
        TermList("own", [Term("weapon", "politics", "block")], "test", "none", "0" * 64).write(
            folder / "terms"
        )
        (folder / "policy.yaml").write_text(policy, "utf-8")
        more["guard"] = GuardOptions(str(folder / "policy.yaml"), folder / "terms")
    service = make_service(FakeEngine(), codec, model="toy", database=Database.temporary(), **more)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
        yield http
    await service.close_background()
    await service.close_state()


async def test_the_guard_reads_the_prompt(codec: Codec, tmp_path: Path, e5_path: Path) -> None:
    policy = f"{POLICY}input: {{rules: {{terms: block}}}}"
    async with asked(codec, tmp_path, e5_path, policy=policy) as http:
        refused = await http.post(GENERATIONS, json={"prompt": "a weapon"} | FEW)
        files: list[Any] = [IMAGE, ("prompt", (None, "a weapon"))]
        edit = await http.post(EDITS, files=files)
        passed = await http.post(GENERATIONS, json={"prompt": "an apple", "size": "256x256"} | FEW)
    for answer in (refused, edit):
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == "prompt"
        assert error["code"] == "moderation_blocked" and "refuses the prompt" in error["message"]
    assert passed.status_code == 200


async def test_images_have_the_label_and_the_mark_of_generated_content(
    codec: Codec, tmp_path: Path, e5_path: Path
) -> None:
    body = {"prompt": "an apple", "size": "256x256"} | FEW
    async with asked(codec, tmp_path, e5_path, policy=LABELLED) as http:
        answer = await http.post(GENERATIONS, json=body)
    assert '"ContentProducer":"tester"' in answer.headers["x-aigc"].replace(" ", "")
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    label = read_png_label(data)
    assert label is not None and label.producer == "tester" and label.label == "1"
    async with asked(codec, tmp_path, e5_path, mark=False) as http:
        plain = base64.b64decode((await http.post(GENERATIONS, json=body)).json()["data"][0]["b64_json"])
    assert read_png_label(plain) is None
    with Image.open(io.BytesIO(data)) as one, Image.open(io.BytesIO(plain)) as other:
        differ = np.abs(np.asarray(one).astype(int) - np.asarray(other)).max(axis=2) > 0
    rows, columns = np.nonzero(differ)
    assert rows.min() > 200 and columns.min() > 150, "the mark covers the lower right corner alone"


async def test_the_safety_model_refuses_what_is_sent_and_drawn(
    codec: Codec, tmp_path: Path, e5_path: Path, opennsfw_path: Path
) -> None:
    body: dict[str, Any] = {"prompt": "an apple", "size": "256x256"} | FEW
    strict: dict[str, Any] = {"models_dir": opennsfw_path.parent, "guard": "required", "guard_score": 0.0}
    async with asked(codec, tmp_path, e5_path, **strict) as http:
        drawn = await http.post(GENERATIONS, json=body)
        stream = await http.post(GENERATIONS, json=body | {"stream": True, "partial_images": 1})
        given = await http.post(VARIATIONS, files=[IMAGE])
        metrics = (await http.get("/metrics")).text
    for answer, said in ((drawn, "withheld"), (stream, "withheld"), (given, "that was sent")):
        error = answer.json()["error"]
        assert (
            answer.status_code == 400 and error["code"] == "moderation_blocked" and said in error["message"]
        )
    for side in ("drawn", "sent"):
        assert f'side="{side}"' in metrics


async def test_the_audit_trail_tells_of_refused_images(
    codec: Codec, tmp_path: Path, e5_path: Path, opennsfw_path: Path
) -> None:
    strict: dict[str, Any] = {"models_dir": opennsfw_path.parent, "guard_score": 0.0, "policy": POLICY}
    async with asked(codec, tmp_path, e5_path, **strict) as http:
        await http.post(GENERATIONS, json={"prompt": "an apple", "size": "256x256"} | FEW)
        await http.post(VARIATIONS, files=[IMAGE])
        told = (await http.get("/v1/audit/entries")).json()
    found = [json.dumps(one) for one in told["data"] if "image.nsfw" in json.dumps(one)]
    assert (
        len(found) == 2 and any('"output"' in one for one in found) and any('"input"' in one for one in found)
    )


async def test_by_default_the_safety_model_refuses_what_is_likely_unsafe_alone(
    codec: Codec, tmp_path: Path, e5_path: Path, opennsfw_path: Path
) -> None:
    async with asked(codec, tmp_path, e5_path, models_dir=opennsfw_path.parent) as http:
        refused = await http.post(VARIATIONS, files=[("image", sent(unsafe_image()))])
        passed = await http.post(VARIATIONS, files=[IMAGE, ("steps", (None, "2"))])
    assert refused.status_code == 400 and "that was sent" in refused.json()["error"]["message"]
    assert passed.status_code == 200


async def test_a_safety_model_that_is_required_and_missing_is_named(
    codec: Codec, tmp_path: Path, e5_path: Path
) -> None:
    async with asked(codec, tmp_path, e5_path, guard="required") as http:
        answer = await http.post(GENERATIONS, json={"prompt": "an apple"})
    assert answer.status_code == 404 and "deepwell pull opennsfw" in answer.json()["error"]["message"]


async def test_a_text_encoder_that_is_not_here_names_its_pull(
    codec: Codec, tmp_path: Path, e5_path: Path
) -> None:
    more = options(tmp_path, e5_path) | {"knowledge": KnowledgeOptions(models_dir=tmp_path / "empty")}
    service = make_service(FakeEngine(), codec, model="toy", **more)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
        answer = await http.post(GENERATIONS, json={"prompt": "an apple"})
    await service.close_background()
    await service.close_state()
    assert answer.status_code == 404 and "deepwell pull e5-small-q4" in json.dumps(answer.json())
