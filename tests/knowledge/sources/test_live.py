"""Live sources: passages at query time, in time, and errors beside the others' passages."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.knowledge.sources.site import HOST, Asked, Reply, Site, serving, to_loopback
from tests.postgres import Server

from deepwell.errors import DeepwellError, InvalidRequest, SourceError
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.sources.live import LiveAnswers, LiveSource, Result, ask_all, passages_of
from deepwell.knowledge.sources.live_http import LiveHTTP, pointed
from deepwell.knowledge.sources.live_pool import LivePool
from deepwell.knowledge.sources.live_sql import LiveSQL, terms_of
from deepwell.knowledge.sources.opening import open_live, parse_source
from deepwell.knowledge.sources.options import Access, LiveHTTPOptions
from deepwell.knowledge.sources.web.guard import Guard, RefusedAddress


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def endpoint(
    site: Site, path: str = "/search?q={question}&n={limit}", name: str = "wiki", **options: Any
) -> LiveHTTP:
    given = LiveHTTPOptions(**{"timeout_s": 20.0, **options})
    return LiveHTTP(name, site.url(path), given, Guard([HOST], to_loopback))


def replied(value: Any, **options: Any) -> Reply:
    return Reply(json.dumps(value), type="application/json", **options)


async def asked(source: LiveSource, question: str = "x", limit: int = 10) -> list[Passage]:
    try:
        return await source.ask(question, limit)
    finally:
        await source.close()


HITS = {
    "hits": {
        "hits": [
            {
                "_score": 8.0,
                "_source": {"body": "Thirty days of leave.", "head": "Leave", "url": "https://wiki.test/1"},
            },
            {"_score": 2.0, "_source": {"body": ["A highlight.", "Another."], "head": "Travel"}},
            {"_score": 1.0, "_source": {"head": "without a text"}},
        ]
    }
}
POINTERS = {
    "list": "/hits/hits",
    "text": "/_source/body",
    "title": "/_source/head",
    "link": "/_source/url",
    "score": "/_score",
}


async def test_the_question_goes_into_the_url(site: Site) -> None:
    site.replies["/search?q=caf%C3%A9%20%26%20x%3D%7Blimit%7D%2F..&n=2"] = replied([{"text": "found"}])
    found = await asked(endpoint(site), "café & x={limit}/..", 2)
    assert [passage.text for passage in found] == ["found"]


async def test_a_question_of_dots_is_no_other_endpoint(site: Site) -> None:
    assert await asked(endpoint(site, "/search/{question}"), "..") == []
    assert site.asked == []


async def test_a_secret_that_is_no_header_is_not_repeated() -> None:
    spec = parse_source("live:https://x.test/?q={question}", ["headers.Authorization=Bearer ${TOKEN}"])
    await open_live("x", spec, Access(environ={"TOKEN": "hunter2\n"})).close()
    for token in ("hunter2\r\nHost: y", "hunter2\x00", "hünter2"):
        with pytest.raises(InvalidRequest, match="Authorization") as caught:
            open_live("x", spec, Access(environ={"TOKEN": token}))
        assert "nter2" not in str(caught.value)


async def test_the_question_goes_into_a_body(site: Site) -> None:
    site.replies["/search"] = replied(HITS)
    body = '{"query": {"match": {"body": "{question}"}}, "size": "{limit}", "note": "at most {limit}"}'
    found = await asked(
        endpoint(site, "/search", body=body, headers={"X-Key": "k"}, **POINTERS), 'a "quoted" \\ thing', 5
    )
    sent = site.asked[0]
    assert json.loads(sent.body) == {
        "query": {"match": {"body": 'a "quoted" \\ thing'}},
        "size": 5,
        "note": "at most 5",
    }
    assert (sent.method, sent.headers["content-type"], sent.headers["x-key"]) == (
        "POST",
        "application/json",
        "k",
    )
    assert [(passage.text, passage.score, passage.filename) for passage in found] == [
        ("Thirty days of leave.", 1.0, "Leave"),
        ("A highlight.\nAnother.", 0.25, "Travel"),
    ]
    first = found[0]
    assert first.file_id == "live:wiki" and first.key < 0 and first.end == len(first.text)
    assert dict(first.attributes) == {"live": True, "url": "https://wiki.test/1", "title": "Leave"}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("<html>", 200), "answers no JSON"),
        (Reply("[" * 100_000, 200), "answers no JSON"),
        (Reply("", 200), "answers no JSON"),
        (Reply("{}", 200), "has no list at the root"),
        (Reply('[{"body": "x"}]', 200), "has a text at /text"),
        (Reply("no", 403), "answers 403"),
        (Reply("no", 503), "answers 503"),
        (Reply("", 302, headers={"Location": "http://127.0.0.1/"}), "answers 302"),
        (Reply("[" + " " * 10_000 + "]", 200), "larger than"),
        (Reply(b"\x89PNG", 200, type="image/png"), "has no text"),
    ],
)
async def test_what_goes_wrong_is_said(site: Site, reply: Reply, reason: str) -> None:
    site.replies["/search?q=x&n=10"] = reply
    with pytest.raises(SourceError, match=reason) as caught:
        await asked(endpoint(site, max_bytes=5_000 if reason == "larger than" else 1 << 20))
    assert caught.value.fix


async def test_an_empty_list_is_no_error(site: Site) -> None:
    site.replies["/search?q=x&n=10"] = replied([])
    assert await asked(endpoint(site)) == []


async def test_one_source_that_fails_leaves_the_others(site: Site) -> None:
    site.replies["/good?q=x"] = replied([{"text": "good"}])

    def silent(_asked: Asked) -> Reply:
        site.closing.wait(20)
        return Reply("late")

    site.replies["/slow?q=x"] = silent
    sources = [
        endpoint(site, "/slow?q={question}", "slow", timeout_s=0.2),
        endpoint(site, "/good?q={question}", "good"),
        endpoint(site, "/missing?q={question}", "missing"),
        LiveHTTP("private", f"http://127.0.0.1:{site.port}/?q={{question}}", LiveHTTPOptions(), Guard()),
        Broken(),
    ]
    answers = await ask_all(sources, "x")
    for source in sources:
        await source.close()
    assert [passage.text for passage in answers.passages] == ["good"]
    assert set(answers.errors) == {"slow", "missing", "private", "broken"}
    assert "did not answer within 0.2 s" in str(answers.errors["slow"])
    assert isinstance(answers.errors["private"], RefusedAddress)
    assert isinstance(answers.errors["broken"], DeepwellError)
    assert await ask_all([], "x") == LiveAnswers()


class Broken:
    """A source with a fault of its own."""

    name = "broken"

    async def ask(self, question: str, limit: int) -> list[Passage]:
        raise ZeroDivisionError

    async def close(self) -> None:
        pass


async def test_a_search_that_is_given_up_is_given_up_everywhere(site: Site) -> None:
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()

    def silent(_asked: Asked) -> Reply:
        loop.call_soon_threadsafe(arrived.set)
        site.closing.wait(20)
        return Reply("late")

    site.replies["/search?q=x&n=10"] = silent
    source = endpoint(site)
    task = asyncio.create_task(ask_all([source], "x"))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await source.close()


@pytest.mark.parametrize(
    "options",
    [{"list": "hits"}, {"text": "body"}, {"body": "{question}"}, {"body": '{"q": 1}'}],
)
def test_options_that_do_not_fit(site: Site, options: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        endpoint(site, "/search", **options)


def test_the_address_is_guarded() -> None:
    for url in (
        "https://{question}/",
        "https://{question}.x.test/",
        "https://x.test:{question}/?q={question}",
        "http://user:pw@h/?q={question}",
        "ftp://h/?q={question}",
        "http://2130706433/?q={question}",
    ):
        with pytest.raises(DeepwellError):
            open_live("x", parse_source(f"live:{url}"))


async def test_a_description_is_opened_with_the_environment(site: Site) -> None:
    site.replies["/s?q=x&key=k1"] = replied([{"text": "found"}])
    spec = parse_source(
        f"live:http://127.0.0.1:{site.port}/s?q={{question}}&key=${{KEY}}",
        ["headers.Authorization=Bearer ${TOKEN}"],
    )
    access = Access(("127.0.0.1",), environ={"KEY": "k1", "TOKEN": "t1"})
    assert [passage.text for passage in await asked(open_live("s", spec, access))] == ["found"]
    assert site.asked[0].headers["authorization"] == "Bearer t1"
    assert "k1" not in repr(spec)


async def test_a_pool_keeps_sources_open(site: Site, notes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.knowledge.sources.live_pool._MOST_OPEN", 1)
    site.replies["/s?q=leave"] = replied([{"text": "from the wiki"}])
    specs = {
        "wiki": parse_source(f"live:http://127.0.0.1:{site.port}/s?q={{question}}"),
        "notes": parse_source(
            f"live:sql:{notes} SELECT body AS text FROM notes WHERE instr(:question, lower(title)) > 0"
        ),
        "closed": parse_source(
            "live:https://x.test/?q={question}", ["headers.Authorization=${NO_SUCH_TOKEN}"]
        ),
        "folder": parse_source("/tmp"),
    }
    pool = LivePool(Access(("127.0.0.1",), environ={}))
    for _ in range(2):
        answers = await pool.ask(specs, "leave")
        assert [passage.text for passage in answers.passages] == [
            "from the wiki",
            "thirty days of annual leave",
        ]
        assert {name: type(error) for name, error in answers.errors.items()} == {
            "closed": InvalidRequest,
            "folder": InvalidRequest,
        }
    await pool.close()
    await pool.close()


# SQL

NOTES = """
CREATE TABLE notes (id INTEGER, title TEXT, body TEXT, link TEXT, team TEXT);
INSERT INTO notes VALUES (1, 'Leave', 'thirty days of annual leave', 'https://wiki.test/1', 'hr');
INSERT INTO notes VALUES (2, 'Travel', 'second class by train', NULL, 'hr');
INSERT INTO notes VALUES (3, '年假', '员工每年有三十天年假', NULL, 'hr');
"""


@pytest.fixture
def notes(tmp_path: Path) -> str:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(NOTES)
        connection.executescript(
            "CREATE VIRTUAL TABLE words USING fts5(title, body); INSERT INTO words SELECT title, body FROM notes"
        )
    return f"sqlite:///{path}"


def live(url: str, query: str, *options: str) -> LiveSource:
    return open_live("notes", parse_source(f"live:sql:{url} {query}", options))


async def test_the_question_is_a_bound_parameter(notes: str) -> None:
    query = "SELECT body, title, link, team, 0.5 AS score FROM notes WHERE instr(:question, title) > 0 LIMIT :limit"
    found = await asked(live(notes, query, "text=body"), "Leave'; DROP TABLE notes; --")
    assert [(passage.text, passage.filename, passage.score) for passage in found] == [
        ("thirty days of annual leave", "Leave", 0.5)
    ]
    assert dict(found[0].attributes) == {
        "live": True,
        "url": "https://wiki.test/1",
        "title": "Leave",
        "team": "hr",
    }
    assert (
        len(await asked(live(notes, "SELECT body AS text FROM notes WHERE :question = :question"), limit=2))
        == 2
    )


async def test_terms_for_full_text_search(notes: str) -> None:
    query = (
        "SELECT body AS text, -rank AS score FROM words WHERE words MATCH :terms ORDER BY rank LIMIT :limit"
    )
    source = live(notes, query)
    texts = [
        passage.text for passage in await source.ask('How many days of "leave" do I have (please)? * NEAR', 5)
    ]
    assert texts[0] == "thirty days of annual leave"
    assert await source.ask("?!", 5) == []
    await source.close()


async def test_terms_one_by_one(notes: str) -> None:
    query = "SELECT body AS text FROM notes WHERE body LIKE '%' || :term_1 || '%' OR body LIKE '%' || :term_2 || '%'"
    assert [passage.text for passage in await asked(live(notes, query), "annual?")] == [
        "thirty days of annual leave"
    ]
    assert [passage.text for passage in await asked(live(notes, query), "年假")] == ["员工每年有三十天年假"]


async def test_postgresql_searches_the_same_terms(server: Server) -> None:
    url = server.create()
    server.sql(url.rpartition("?")[0].rpartition("/")[2], NOTES)
    query = (
        "SELECT body AS text, title, ts_rank(v, q) AS score FROM notes, to_tsvector('english', body) v,"
        " websearch_to_tsquery('english', :terms) q WHERE v @@ q AND title NOT LIKE '100%' ORDER BY score DESC LIMIT :limit"
    )
    source = live(url, query)
    found = await source.ask("How many days of leave? -- ' OR 1=1", 5)
    assert [passage.text for passage in found] == ["thirty days of annual leave"]
    assert await source.ask("'; DELETE FROM notes", 5) == []
    await source.close()


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("DELETE FROM notes", "only reads"),
        ("SELECT 1 AS text", "does not use the question"),
        ("SELECT :limit AS text", "does not use the question"),
        ("SELECT :user AS text WHERE :question", "uses :user"),
    ],
)
def test_queries_that_are_refused(notes: str, query: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        live(notes, query)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT body FROM notes WHERE :question = :question", "has no column text: it has body"),
        ("SELECT nothing AS text FROM notes WHERE :question = :question", "nothing"),
        (
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) AS text, :question FROM n",
            "did not answer",
        ),
        ("SELECT printf('%.*c', 9000000, 'x') AS text, :question", "answers more than"),
    ],
)
async def test_queries_that_fail(notes: str, query: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        await asked(live(notes, query, "timeout_s=0.3" if "RECURSIVE" in query else "timeout_s=20"))
    assert reason in str(caught.value)


async def test_a_long_text_is_cut_and_says_so(notes: str) -> None:
    found = await asked(
        live(notes, "SELECT body AS text FROM notes WHERE :question = :question", "max_chars=10")
    )
    assert found[0].text == "thirty day" and found[0].attributes["truncated"] is True


# Small parts


def test_the_same_result_has_the_same_key() -> None:
    results = [Result("a"), Result("b", link="https://x.test"), Result("a", title="other")]
    keys = [passage.key for passage in passages_of("n", results, 10, 100)]
    assert keys == [passage.key for passage in passages_of("n", results, 10, 100)]
    assert len({*keys, *(passage.key for passage in passages_of("m", results, 10, 100))}) == 6
    assert all(-(2**56) <= key < 0 for key in keys)


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.none())))
def test_scores_are_between_0_and_1(results: list[tuple[str, float | None]]) -> None:
    passages = passages_of("n", [Result(text, score=score) for text, score in results], 10, 100)
    assert all(0 <= passage.score <= 1 and passage.text for passage in passages)


@pytest.mark.parametrize(
    ("question", "terms"),
    [
        ("How many days?", ["how", "many", "days"]),
        ("年假有多少天？ leave", ["年假", "假有", "有多", "多少", "少天", "leave"]),
        ("年假", ["年假"]),
        ('a "b" OR -c:d* snake_case', ["or", "snake", "case"]),
        ("", []),
    ],
)
def test_terms(question: str, terms: list[str]) -> None:
    assert terms_of(question) == terms


@given(st.text(max_size=200))
def test_terms_are_words(question: str) -> None:
    assert all(term.isalnum() or not term.isascii() for term in terms_of(question))


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", {"a": [{"b/c": 1}], "~": 2}),
        ("/a/0/b~1c", 1),
        ("/~0", 2),
        ("/a/1", None),
        ("/a/x", None),
        ("/x/y", None),
    ],
)
def test_pointers(pointer: str, found: Any) -> None:
    assert pointed({"a": [{"b/c": 1}], "~": 2}, pointer) == found


def test_live_sql_is_a_live_source() -> None:
    assert {name for name in ("ask", "close") if hasattr(LiveSQL, name)} == {"ask", "close"}
