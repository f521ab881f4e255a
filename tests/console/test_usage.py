"""The page of usage and health: live figures, tokens over time, experts as a heat map, keys and limits."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import expect
from tests.console.browser import NARROW, Console, Open
from tests.console.inert import assert_inert
from tests.console.payloads import PAYLOADS
from tests.console.test_models import listed

SCOPE = {
    "error": {"message": "this API key lacks the scope metrics: use another", "code": "insufficient_scope"}
}


_COLOURS = """() => {
    const canvas = document.querySelector('.usage-heat canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 8 * devicePixelRatio, canvas.width, 1).data;
    const width = canvas.width / 4;
    return new Set([0, 1, 2, 3].map((at) => {
        const place = 4 * Math.floor((at + 0.5) * width);
        return pixels.slice(place, place + 3).join();
    })).size;
}"""


def engine(id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "running": 2,
        "waiting": 1,
        "kv_used_blocks": 420,
        "kv_total_blocks": 1024,
        "prefix_hit_tokens": 81_300,
        "prefix_query_tokens": 120_000,
        "tokens_per_s": 42.5,
        "experts": None,
    } | more


def stats(*models: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "object": "stats",
        "version": "1.4.0",
        "uptime_s": 93_600.0,
        "memory_bytes": 2_940_000_000,
        "models": list(models),
        "latency_ms": {
            "first_token": {"p50": 182.4, "p95": 940.0, "p99": 1630.0},
            "inter_token": {"p50": 21.3, "p95": 33.8, "p99": 51.0},
            "queue": {"p50": 0.42, "p95": 120.0, "p99": 480.0},
        },
        "requests": {"total": 18_204, "errors": 3, "open": 4},
        "caches": {"response": {"hits": 310, "misses": 1890}, "semantic": None},
        "limits": {"requests_per_minute": 600, "tokens_per_minute": 0},
    } | more


def experts(mixtures: int = 26, each: int = 64) -> list[list[int]]:
    """Loads with a hot expert in each mixture and some that nothing went to."""
    return [
        [
            0 if (row * 7 + at) % 23 == 0 else 100 + (row * 31 + at * 17) % 200 + 900 * (at == row * 3 % each)
            for at in range(each)
        ]
        for row in range(mixtures)
    ]


def bucket(start: int, width: int, *results: dict[str, Any]) -> dict[str, Any]:
    return {"object": "bucket", "start_time": start, "end_time": start + width, "results": list(results)}


def used(requests: int, model: str | None = None, key: str | None = None) -> dict[str, Any]:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": requests * 400,
        "output_tokens": requests * 120,
        "input_cached_tokens": requests * 100,
        "num_model_requests": requests,
        "model": model,
        "api_key_id": key,
    }


def usage_of(request: Any) -> dict[str, Any]:
    """A page of usage for what was asked: more requests at some times than at others."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(request.url).query).items()}
    width = {"1h": 3600, "1d": 86_400}[query["bucket_width"]]
    groups: dict[str, list[dict[str, str]]] = {
        "model": [{"model": "smollm2"}, {"model": "qwen3-8b"}],
        "api_key_id": [{"key": "key_12ab"}, {"key": "key_34cd"}],
    }
    rows = groups.get(query.get("group_by", ""), [{}])
    data = [
        bucket(
            int(query["start_time"]) + at * width,
            width,
            *(used(5 + (at * 7 + place * 11) % 23, **row) for place, row in enumerate(rows) if at % 5 != 3),
        )
        for at in range(int(query["limit"]))
    ]
    return {"object": "page", "data": data, "has_more": False, "next_page": None}


def key(id: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "object": "api_key",
        "id": id,
        "name": name,
        "tenant": "acme",
        "scopes": ["inference", "files"],
        "created_at": 1_790_000_000,
        "last_used_at": 1_790_100_000,
        "expires_at": None,
        "revoked": False,
        "requests_per_minute": None,
        "tokens_per_minute": 10_000,
    } | more


def stub_usage(console: Console) -> None:
    """A server that is used, with a model that has experts."""
    now = int(time.time())
    console.stub(
        "/v1/stats",
        stats(engine("smollm2"), engine("deepseek-v2-lite", experts=experts(), tokens_per_s=11.25)),
    )
    console.stub("/v1/organization/usage/completions", usage_of)
    console.stub(
        "/v1/keys",
        listed(
            key("key_12ab", "laptop", expires_at=now + 3 * 86_400),
            key("key_34cd", "ci", tenant="ops", scopes=["admin"], requests_per_minute=0, last_used_at=None),
            key("key_56ef", "intern", revoked=True),
            key("key_78ab", "", expires_at=now - 60, requests_per_minute=20),
        ),
    )


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_health_of_a_server_is_shown(open_tab: Open, dark: bool) -> None:
    console = open_tab(dark=dark)
    stub_usage(console)
    page = console.open("#/usage")
    expect(page.get_by_text("18,204")).to_be_visible()
    expect(page.get_by_text("4 being answered")).to_be_visible()
    expect(page.get_by_text("< 0.1 % of all requests")).to_be_visible()
    expect(page.get_by_text("2.9 GB")).to_be_visible()
    models = page.get_by_role("region", name="Models", exact=True)
    expect(models.get_by_role("row", name="smollm2")).to_contain_text("42.5")
    expect(models.get_by_role("progressbar", name="KV cache of smollm2")).to_be_visible()
    latency = page.get_by_role("region", name="Latency since the start")
    expect(latency.get_by_role("row", name="First token")).to_contain_text("182 ms940 ms1.6 s")
    caches = page.get_by_role("region", name="Caches since the start")
    expect(caches.get_by_role("row", name="Response cache")).to_contain_text("14 %")
    expect(caches.get_by_role("row", name="Semantic cache")).to_contain_text("Off")
    assert console.accessibility() == []


def test_a_request_is_counted_everywhere(open_tab: Open) -> None:
    console = open_tab()
    page = console.open("#/usage")
    asked = {"model": "toy", "messages": [{"role": "user", "content": "hello"}]}
    answered = httpx.post(f"{console.url}/v1/chat/completions", json=asked)
    assert answered.status_code == 200
    models = page.get_by_role("region", name="Models", exact=True)
    expect(models.get_by_role("row", name="toy")).to_contain_text("25 %")
    latency = page.get_by_role("region", name="Latency since the start")
    expect(latency.get_by_role("row", name="First token")).to_contain_text("ms")
    page.get_by_role("tab", name="Tokens").click()
    page.get_by_label("Group by").select_option("model")
    toy = page.get_by_role("region", name="Sums by group").get_by_role("row", name="toy")
    expect(toy.get_by_role("cell")).to_have_count(5)
    page.get_by_label("Group by").select_option("api_key_id")
    expect(page.get_by_role("row", name="Without a key")).to_be_visible()
    page.get_by_role("tab", name="Keys and limits").click()
    expect(page.get_by_role("heading", name="No keys")).to_be_visible()


def test_figures_are_followed_and_drawn_over_time(open_tab: Open) -> None:
    console = open_tab()
    rounds: list[int] = []

    def told(_request: Any) -> dict[str, Any]:
        rounds.append(len(rounds))
        requests = {"total": 100 + len(rounds), "errors": 0, "open": 1}
        return stats(engine("smollm2", tokens_per_s=10.0 * len(rounds)), requests=requests)

    console.stub("/v1/stats", told)
    page = console.open("#/usage")
    expect(page.get_by_text("101")).to_be_visible()
    expect(page.get_by_text("103")).to_be_visible()
    chart = page.get_by_role("figure").filter(has_text="Generated tokens per second")
    expect(chart.locator("canvas")).to_be_visible()
    chart.get_by_text("Values of the chart").click()
    expect(chart.get_by_role("cell", name="30", exact=True)).to_be_visible()


def test_experts_are_read_with_the_keyboard_and_the_mouse(open_tab: Open) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=True)
    loads = [[10, 20, 30, 0], [0, 0, 5, 5]]
    console.stub("/v1/stats", stats(engine("moe", experts=loads), engine("idle", experts=[[0, 0]])))
    page = console.open("#/usage")
    expect(page.get_by_text("6 个专家中有", exact=False)).to_have_count(0)
    expect(page.get_by_text("8 个专家中有 3 个还没有被选中过。")).to_be_visible()
    expect(page.get_by_text("还没有 token 经过专家层。")).to_be_visible()
    said = page.locator(".usage-heat-said")
    expect(said).to_have_text("第 1 个 MoE 层，专家 2：30 个 token，是平均水平的 2 倍")
    heat = page.get_by_role("group", name="moe 的专家负载")
    heat.focus()
    for pressed in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(pressed)
    expect(said).to_have_text("第 2 个 MoE 层，专家 2：5 个 token，是平均水平的 2 倍")
    expect(page.get_by_role("status").filter(has_text="第 2 个 MoE 层，专家 2")).to_have_count(1)
    heat.locator("canvas").hover(position={"x": 3, "y": 3})
    expect(said).to_have_text("第 1 个 MoE 层，专家 0：10 个 token，是平均水平的 0.67 倍")
    assert page.evaluate(_COLOURS) == 4, "loads of 10, 20, 30 and 0"
    assert console.accessibility() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_large_mixture_scrolls_in_its_own_frame(open_tab: Open) -> None:
    console = open_tab(size=NARROW)
    console.stub("/v1/stats", stats(engine("v3", experts=experts(58, 256))))
    page = console.open("#/usage")
    heat = page.get_by_role("group", name="Experts of v3")
    expect(heat.locator("canvas")).to_be_visible()
    page.wait_for_function("(one) => one.scrollWidth > one.clientWidth", arg=heat.element_handle())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_tokens_are_drawn_over_time_and_grouped(open_tab: Open, dark: bool) -> None:
    console = open_tab(size=NARROW, locale="zh-CN", dark=dark)
    stub_usage(console)
    page = console.open("#/usage/tokens")
    expect(page.get_by_text("25 % 来自前缀缓存")).to_be_visible()
    expect(page.get_by_text("平均每个请求 120 个")).to_be_visible()
    expect(page.locator("figure canvas")).to_have_count(2)
    page.get_by_label("时间").select_option("month")
    page.get_by_label("分组").select_option("api_key_id")
    table = page.get_by_role("region", name="各组合计")
    expect(table.get_by_role("row", name="laptop")).to_be_visible()
    expect(table.get_by_role("row", name="ci")).to_be_visible()
    assert console.accessibility() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_usage_the_page_says_what_makes_some(open_tab: Open) -> None:
    console = open_tab()
    console.stub("/v1/stats", stats())
    empty = {"object": "page", "data": [bucket(0, 3600)], "has_more": False, "next_page": None}
    console.stub("/v1/organization/usage/completions", empty)
    page = console.open("#/usage")
    expect(page.get_by_text("No model is loaded.")).to_be_visible()
    page.get_by_role("tab", name="Tokens").click()
    expect(page.get_by_text("/v1/chat/completions")).to_be_visible()
    page.get_by_role("link", name="Open the chat").click()
    expect(page).to_have_url(f"{console.url}/#/chat")


def test_keys_show_their_state_and_limits(open_tab: Open) -> None:
    console = open_tab()
    stub_usage(console)
    page = console.open("#/usage/keys")
    table = page.get_by_role("region", name="Keys and limits")
    laptop = table.get_by_role("row", name="laptop")
    expect(laptop).to_contain_text("Valid")
    expect(laptop).to_contain_text("requests: the tenant's")
    expect(laptop).to_contain_text("10,000 tokens")
    expect(table.get_by_role("row", name="ci")).to_contain_text("requests: no limit")
    expect(table.get_by_role("row", name="intern")).to_contain_text("Revoked")
    expect(table.get_by_role("row", name="key_78ab")).to_contain_text("Expired")
    expect(page.get_by_text("No limit", exact=True)).to_be_visible()
    assert console.accessibility() == []


def test_a_server_without_keys_says_how_to_make_the_first(open_tab: Open) -> None:
    console = open_tab(locale="zh-CN")
    console.stub("/v1/stats", stats(engine("toy")))
    console.stub("/v1/keys", listed())
    page = console.open("#/usage/keys")
    expect(page.get_by_text("deepwell keys create laptop --tenant acme --expires 90d")).to_be_visible()


def test_a_key_that_may_not_look_is_told_once_and_another_one_helps(open_tab: Open) -> None:
    console = open_tab()
    console.expected.append("status of 403")
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.headers.get("authorization", ""))
        good = asked[-1] == "Bearer dw-better"
        route.fulfill(status=200 if good else 403, json=stats(engine("toy")) if good else SCOPE)

    console.page.route("**/v1/stats", answer)
    console.page.add_init_script("sessionStorage.setItem('deepwell.key', 'dw-poor')")
    page = console.open("#/usage")
    expect(page.get_by_role("alert")).to_contain_text("lacks the scope metrics")
    page.get_by_role("button", name="Change the API key").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key").fill("dw-better")
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("18,204")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert asked.count("Bearer dw-poor") == 1


def test_no_text_of_the_server_runs(open_tab: Open) -> None:
    console = open_tab()
    engines = [engine(text, experts=[[1, 2]]) for text in PAYLOADS]
    console.stub("/v1/stats", stats(*engines, version="\n".join(PAYLOADS)))
    rows = [used(3, model=text, key=text) for text in PAYLOADS]
    page_of_usage = {"object": "page", "data": [bucket(0, 3600, *rows)], "has_more": False, "next_page": None}
    console.stub("/v1/organization/usage/completions", page_of_usage)
    console.stub("/v1/keys", listed(*(key(text, text, tenant=text, scopes=[text]) for text in PAYLOADS)))
    page = console.open("#/usage")
    expect(page.get_by_role("region", name="Models", exact=True).get_by_role("row")).to_have_count(
        len(PAYLOADS) + 1
    )
    expect(page.locator("figure canvas")).to_have_count(2)
    assert_inert(console)
    page.get_by_role("tab", name="Tokens").click()
    page.get_by_label("Group by").select_option("model")
    expect(page.get_by_role("region", name="Sums by group").get_by_role("row")).to_have_count(7)
    page.get_by_label("Group by").select_option("api_key_id")
    assert_inert(console)
    page.get_by_role("tab", name="Keys and limits").click()
    expect(page.get_by_role("row")).to_have_count(len(PAYLOADS) + 1)
    assert_inert(console)
