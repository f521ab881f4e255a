"""The page that draws: unfinished images on the way, the gallery of the session, variations and edits under a mask."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, expect
from tests.console.browser import NARROW, Console, Open
from tests.media.images.pictures import encoded_as, image_of
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.images.test_images import options
from tests.server.test_catalog import options_of

GENERATIONS, EDITS, VARIATIONS = (f"/v1/images/{one}" for one in ("generations", "edits", "variations"))
PIXELS = """(image) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 256;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""
PNG = base64.b64encode(encoded_as(image_of(256, 256), "PNG")).decode()


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Live]:
    """A server with a small network of random weights that draws from the real text encoder."""
    e5_path = request.getfixturevalue("e5_path")
    folder = tmp_path_factory.mktemp("drawing")
    engine = FakeEngine(max_model_len=4096)
    service = make_service(
        engine,
        make_codec(folder / "tokenizer"),
        model="toy",
        catalog=options_of(folder),
        **options(folder, e5_path),
    )
    running = start(service, engine)
    yield running
    running.stop()


def event(kind: str, seed: int = 7) -> dict[str, Any]:
    return {"type": kind, "b64_json": PNG, "seed": seed, "size": "256x256", "drawn_size": "64x64"}


def drawn(page: Page, prompt: str) -> None:
    page.get_by_role("textbox", name="What to draw").fill(prompt)
    page.get_by_role("button", name="Draw", exact=True).click()


def stubbed(console: Console) -> Page:
    console.stub_stream(
        GENERATIONS, [event("image_generation.partial_image"), event("image_generation.completed")]
    )
    return console.open("#/images")


def parts_of(page: Page, path: str) -> list[bytes]:
    found: list[bytes] = []

    def note(request: Request) -> None:
        if request.url.endswith(path):
            found.append(request.post_data_buffer or b"")

    page.on("request", note)
    return found


def part_in(body: bytes, name: str) -> Any:
    """Returns an image in a form."""
    part = body.split(b'name="%s"' % name.encode(), 1)[1]
    start, end = part.index(b"\x89PNG"), part.index(b"IEND") + 8
    return Image.open(io.BytesIO(part[start:end]))


def mask_in(body: bytes) -> Any:
    """Returns the opacity of the mask in a form."""
    return np.asarray(part_in(body, "mask"))[..., 3]


def test_an_image_is_drawn_varied_edited_and_drawn_again(open_tab: Open, drawing: Live) -> None:
    console = open_tab(drawing.url)
    page = console.open("#/images")
    expect(page.locator(".images-lead")).to_contain_text("64 × 64")
    page.get_by_label("Size of the file").select_option("256x256")
    page.get_by_label("Quality").select_option("low")
    page.get_by_role("textbox", name="Seed").fill("7")
    drawn(page, "a red apple")
    cards = page.locator(".images-card")
    expect(cards).to_have_count(1, timeout=60_000)  # the text encoder is opened first
    expect(cards.first).to_contain_text("Seed 7 · 64x64 enlarged to 256x256")
    expect(page.get_by_role("img", name="a red apple")).to_have_js_property("naturalWidth", 256)
    assert console.accessibility() == []
    cards.first.get_by_role("button", name="Vary").click()
    expect(cards).to_have_count(2)
    expect(page.get_by_role("img", name="Variation of: a red apple")).to_be_visible()
    cards.last.get_by_role("button", name="Edit").click()
    dialog = page.get_by_role("dialog", name="Edit the image")
    dialog.get_by_role("textbox", name="What to paint").fill("a green pear")
    dialog.get_by_role("application").click(position={"x": 60, "y": 60})
    expect(dialog.get_by_text("of the image is painted over")).to_be_visible()
    assert console.accessibility() == []
    dialog.get_by_role("button", name="Paint").click()
    expect(cards).to_have_count(3)
    expect(page.get_by_role("img", name="Edited: a green pear")).to_be_visible()
    with page.expect_download() as download:
        cards.last.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "a-red-apple-7.png"
    page.get_by_role("textbox", name="Seed").fill("")
    cards.last.get_by_role("button", name="Use this text and seed").click()
    expect(page.get_by_role("textbox", name="Seed")).to_have_value("7")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(cards).to_have_count(4)
    first, again = (page.get_by_role("img", name="a red apple", exact=True).nth(one) for one in (0, 1))
    assert first.evaluate(PIXELS) == again.evaluate(PIXELS)


def test_the_gallery_outlasts_the_page_and_not_the_session(open_tab: Open) -> None:
    page = stubbed(open_tab())
    drawn(page, "a red apple")
    expect(page.locator(".images-card")).to_have_count(1)
    page.get_by_role("link", name="Models").click()
    page.get_by_role("link", name="Images").click()
    expect(page.get_by_role("img", name="a red apple")).to_be_visible()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_role("heading", name="No image yet")).to_be_visible()
    drawn(page, "another")
    page.get_by_role("button", name="Remove all").click()
    page.get_by_role("dialog", name="Remove all images?").get_by_role("button", name="Remove all").click()
    expect(page.locator(".images-card")).to_have_count(0)
    drawn(page, "a third")
    expect(page.locator(".images-card")).to_have_count(1)
    page.reload()
    expect(page.get_by_role("heading", name="No image yet")).to_be_visible()


def test_an_error_on_the_way_keeps_finished_images(open_tab: Open) -> None:
    console = open_tab()
    error = {
        "error": {"message": "the image that was drawn is likely unsafe: change the prompt", "code": None}
    }
    console.stub_stream(GENERATIONS, [event("image_generation.completed"), error])
    page = console.open("#/images")
    page.get_by_label("Number of images").select_option("2")
    drawn(page, "two apples")
    expect(page.get_by_role("alert")).to_contain_text("likely unsafe: change the prompt")
    expect(page.locator(".images-card")).to_have_count(1)
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_enabled()


def test_what_is_missing_is_explained_with_its_command(open_tab: Open) -> None:
    console = open_tab()
    console.expected.append("status of 404")
    missing = {
        "error": {"message": "no text encoder: run `deepwell pull e5-small-q4`", "code": "model_not_found"}
    }
    console.stub(GENERATIONS, missing, status=404)
    page = console.open("#/images")
    drawn(page, "a red apple")
    expect(page.locator(".remedy code")).to_have_text("deepwell pull e5-small-q4")
    assert console.accessibility() == []


def test_a_drawing_can_be_stopped(open_tab: Open) -> None:
    console = open_tab()
    console.page.route(lambda url: url.endswith(GENERATIONS), lambda route: None)  # no answer ever comes
    page = console.open("#/images")
    drawn(page, "a red apple")
    expect(page.get_by_role("progressbar", name="Being drawn")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Draw", exact=True)).to_be_enabled()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_mask_is_painted_by_keyboard(open_tab: Open) -> None:
    console = open_tab()
    page = stubbed(console)
    console.stub_stream(EDITS, [event("image_edit.completed", 8)])
    sent = parts_of(page, EDITS)
    drawn(page, "a red apple")
    page.get_by_role("button", name="Edit").click()
    dialog = page.get_by_role("dialog", name="Edit the image")
    canvas = dialog.get_by_role("application")
    for key in (" ", "ArrowRight", "ArrowRight", " ", "ArrowDown"):
        canvas.press(key)
    expect(dialog.locator(".images-spot")).to_be_visible()
    dialog.get_by_role("button", name="Paint").click()
    expect(page.locator(".images-card")).to_have_count(2)
    opacity = mask_in(sent[0])
    assert opacity.shape == (256, 256)
    assert opacity[128, 128] == opacity[128, 165] == 0  # where the brush was put down, and where it went
    assert opacity[0, 0] == opacity[128, 60] == opacity[170, 166] == 255


def test_an_edit_without_a_mask_gives_up_a_part_of_the_whole(open_tab: Open) -> None:
    console = open_tab()
    page = stubbed(console)
    console.stub_stream(EDITS, [event("image_edit.completed")])
    sent = parts_of(page, EDITS)
    drawn(page, "a red apple")
    page.get_by_role("button", name="Edit").click()
    dialog = page.get_by_role("dialog", name="Edit the image")
    dialog.get_by_role("application").click()
    dialog.get_by_role("button", name="Clear the mask").click()
    dialog.get_by_role("slider", name="How much of the image is given up").fill("0.4")
    dialog.get_by_role("button", name="Paint").click()
    expect(page.locator(".images-card")).to_have_count(2)
    assert b'name="strength"\r\n\r\n0.4' in sent[0] and b'name="mask"' not in sent[0]


def test_a_wide_image_is_edited_without_its_bars(open_tab: Open) -> None:
    console = open_tab()
    wide = base64.b64encode(encoded_as(image_of(1536, 1024), "PNG")).decode()
    told = event("image_generation.completed") | {"b64_json": wide, "size": "1536x1024"}
    console.stub_stream(GENERATIONS, [told])
    console.stub_stream(EDITS, [told | {"type": "image_edit.completed"}])
    page = console.open("#/images")
    sent = parts_of(page, EDITS)
    drawn(page, "a red apple")
    page.get_by_role("button", name="Edit").click()
    dialog = page.get_by_role("dialog", name="Edit the image")
    dialog.get_by_role("application").click()
    dialog.get_by_role("button", name="Paint").click()
    expect(page.locator(".images-card")).to_have_count(2)
    assert mask_in(sent[0]).shape == (1024, 1024)
    image = part_in(sent[0], "image")
    assert image.size == (1024, 1024)
    assert image.getpixel((0, 0))[:3] == (255, 0, 0) and image.getpixel((1023, 0))[:3] == (0, 0, 255)
    assert b'name="size"\r\n\r\n1536x1024' in sent[0]


def test_a_wrong_seed_is_named_before_it_is_sent(open_tab: Open) -> None:
    page = open_tab(size=NARROW, locale="zh-CN", dark=True).open("#/images")
    page.get_by_role("textbox", name="画什么").fill("一个红苹果")
    page.get_by_role("textbox", name="随机种子").fill("-1")
    expect(page.get_by_text("请填 0 到")).to_be_visible()
    expect(page.get_by_role("button", name="绘制", exact=True)).to_be_disabled()
