"""The page of models: what is served, what the catalog has, pulls with their progress, adapters and aliases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.console.browser import NARROW, Console, Open
from tests.console.inert import assert_inert
from tests.console.payloads import PAYLOADS
from tests.models.http_files import FileServer
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_catalog import hold_in_the_weights, options_of, publish_tiny, release

from deepwell.storage.database import Database

PROCESS_MS = 60_000  # the longest time for the start and the end of the process that fetches a model
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "source": "catalog"}


def listed(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(rows), "first_id": None, "last_id": None, "has_more": False}


def model(id: str, **more: Any) -> dict[str, Any]:
    card = {
        "object": "model",
        "id": id,
        "created": 1_790_000_000,
        "owned_by": "deepwell",
        "max_model_len": 4096,
    }
    return {
        name: value
        for name, value in (card | {"default_sampling": SAMPLING} | more).items()
        if value is not None
    }


def entry(id: str, **more: Any) -> dict[str, Any]:
    return {
        "object": "catalog.model",
        "id": id,
        "kind": "chat",
        "description": "A small model (98 MB)",
        "languages": ["en", "zh"],
        "license": "Apache-2.0",
        "parameters": 134_515_008,
        "download_bytes": 98_362_432,
        "memory_bytes": 250_000_000,
        "downloaded": False,
        "served": False,
    } | more


def plan(**more: Any) -> dict[str, Any]:
    parts = {
        "weights": 8_000_000_000,
        "kv_cache": 1_200_000_000,
        "workspace": 300_000_000,
        "server": 200_000_000,
    }
    return {
        "object": "memory_plan",
        "model": "large",
        "fits": False,
        "precision": "int8",
        "context": 32_768,
        "total_bytes": sum(parts.values()),
        "available_bytes": 6_000_000_000,
        "lines": [{"name": name, "bytes": size} for name, size in parts.items()],
        "advice": "use --precision int4 or --context 8192",
    } | more


def alias(id: str, means: str, by: str = "cli") -> dict[str, Any]:
    return {"object": "alias", "id": id, "model": means, "changed_at": 1_790_000_000, "changed_by": by}


def job(model: str, status: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "object": "job",
        "id": f"job_{model}",
        "kind": "model.pull",
        "status": status,
        "created_at": 1_790_000_000,
        "started_at": 1_790_000_001,
        "finished_at": None if status in ("queued", "running") else 1_790_000_061,
        "progress": {"model": model, "done": 25_000_000, "total": 98_000_000, "unit": "bytes", "step": "a"},
        "result": None,
        "error": None,
        "attempts": 1,
        "cancel_requested": False,
    } | more


def stub_models(console: Console) -> None:
    """A server with a model that stays, its adapter, models on demand in each state, and aliases."""
    states = ("not_loaded", "loading", "loaded", "unloading")
    console.stub(
        "/v1/models",
        listed(
            model("smollm2"),
            model("sql", parent="smollm2"),
            model("minilm", default_sampling=None, size_bytes=120_000_000, state="loaded"),
            *(model(f"qwen-{state}", state=state, size_bytes=1_500_000_000) for state in states),
            model("prod", parent="smollm2"),
        ),
    )
    console.stub("/v1/aliases", listed(alias("old", "gone", "key_12ab"), alias("prod", "smollm2")))


def row(page: Page, name: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("button", name=name, exact=True))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    yield from publish_tiny(monkeypatch, tmp_path)


@pytest.fixture
def stocked(hub: FileServer, tmp_path: Path) -> Iterator[Live]:
    """A server with a catalog of one small model, which a hub on this machine has, and with a folder of adapters."""
    (tmp_path / "adapters" / "sql-v2").mkdir(parents=True)
    engine, database = FakeEngine(), Database.open(tmp_path / "deepwell.db")
    service = make_service(
        engine,
        make_codec(tmp_path / "tokenizer"),
        model="toy",
        database=database,
        catalog=options_of(tmp_path),
        adapter_dir=(tmp_path / "adapters").resolve(),
    )
    running = start(service, engine)
    yield running
    running.stop()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_served_models_show_where_they_are(open_tab: Open, dark: bool) -> None:
    console = open_tab(dark=dark)
    stub_models(console)
    page = console.open("#/models")
    expect(row(page, "smollm2")).to_contain_text("Always loaded")
    expect(row(page, "smollm2")).to_contain_text("prod")
    expect(row(page, "sql Adapter")).to_contain_text("On smollm2")
    expect(row(page, "minilm Embeds")).to_contain_text("Loaded")
    expect(row(page, "qwen-not_loaded")).to_contain_text("Not loaded")
    expect(row(page, "qwen-loaded")).to_contain_text("1.5 GB")
    expect(page.get_by_role("button", name="prod", exact=True)).to_have_count(0)
    assert console.accessibility() == []
    page.get_by_role("button", name="qwen-loading").click()
    dialog = page.get_by_role("dialog", name="qwen-loading")
    expect(dialog.get_by_text("4,096 tokens")).to_be_visible()
    expect(dialog.get_by_text("Declared by catalog")).to_be_visible()
    assert console.accessibility() == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="qwen-loading")).to_be_focused()


def test_a_model_on_demand_is_unloaded_after_a_question(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN")
    stub_models(console)
    asked: list[str] = []
    console.stub("/v1/models/qwen-loaded", lambda request: asked.append(request.method) or {"deleted": True})
    page = console.open("#/models")
    row(page, "qwen-loaded").get_by_role("button", name="卸载").click()
    page.get_by_role("dialog", name="卸载 qwen-loaded？").get_by_role("button", name="卸载").click()
    expect(page.get_by_text("qwen-loaded 已卸载。")).to_be_visible()
    assert asked == ["DELETE"]


def test_why_a_model_is_not_unloaded_is_said(open_tab: Open) -> None:
    console = open_tab()
    stub_models(console)
    console.expected.append("status of 409")
    refused = {
        "error": {"message": "'qwen-loaded' answers 2 requests: try again later", "code": "model_busy"}
    }
    console.stub("/v1/models/qwen-loaded", refused, status=409)
    page = console.open("#/models")
    row(page, "qwen-loaded").get_by_role("button", name="Unload").click()
    page.get_by_role("dialog").get_by_role("button", name="Unload", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("answers 2 requests: try again later")


def test_a_server_without_models_says_what_to_do_first(open_tab: Open) -> None:
    console = open_tab()
    console.stub("/v1/models", listed())
    page = console.open("#/models")
    expect(page.get_by_text("deepwell pull smollm2")).to_be_visible()
    page.get_by_role("link", name="Open the catalog").click()
    expect(page.get_by_role("tab", name="Catalog")).to_have_attribute("aria-selected", "true")


def test_an_adapter_is_loaded_and_unloaded(open_tab: Open, stocked: Live) -> None:
    console = open_tab(stocked.url)
    page = console.open("#/models")
    page.get_by_role("button", name="Load an adapter").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Folder").fill("sql-v1")
    dialog.get_by_label("Name").fill("sql")
    console.expected.append("status of 4")
    dialog.get_by_role("button", name="Load", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("give the name of a folder in it")
    dialog.get_by_label("Folder").fill("sql-v2")
    assert console.accessibility() == []
    dialog.get_by_label("Folder").press("Enter")
    expect(page.get_by_text("The adapter sql is loaded (rank 8).")).to_be_visible()
    sql = row(page, "sql Adapter")
    expect(sql).to_contain_text("On toy")
    sql.get_by_role("button", name="Unload").click()
    page.get_by_role("dialog").get_by_role("button", name="Unload", exact=True).click()
    expect(sql).to_have_count(0)
    assert stocked.engine.loaded == {}


def test_a_server_without_a_folder_of_adapters_says_how_to_get_one(open_tab: Open) -> None:
    console = open_tab(locale="zh-CN")
    console.expected.append("status of 404")
    page = console.open("#/models")
    page.get_by_role("button", name="加载适配器").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("文件夹").fill("sql")
    dialog.get_by_label("名称").fill("sql")
    dialog.get_by_role("button", name="加载", exact=True).click()
    expect(dialog.get_by_text("deepwell serve --adapter-dir FOLDER")).to_be_visible()


def test_a_shared_adapter_is_unloaded_for_all_only_when_asked(open_tab: Open) -> None:
    console = open_tab()
    stub_models(console)
    bodies: list[Any] = []
    console.expected.append("status of 403")
    refused = {
        "error": {"message": "the adapter 'sql' is shared by all tenants", "code": "insufficient_scope"}
    }
    console.page.route(
        "**/v1/unload_lora_adapter",
        lambda route: (
            bodies.append(route.request.post_data_json),
            route.fulfill(status=200, json={})
            if len(bodies) > 1
            else route.fulfill(status=403, json=refused),
        ),
    )
    page = console.open("#/models")
    row(page, "sql Adapter").get_by_role("button", name="Unload").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Unload", exact=True).click()
    expect(dialog.get_by_text("shared by all tenants")).to_be_visible()
    dialog.get_by_role("button", name="Unload it for all tenants").click()
    expect(page.get_by_text("sql is unloaded.")).to_be_visible()
    assert bodies == [{"lora_name": "sql"}, {"lora_name": "sql", "shared": True}]


def test_a_pull_is_followed_cancelled_and_done_again(open_tab: Open, stocked: Live, hub: FileServer) -> None:
    hold_in_the_weights(hub)
    console = open_tab(stocked.url)
    page = console.open("#/models/catalog")
    tiny = row(page, "tiny A small model")
    tiny.get_by_role("button", name="Download tiny").click()
    expect(tiny.get_by_role("progressbar")).to_be_visible(timeout=PROCESS_MS)
    page.reload()
    expect(tiny.get_by_role("progressbar")).to_be_visible()
    tiny.get_by_role("button", name="Cancel the download of tiny").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the download").click()
    again = tiny.get_by_role("button", name="Download again")
    expect(again).to_be_visible(timeout=PROCESS_MS)
    release(hub)
    again.click()
    expect(tiny.get_by_text("Downloaded", exact=True)).to_be_visible(timeout=PROCESS_MS)
    page.get_by_role("button", name="tiny").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Fits", exact=True)).to_be_visible()
    expect(dialog.get_by_text("deepwell serve tiny")).to_be_visible()
    dialog.get_by_label("Precision").select_option("fp32")
    expect(dialog.get_by_text("fp32, ")).to_be_visible()
    console.expected.append("status of 400")
    dialog.get_by_label("Context (tokens)").fill("99999999")
    expect(dialog.get_by_role("alert")).to_be_visible()
    assert console.accessibility() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_plan_that_does_not_fit_says_what_would(open_tab: Open, dark: bool) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=dark)
    asked: list[str] = []
    console.stub("/v1/catalog", listed(entry("large")))
    console.stub(
        "/v1/catalog/large/plan", lambda request: asked.append(request.url.partition("?")[2]) or plan()
    )
    console.stub("/v1/jobs", listed())
    page = console.open("#/models/catalog/large")
    dialog = page.get_by_role("dialog", name="large")
    expect(dialog.get_by_text("内存不足")).to_be_visible()
    expect(dialog.get_by_text("需要 9.7 GB，可用 6 GB")).to_be_visible()
    expect(dialog.get_by_text("--precision int4")).to_be_visible()
    expect(dialog.get_by_text("英语, 中文")).to_be_visible()
    dialog.get_by_label("精度").select_option("int4")
    with page.expect_response(lambda answer: "context=8192" in answer.url):
        dialog.get_by_label("上下文（token 数）").fill("8192")
    assert asked[0] == "" and asked[-1] == "precision=int4&context=8192"
    assert console.accessibility() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_catalog_is_searched(open_tab: Open) -> None:
    console = open_tab()
    embedder = entry("minilm", kind="embedding", description="Embeds text", languages=["en"], downloaded=True)
    console.stub(
        "/v1/catalog", listed(entry("smollm2", served=True, downloaded=True), entry("qwen3-8b"), embedder)
    )
    console.stub("/v1/jobs", listed(job("qwen3-8b", "failed", error="the hub does not answer: try again")))
    console.stub("/v1/catalog/qwen3-8b/plan", plan(fits=True, advice=None, available_bytes=20_000_000_000))
    page = console.open("#/models/catalog")
    names = page.locator("tbody .models-entry > span:first-child")
    expect(names).to_have_text(["smollm2", "qwen3-8b", "minilm"])
    # It moves the rows when it comes.
    expect(page.get_by_text("Nobody has asked the sources")).to_be_visible()
    page.get_by_label("Search").fill("chinese apache")
    expect(names).to_have_text(["smollm2", "qwen3-8b"])
    page.get_by_label("State").select_option("missing")
    expect(names).to_have_text(["qwen3-8b"])
    assert console.accessibility() == []
    page.get_by_role("link", name="Failed: see why").click()
    expect(page.get_by_role("dialog").get_by_text("the hub does not answer: try again")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_label("Search").fill("nothing of the kind")
    expect(page.get_by_text("No model matches the filters.")).to_be_visible()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_new_revision_is_noted(open_tab: Open, language: str) -> None:
    console = open_tab(locale={"en": "en-US", "zh": "zh-CN"}[language])
    source = {
        "source": "hf:org/smollm2",
        "state": "new",
        "revision_before": "a" * 40,
        "revision_now": "b" * 40,
        "changed_at": 1_790_000_000,
        "files": [
            {"name": "<b>config.json", "kind": "changed", "size_before": 700, "size_now": 900}
            | {"hash_before": None, "hash_now": None}
        ],
        "license": {"before": "apache-2.0", "now": "other"},
        "template": None,
        "not_told": [],
        "reason": None,
        "fix": None,
        "fetch": f"hf:org/smollm2@{'b' * 40}",
    }
    report = {"object": "catalog.updates", "checked_at": 1_790_000_000}
    report["data"] = [{"object": "catalog.update", "id": "smollm2", "state": "new", "sources": [source]}]
    console.stub("/v1/catalog", listed(entry("smollm2", downloaded=True), entry("minilm")))
    console.stub("/v1/catalog/updates", report)
    console.stub("/v1/jobs", listed())
    console.stub("/v1/catalog/smollm2/plan", plan(fits=True, advice=None))
    page = console.open("#/models/catalog")
    new = {"en": "New revision", "zh": "有新版本"}[language]
    expect(page.locator("tbody .badge.warn")).to_have_text([new])
    assert console.accessibility() == []
    page.get_by_role("button", name="smollm2").click()
    dialog = page.get_by_role("dialog", name="smollm2")
    expect(dialog.get_by_role("heading", name=new)).to_be_visible()
    expect(dialog.get_by_text("apache-2.0 → other")).to_be_visible()
    expect(dialog.get_by_text("<b>config.json")).to_be_visible()
    expect(dialog.get_by_text(f"deepwell pull 'hf:org/smollm2@{'b' * 40}'")).to_be_visible()
    assert console.accessibility() == []


def test_a_server_without_a_catalog_says_so(open_tab: Open, tmp_path: Path) -> None:
    engine = FakeEngine()
    bare = start(make_service(engine, make_codec(tmp_path / "tokenizer"), model="toy"), engine)
    console = open_tab(bare.url)
    console.expected.append("status of 404")
    page = console.open("#/models/catalog")
    expect(page.get_by_role("heading", name="This server offers no catalog")).to_be_visible()
    bare.stop()


def test_an_alias_is_set_changed_and_removed(open_tab: Open, stocked: Live) -> None:
    console = open_tab(stocked.url)
    page = console.open("#/models/aliases")
    expect(page.get_by_text("deepwell models alias set prod toy")).to_be_visible()
    page.get_by_role("button", name="Add an alias").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Alias").fill("toy")
    console.expected.append("status of 400")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("would mean itself")
    dialog.get_by_label("Alias").fill("team/prod")
    dialog.get_by_label("Alias").press("Enter")
    expect(row(page, "team/prod")).to_contain_text("toy")
    assert console.accessibility() == []
    page.get_by_role("button", name="team/prod", exact=True).click()
    history = page.get_by_role("dialog", name="Changes of team/prod")
    expect(history.get_by_role("row")).to_have_count(2)
    expect(history).to_contain_text("Without a key")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Remove team/prod").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove the alias").click()
    expect(page.get_by_role("heading", name="No aliases yet")).to_be_visible()
    console.open("#/models/aliases/team%2Fprod")
    expect(history.get_by_role("cell", name="Removed")).to_be_visible()


def test_an_alias_is_pointed_to_another_model(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=True)
    stub_models(console)
    sent: list[Any] = []
    console.page.route(
        "**/v1/aliases",
        lambda route: (
            (sent.append(route.request.post_data_json), route.fulfill(json=alias("old", "smollm2")))
            if route.request.method == "POST"
            else route.fallback()
        ),
    )
    page = console.open("#/models/aliases")
    expect(row(page, "old")).to_contain_text("不可用")
    page.get_by_role("button", name="修改 old").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("模型").select_option("qwen-loaded")
    assert console.accessibility() == []
    dialog.get_by_role("button", name="保存").click()
    expect(page.get_by_text("old 现在指向 qwen-loaded。")).to_be_visible()
    assert sent == [{"name": "old", "model": "qwen-loaded"}]


def test_no_text_of_the_server_runs(open_tab: Open) -> None:
    console = open_tab()
    whole = "\n".join(PAYLOADS)
    sampling = {text: text for text in PAYLOADS}
    console.stub(
        "/v1/models", listed(*(model(text) for text in PAYLOADS), model(whole, default_sampling=sampling))
    )
    console.stub("/v1/aliases", listed(*(alias(f"a{text}", text, text) for text in PAYLOADS)))
    change = {"object": "alias.change", "changed_at": 1, "id": "c"}
    console.page.route(
        "**/history?*",
        lambda route: route.fulfill(
            json=listed(
                *(change | {"id": text, "name": text, "model": text, "changed_by": text} for text in PAYLOADS)
            )
        ),
    )
    hostile = [entry(text, description=text, license=text, languages=[text], kind=text) for text in PAYLOADS]
    console.stub("/v1/catalog", listed(*hostile, entry("x", description=whole, languages=[*PAYLOADS])))
    console.stub(
        "/v1/jobs", listed(*(job(text, "failed", error=text) for text in PAYLOADS), job("x", step=whole))
    )
    lines = [{"name": text, "bytes": 1} for text in PAYLOADS]
    console.stub("/v1/catalog/x/plan", plan(lines=lines, advice=whole, precision=whole))
    page = console.open("#/models")
    expect(page.get_by_role("row")).to_have_count(len(PAYLOADS) + 2)
    page.get_by_role("row").last.get_by_role("button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_inert(console)
    page = console.open("#/models/aliases/x")
    expect(page.get_by_role("dialog").get_by_role("row")).to_have_count(len(PAYLOADS) + 1)
    assert_inert(console)
    page = console.open("#/models/catalog/x")
    expect(page.get_by_role("dialog").locator(".models-parts dt")).to_have_count(len(PAYLOADS))
    assert_inert(console)
