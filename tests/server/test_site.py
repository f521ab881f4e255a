"""The pages for a browser: what they say, in which language, and that they load nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx
import pytest
from pydantic import SecretStr
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.app import create_app

CHINESE = {"accept-language": "zh-CN,zh;q=0.9"}


class Reader(HTMLParser):
    """Collects the links and the ids of a page, and holds that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "img", "link", "iframe")
        if tag not in ("meta", "br"):
            self.open.append(tag)
        given = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        if name := given.get("id"):
            self.ids.add(name)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("path", ["/start", "/docs"])
@pytest.mark.parametrize("headers", [{}, CHINESE], ids=["en", "zh"])
async def test_a_page_is_sound_and_loads_nothing(
    http: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await http.get(path, headers=headers)
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Reader(answer.text)
    assert all(link.startswith(("/", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert bool(re.search(r"[\u4e00-\u9fff]", answer.text)) == bool(headers)
    for link in {link for link in page.links if link.startswith("/")}:
        assert (await http.get(link)).status_code == 200


@pytest.mark.parametrize("host", ["localhost:99999", "localhost:"])
async def test_a_port_that_there_is_not_is_no_fault_of_the_server(http: httpx.AsyncClient, host: str) -> None:
    answer = await http.get("/start", headers={"host": host})
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_a_browser_gets_the_console_and_everything_else_the_first_page(http: httpx.AsyncClient) -> None:
    console = await http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert console.status_code == 200 and '<div id="app">' in console.text
    policy = dict(
        part.strip().split(" ", 1) for part in console.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self'" and policy["require-trusted-types-for"] == "'script'"
    assert policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert console.headers["x-content-type-options"] == "nosniff"
    assert console.headers["referrer-policy"] == "no-referrer"
    assert (await http.get("/")).text == (await http.get("/start")).text
    assert "set-cookie" not in console.headers


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_the_console_loads_its_parts_from_the_server_alone(
    http: httpx.AsyncClient, encoding: str
) -> None:
    headers = {"accept": "text/html", "accept-encoding": encoding}
    page = (await http.get("/", headers=headers)).text
    parts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(parts) >= 4 and all(part.startswith("/") for part in parts)
    assert "<style" not in page and not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=", page)
    for part in parts:
        answer = await http.get(part, headers=headers)
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
        if part.startswith("/assets/"):
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers.get("content-encoding", "identity") == encoding


@pytest.mark.parametrize("name", ["none.js", "%2e%2e%2findex.html", "..%2f..%2fbundle.py", "index.html"])
async def test_no_other_file_is_an_asset(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/assets/{name}", headers={"accept": "*/*"})).status_code == 404


async def test_the_first_page_says_what_is_served_and_how_to_ask(http: httpx.AsyncClient) -> None:
    text = (await http.get("/start")).text
    assert "toy" in text and "512 tokens" in text and "http://test/v1/chat/completions" in text
    assert "deepwell ask" in text


async def test_the_first_page_names_the_port_that_the_terminal_needs(
    engine: FakeEngine, codec: Codec
) -> None:
    transport = httpx.ASGITransport(create_app(make_service(engine, codec, model="toy")))
    for port, shown in ((8000, False), (8411, True)):
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{port}") as http:
            text = (await http.get("/start")).text
        assert (f"deepwell chat --port {port}" in text) == shown and "deepwell chat" in text


async def test_the_reference_has_every_operation_and_body(http: httpx.AsyncClient) -> None:
    text = (await http.get("/docs")).text
    document = (await http.get("/openapi.json")).json()
    assert all(f"<code>{path}</code>" in text for path in document["paths"])
    assert all(f'id="{name}"' in text for name in document["components"]["schemas"])
    assert "max_completion_tokens" in text


async def test_a_server_with_keys_shows_the_page_and_names_no_model(engine: FakeEngine, codec: Codec) -> None:
    keys = (SecretStr("key-of-one-user-0001"),)
    app = create_app(make_service(engine, codec, model="a-secret-model", api_keys=keys))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        text = (await http.get("/start")).text
        page = (await http.get("/", headers={"accept": "text/html"})).text
        assert (await http.get(re.findall(r'src="([^"]+)"', page)[0])).status_code == 200
        assert (await http.get("/docs")).status_code == 200
    assert "deepwell keys create" in text and "a-secret-model" not in text


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/models", "/v1/models"),
        ("/embeddings/", "/v1/embeddings"),
        ("/v1/chat/completion", "/v1/chat/completions"),
    ],
)
async def test_a_wrong_base_url_names_the_right_path(http: httpx.AsyncClient, path: str, right: str) -> None:
    answer = await http.post(path, json={})
    assert answer.status_code == 404
    assert f"did you mean {right}?" in answer.json()["error"]["message"]


async def test_a_path_that_is_near_none_lists_them(http: httpx.AsyncClient) -> None:
    message = (await http.get("/v1/nothing")).json()["error"]["message"]
    assert "/v1/chat/completions" in message and "did you mean" not in message


async def test_errors_follow_the_language_of_the_request(http: httpx.AsyncClient) -> None:
    body = {"model": "gpt-4o", "messages": []}
    english = await http.post("/v1/chat/completions", json=body)
    chinese = await http.post("/v1/chat/completions", json=body, headers=CHINESE)
    assert english.status_code == chinese.status_code
    assert set(english.json()["error"]) == set(chinese.json()["error"])
    missing = await http.get("/v1/models/gpt-4o", headers=CHINESE)
    assert missing.json()["error"]["code"] == "model_not_found" and "没有提供" in missing.text
    anthropic = await http.post("/v1/messages", json={"model": "toy", "max_token": 5}, headers=CHINESE)
    assert anthropic.json()["type"] == "error" and "未知参数" in anthropic.text
