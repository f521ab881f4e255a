"""The page of knowledge bases, over real ingestion and search: from an empty page to a passage in its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect
from tests.console.browser import NARROW, Open
from tests.console.payloads import PAYLOADS, assert_nothing_ran
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.knowledge import use_hash_embedder
from tests.server.test_catalog import options_of

WHALE = "The blue whale eats krill in cold seas."
OAK = "An oak tree grows slowly from an acorn."


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that reads documents and finds passages."""
    with pytest.MonkeyPatch.context() as patch:
        use_hash_embedder(patch)
        engine = FakeEngine(max_model_len=4096)
        folder = tmp_path_factory.mktemp("library")
        codec = make_codec(folder / "tokenizer")
        running = start(make_service(engine, codec, model="toy", catalog=options_of(folder)), engine)
        yield running
        running.stop()


def posted(library: Live, path: str, **request: Any) -> dict[str, Any]:
    answer = httpx.post(f"{library.url}/v1/{path}", timeout=30, **request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def store(library: Live, name: str, text: str, *, size: int = 100) -> tuple[str, str]:
    """Makes a knowledge base with one file, and returns both ids once it is read."""
    cut = {"type": "static", "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": size // 5}}
    made = posted(library, "vector_stores", json={"name": name, "chunking_strategy": cut})["id"]
    sent = {"file": (f"{name}.md", text.encode())}
    file = posted(library, "files", data={"purpose": "assistants"}, files=sent)["id"]
    posted(library, f"vector_stores/{made}/files", json={"file_id": file})
    path = f"{library.url}/v1/vector_stores/{made}/files/{file}"
    for _ in range(3000):
        if httpx.get(path).json()["status"] == "completed":
            return made, file
    raise AssertionError("the file is not read")


def drop(page: Page, name: str, text: str) -> None:
    """Drops a file onto the page's zone."""
    data = page.evaluate_handle(
        "([name, text]) => { const data = new DataTransfer(); data.items.add(new File([text], name)); return data }",
        [name, text],
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": data})


def test_from_an_empty_page_to_files_that_are_read(open_tab: Open, library: Live, tmp_path: Path) -> None:
    console = open_tab(library.url)
    page = console.open("#/knowledge")
    expect(page.get_by_text("deepwell knowledge add")).to_be_visible()
    page.get_by_role("button", name="New knowledge base").click()
    assert console.accessibility() == []
    page.get_by_label("Name").fill("animals")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="animals")).to_be_visible()
    whale, broken = tmp_path / "whale.txt", tmp_path / "broken.pdf"
    whale.write_text(WHALE, encoding="utf-8")
    broken.write_bytes(b"%PDF-1.7 and nothing else")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add files").click()
    chooser.value.set_files([whale, broken])
    drop(page, "oak.txt", OAK)
    rows = page.get_by_role("region", name="Files of the knowledge base").get_by_role("row")
    expect(rows.filter(has_text="whale.txt").get_by_text("Ready")).to_be_visible()
    expect(rows.filter(has_text="oak.txt").get_by_text("Ready")).to_be_visible()
    expect(rows.filter(has_text="broken.pdf").get_by_text("Failed", exact=True)).to_be_visible()
    expect(rows.filter(has_text="broken.pdf").locator(".knowledge-error")).not_to_be_empty()
    assert console.accessibility() == []
    page.get_by_role("button", name="Remove oak.txt").click()
    page.get_by_role("button", name="Remove the file").click()
    expect(rows.filter(has_text="oak.txt")).to_have_count(0)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete the knowledge base").click()
    expect(page.get_by_role("heading", name="No knowledge base yet")).to_be_visible()


def test_an_upload_that_is_refused_says_why(open_tab: Open, library: Live) -> None:
    made, _ = store(library, "refusals", WHALE)
    console = open_tab(library.url)
    console.expected.append("status of 400")
    page = console.open(f"#/knowledge/{made}")
    drop(page, "empty.txt", "")
    expect(page.get_by_role("alert").filter(has_text="the file is empty")).to_be_visible()
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_files_go_on_arriving_while_the_other_tab_is_open(open_tab: Open, library: Live) -> None:
    made, _ = store(library, "tabs", WHALE)
    page = open_tab(library.url).open(f"#/knowledge/{made}")
    held: list[Route] = []

    def hold(route: Route) -> None:  # Playwright cannot mark a built-in method
        held.append(route)

    page.route("**/v1/files", hold)
    with page.expect_request("**/v1/files"):
        drop(page, "late.txt", OAK)
    expect(page.get_by_role("list", name="Files on their way")).to_contain_text("late.txt")
    page.get_by_role("tab", name="Search").click()
    held[0].continue_()
    page.get_by_role("tab", name="Files").click()
    expect(page.get_by_role("row").filter(has_text="late.txt").get_by_text("Ready")).to_be_visible()


def test_the_reading_of_files_is_followed(open_tab: Open) -> None:
    console = open_tab()
    counts = {"total": 4, "completed": 1, "in_progress": 3, "failed": 0, "cancelled": 0}
    reading = vector_store("vs_1", "slow") | {"file_counts": counts}
    step = {"progress": {"step": "embed", "done": 12, "total": 40}}
    console.stub("/v1/vector_stores/vs_1", lambda _request: reading)
    console.stub("/v1/vector_stores/vs_1/files", {"object": "list", "data": [], "has_more": False})
    console.stub("/v1/jobs", {"object": "list", "data": [step], "has_more": False})
    page = console.open("#/knowledge/vs_1")
    expect(page.get_by_role("progressbar", name="Reading files")).to_have_attribute("value", "1")
    expect(page.get_by_text("1 of 4 files · Embedding 12 of 40")).to_be_visible()
    assert console.accessibility() == []
    reading["file_counts"] = counts | {"completed": 4, "in_progress": 0}
    expect(page.get_by_role("progressbar")).to_have_count(0)


def test_a_search_tells_its_ranks_and_opens_the_passage(open_tab: Open, library: Live) -> None:
    paragraphs = [
        f"Paragraph {number} 😀 talks of stones, sand and gravel of kind {number}." for number in range(60)
    ]
    paragraphs[40] = f"{WHALE} 中文也在这里。"
    made, file = store(library, "search", "# Sea\n\n" + "\n\n".join(paragraphs))
    console = open_tab(library.url, size=NARROW, locale="zh-CN", dark=True)
    page = console.open(f"#/knowledge/{made}/search")
    page.get_by_label("检索内容").fill("krill whale")
    page.keyboard.press("Enter")
    first = page.get_by_role("listitem").first
    expect(first).to_contain_text(WHALE)
    expect(first.get_by_text("关键词（BM25）")).to_be_visible()
    expect(first.get_by_text("第 1 名").first).to_be_visible()
    assert console.accessibility() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    first.get_by_role("button").click()
    chosen = page.locator("mark.chosen")
    expect(chosen.first).to_be_visible()
    chunks = httpx.get(f"{library.url}/v1/vector_stores/{made}/files/{file}/chunks?limit=100").json()["data"]
    (found,) = [one for one in chunks if one["id"] == page.url.rsplit("/", 1)[1]]
    assert WHALE in found["text"]
    shown = "".join(chosen.all_inner_texts())
    assert shown.split() == found["text"].split()
    assert console.accessibility() == []
    page.get_by_role("button", name="上一块").click()
    expect(page.get_by_role("status").get_by_text(f"第 {found['index']} 块")).to_be_visible()


def test_a_file_that_could_not_be_read_has_an_error_in_place_of_its_text(
    open_tab: Open, library: Live
) -> None:
    made, _ = store(library, "gone", WHALE)
    console = open_tab(library.url)
    console.expected.append("status of 404")
    page = console.open(f"#/knowledge/{made}/file-none")
    expect(page.get_by_role("alert")).to_contain_text("there is no file")
    page = console.open("#/knowledge/vs_none")
    expect(page.get_by_role("alert")).to_contain_text("there is no vector store")


def test_names_texts_and_headings_run_nothing(open_tab: Open) -> None:
    console = open_tab()
    stores = [vector_store(f"vs_{place}", text) for place, text in enumerate(PAYLOADS)]
    console.stub("/v1/vector_stores", {"object": "list", "data": stores, "has_more": False})
    page = console.open("#/knowledge")
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("row")).to_have_count(len(PAYLOADS) + 1)
    assert_nothing_ran(page)
    files = [file(f"file-{place}", text) for place, text in enumerate(PAYLOADS)]
    console.stub("/v1/vector_stores/vs_0", stores[0])
    console.stub("/v1/vector_stores/vs_0/files", {"object": "list", "data": files, "has_more": False})
    sent = [{"id": one["id"], "filename": text} for one, text in zip(files, PAYLOADS, strict=True)]
    console.stub("/v1/files", {"object": "list", "data": sent, "has_more": False})
    page = console.open("#/knowledge/vs_0")
    page.get_by_role("button", name="Show more").click()
    expect(page.get_by_role("row")).to_have_count(len(PAYLOADS) + 1)
    assert_nothing_ran(page)
    found = [
        {
            "file_id": f"file-{place}",
            "filename": text,
            "score": 0.5,
            "content": [{"type": "text", "text": text}],
        }
        for place, text in enumerate(PAYLOADS)
    ]
    console.stub("/v1/vector_stores/vs_0/search", {"data": found})
    page = console.open("#/knowledge/vs_0/search")
    page.get_by_label("Search for").fill("x")
    page.keyboard.press("Enter")
    expect(page.locator(".knowledge-results > li")).to_have_count(len(PAYLOADS))
    assert_nothing_ran(page)
    text = "\n".join(PAYLOADS)
    chunk = {
        "id": "chunk_1",
        "index": 0,
        "start": 0,
        "end": len(text),
        "page": 1,
        "headings": PAYLOADS,
        "text": text,
    }
    read = file("file-0", "") | {"status": "completed", "last_error": None}
    console.stub("/v1/vector_stores/vs_0/files/file-0", read)
    console.stub("/v1/files/file-0", {"id": "file-0", "filename": PAYLOADS[0]})
    console.stub("/v1/vector_stores/vs_0/files/file-0/content", {"data": [{"text": text}]})
    console.stub(
        "/v1/vector_stores/vs_0/files/file-0/chunks", {"object": "list", "data": [chunk], "has_more": False}
    )
    page = console.open("#/knowledge/vs_0/file-0")
    expect(page.locator("mark.chosen")).to_be_visible()
    assert_nothing_ran(page)


def vector_store(id: str, name: str) -> dict[str, Any]:
    counts = {"total": 1, "completed": 1, "in_progress": 0, "failed": 0, "cancelled": 0}
    told = {"id": id, "name": name, "created_at": 1_790_000_000, "usage_bytes": 1000, "file_counts": counts}
    return told | {"object": "vector_store", "status": "completed"}


def file(id: str, message: str) -> dict[str, Any]:
    error = {"code": "invalid_file", "message": message}
    told = {"id": id, "created_at": 1_790_000_000, "usage_bytes": 10, "vector_store_id": "vs_0"}
    return told | {"object": "vector_store.file", "status": "failed", "last_error": error}


def test_files_that_lack_the_embedding_model_fetch_it(open_tab: Open, library: Live) -> None:
    """The server has the model of its tests, so the answers that name a missing one are stubs."""
    made, file = store(library, "bare", WHALE)
    entry = {"id": "e5-small-q4", "kind": "embedding", "download_bytes": 72_000_000, "downloaded": False}
    missing = {"code": "server_error", "message": "the embedding model 'e5-small-q4' is not in /models"}
    failed = {"object": "vector_store.file", "id": file, "created_at": 1, "usage_bytes": 0}
    failed |= {"vector_store_id": made, "status": "failed", "last_error": missing, "attributes": {"a": "b"}}
    job = {"object": "job", "id": "job_1", "kind": "model.pull", "status": "succeeded", "error": None}
    console = open_tab(library.url)
    console.stub("/v1/catalog", {"object": "list", "data": [entry], "has_more": False})
    console.stub(f"/v1/vector_stores/{made}/files", {"object": "list", "data": [failed], "has_more": False})
    console.stub("/v1/catalog/pull", job)
    page = console.open(f"#/knowledge/{made}")
    again = page.get_by_role("button", name="Download it (72 MB) and read the files")
    expect(again).to_be_visible()
    assert console.accessibility() == []
    with page.expect_request(lambda one: one.method == "POST" and one.url.endswith("/files")) as sent:
        again.click()
    assert sent.value.post_data_json == {"file_id": file, "attributes": {"a": "b"}}
