"""`Web`: pages, sitemaps and feeds over HTTP, with what changed since they were last read."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from tests.knowledge.sources.site import HOST, Asked, Reply, Site, serving, to_loopback

from deepwell.knowledge.sources.options import URLOptions
from deepwell.knowledge.sources.source import Change
from deepwell.knowledge.sources.web.fetch import Manners
from deepwell.knowledge.sources.web.guard import Guard, RefusedAddress
from deepwell.knowledge.sources.web.web import Web


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def web(
    site: Site,
    path: str = "/",
    kind: str = "url",
    *,
    max_bytes: int = 1 << 20,
    manners: Manners | None = None,
    **options: Any,
) -> Web:
    guard = Guard([HOST, "*.site.test"], to_loopback)
    given = URLOptions(**{"delay_s": 0.0, "timeout_s": 20.0, **options})
    return Web(site.url(path), kind, given, guard, max_bytes=max_bytes, manners=manners)  # type: ignore[arg-type]


async def scanned(source: Web, known: dict[str, str] | None = None) -> dict[str, Change]:
    """The changes of a scan by path, or by address where it lies elsewhere."""
    async with aclosing(source.scan(known or {})) as changes:
        found = [change async for change in changes]
    assert len({change.uri for change in found}) == len(found)
    return {_path(change.uri): change for change in found}


def _path(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    return f"/{path}" if host.startswith(f"{HOST}:") else f"{scheme}://{host.partition(':')[0]}/{path}"


def kinds(changes: dict[str, Change]) -> dict[str, str]:
    return {name: change.kind for name, change in changes.items()}


def versions(changes: dict[str, Change]) -> dict[str, str]:
    return {change.uri: change.version for change in changes.values() if change.version}


def error(changes: dict[str, Change], path: str = "/") -> str:
    change = changes[path]
    assert change.kind == "failed" and change.error is not None and change.error.fix
    return str(change.error)


def content(changes: dict[str, Change], path: str) -> bytes:
    fetched = changes[path].fetched
    assert fetched is not None
    return fetched.content


# One page


async def test_a_page_that_did_not_change_does_not_come_again(site: Site) -> None:
    site.replies["/"] = Reply(
        "<h1>one</h1>", headers={"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    )
    first = await scanned(web(site))
    assert kinds(first) == {"/": "added"}
    assert first["/"].fetched is not None
    assert first["/"].fetched.media_type == "text/html; charset=utf-8"
    assert first["/"].fetched.metadata["url"] == site.url("/")
    assert kinds(await scanned(web(site), versions(first))) == {"/": "unchanged"}
    assert site.asked[-1].headers["if-none-match"] == '"1"'
    assert site.asked[-1].headers["if-modified-since"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    site.replies["/"] = Reply("<h1>two</h1>", headers={"ETag": '"2"'})
    second = await scanned(web(site), versions(first))
    assert kinds(second) == {"/": "changed"}
    assert content(second, "/") == b"<h1>two</h1>"


async def test_a_page_without_validators_is_compared_by_its_bytes(site: Site) -> None:
    site.replies["/"] = Reply("same")
    first = await scanned(web(site))
    assert kinds(await scanned(web(site), versions(first))) == {"/": "unchanged"}
    site.replies["/"] = Reply("same", headers={"ETag": '"new"'})
    again = await scanned(web(site), versions(first))
    assert kinds(again) == {"/": "unchanged"}
    assert again["/"].version != first["/"].version  # the next question will name the new ETag


async def test_a_page_that_is_gone_is_removed_and_one_that_fails_is_kept(site: Site) -> None:
    site.replies["/"] = Reply("page")
    known = versions(await scanned(web(site)))
    for status in (404, 410):
        site.replies["/"] = Reply(status=status)
        assert kinds(await scanned(web(site), known)) == {"/": "removed"}
        assert kinds(await scanned(web(site))) == {"/": "failed"}
    for status in (400, 401, 403, 500, 502):
        site.replies["/"] = Reply(status=status)
        assert f"answers {status}" in error(await scanned(web(site), known))


async def test_a_server_that_is_down_removes_nothing(site: Site) -> None:
    site.replies["/"] = Reply("page")
    source = web(site)
    known = versions(await scanned(source))
    with serving() as other:
        other.replies["/"] = Reply("page")
        gone = web(other)
    assert "cannot be read" in error(await scanned(gone, {gone.uri: known[source.uri]}))


async def test_a_private_address_names_the_setting(site: Site) -> None:
    source = Web(site.url("/", "127.0.0.1"), "url", URLOptions(), Guard(), max_bytes=1_000)
    changes = [change async for change in source.scan({})]
    assert (
        isinstance(changes[0].error, RefusedAddress) and "KNOWLEDGE_HOSTS=127.0.0.1" in changes[0].error.fix
    )
    assert site.asked == []


async def test_the_encoding_of_the_header_counts(site: Site) -> None:
    page = '<meta charset="utf-8"><p>你好</p>'
    site.replies["/"] = Reply(page.encode("gb18030"), type="text/html; charset=GBK")
    assert content(await scanned(web(site)), "/").decode("utf-8-sig") == page
    site.replies["/"] = Reply(b"\xff\xfe", type="text/html; charset=gbk")
    assert content(await scanned(web(site)), "/") == b"\xff\xfe"


# Limits


async def test_a_large_page_is_refused_before_it_came(site: Site) -> None:
    def endless() -> Iterator[bytes]:
        while not site.closing.is_set():
            yield bytes(10_000)

    site.replies["/"] = Reply(b"x" * 2_000)
    assert "larger than" in error(await scanned(web(site, max_bytes=1_000)))
    site.replies["/"] = Reply(parts=endless)
    assert "larger than" in error(await scanned(web(site, max_bytes=1_000)))


async def test_a_gzip_bomb_is_refused(site: Site) -> None:
    bomb = gzip.compress(bytes(50_000_000), mtime=0)
    site.replies["/"] = Reply(bomb, headers={"Content-Encoding": "gzip"})
    assert "larger than" in error(await scanned(web(site, max_bytes=100_000)))
    site.replies["/"] = Reply(
        gzip.compress(b"fine", mtime=0) + gzip.compress(b" too"), headers={"Content-Encoding": "gzip"}
    )
    assert content(await scanned(web(site)), "/") == b"fine too"
    for broken in (gzip.compress(b"fine", mtime=0)[:-9], b"\x1f\x8b\x08\x00nonsense"):
        site.replies["/"] = Reply(broken, headers={"Content-Encoding": "gzip"})
        assert "gzip" in error(await scanned(web(site)))
    site.replies["/"] = Reply(b"x", headers={"Content-Encoding": "br"})
    assert "which was not asked for" in error(await scanned(web(site)))


async def test_a_slow_drip_ends(site: Site) -> None:
    def drip() -> Iterator[bytes]:
        while not site.closing.wait(0.02):
            yield b"x"

    site.replies["/"] = Reply(parts=drip)
    assert "did not answer within 0.3 s" in error(await scanned(web(site, timeout_s=0.3)))


async def test_pictures_are_not_downloaded(site: Site) -> None:
    site.replies["/"] = Reply(b"\x89PNG", type="image/png")
    assert "image/png, which has no text" in error(await scanned(web(site)))


# Redirects


async def test_redirects_are_followed_hop_by_hop(site: Site) -> None:
    site.replies["/"] = Reply(status=301, headers={"Location": "/b?c=d"})
    site.replies["/b?c=d"] = Reply(status=302, headers={"Location": site.url("/final", "www.site.test")})
    site.replies["/final"] = Reply("here")
    found = await scanned(web(site))
    assert content(found, "/") == b"here"
    assert found["/"].fetched is not None
    assert found["/"].fetched.metadata["url"] == site.url("/final", "www.site.test")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1:{port}/secret", "private network"),
        ("http://evil.test:{port}/secret", "private network"),
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("http://2130706433:{port}/secret", "unusual form"),
        ("file:///etc/passwd", "file: scheme"),
        ("http://user:pw@site.test:{port}/secret", "user or a password"),
        ("http://[::1", "cannot be read: Invalid URL"),
        ("/", "more than 5 times"),
    ],
)
async def test_a_redirect_into_private_space_is_refused(site: Site, location: str, reason: str) -> None:
    site.replies["/"] = Reply(status=302, headers={"Location": location.format(port=site.port)})
    site.replies["/secret"] = Reply("secret")
    assert reason in error(await scanned(web(site)))
    assert "/secret" not in site.paths()


async def test_headers_go_to_their_host_alone(site: Site) -> None:
    site.replies["/"] = Reply(status=302, headers={"Location": site.url("/b", "www.site.test")})
    site.replies["/b"] = Reply("b")
    await scanned(web(site, headers={"Authorization": "Bearer t"}))
    sent = {
        asked.path: asked.headers.get("authorization") for asked in site.asked if asked.path != "/robots.txt"
    }
    assert sent == {"/": "Bearer t", "/b": None}


# Robots and manners


async def test_robots_txt_is_obeyed_and_read_once(site: Site) -> None:
    site.replies["/robots.txt"] = Reply(
        "User-agent: *\nDisallow: /\n\nUser-agent: deepwell/2\nDisallow: /private", type="text/plain"
    )
    site.replies["/"] = Reply("open")
    site.replies["/private/a"] = Reply("closed")
    site.replies["/jump"] = Reply(status=302, headers={"Location": "/private/a"})
    source = web(site)
    assert kinds(await scanned(source)) == {"/": "added"}
    assert kinds(await scanned(source)) == {"/": "added"}
    assert [asked.path for asked in site.asked] == ["/robots.txt", "/", "/"]
    for path in ("/private/a", "/jump"):
        found = await scanned(web(site, path))
        assert kinds(found) == {path: "skipped"}
        assert "forbids" in found[path].reason
    assert "/private/a" not in site.paths()
    assert kinds(await scanned(web(site, "/private/a", robots=False))) == {"/private/a": "added"}


@pytest.mark.parametrize(
    ("status", "expected"), [(404, "added"), (403, "added"), (500, "skipped"), (429, "skipped")]
)
async def test_a_robots_txt_that_fails(site: Site, status: int, expected: str) -> None:
    site.replies["/robots.txt"] = Reply(status=status)
    site.replies["/"] = Reply("page")
    assert kinds(await scanned(web(site))) == {"/": expected}


class Clock:
    """A time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds


async def test_requests_to_one_host_keep_their_distance(site: Site) -> None:
    site.replies["/"] = Reply(_sitemap(site, "/a", "/b"))
    site.replies["/a"] = site.replies["/b"] = Reply("page")
    clock = Clock()
    await scanned(web(site, manners=Manners(clock, clock.sleep), delay_s=0.5))
    assert clock.slept == [0.5, 0.5, 0.5]  # robots.txt, the sitemap, two pages
    site.replies["/robots.txt"] = Reply("User-agent: *\nCrawl-delay: 2", type="text/plain")
    clock = Clock()
    await scanned(web(site, manners=Manners(clock, clock.sleep), delay_s=0.5))
    assert clock.slept == [0.5, 2.0, 2.0]


async def test_a_server_that_asks_to_wait_is_asked_once_more(site: Site) -> None:
    answers = itertools.chain(
        [Reply(status=429, headers={"Retry-After": "7"})], itertools.repeat(Reply("page"))
    )
    site.replies["/"] = lambda _asked: next(answers)
    clock = Clock()
    assert kinds(await scanned(web(site, manners=Manners(clock, clock.sleep)))) == {"/": "added"}
    assert clock.slept == [7.0]
    for wait in ("7", "86400", "soon", "Mon, 01 Jan 2080 00:00:00 GMT"):
        site.replies["/"] = Reply(status=503, headers={"Retry-After": wait})
        clock = Clock()
        assert "answers 503" in error(await scanned(web(site, manners=Manners(clock, clock.sleep))))
        assert clock.slept == ([7.0] if wait == "7" else [])


# Sitemaps


def _sitemap(site: Site, *paths: str, root: str = "urlset", item: str = "url", modified: str = "") -> str:
    dated = f"<lastmod>{modified}</lastmod>" if modified else ""
    entries = "".join(f"<{item}><loc>{site.url(path)}</loc>{dated}</{item}>" for path in paths)
    return (
        f'<?xml version="1.0"?><{root} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</{root}>'
    )


async def test_the_pages_of_a_sitemap(site: Site) -> None:
    site.replies["/sitemap.xml"] = Reply(
        _sitemap(site, "/a", "/b?x=1&amp;y=2", "/gone"), type="application/xml"
    )
    site.replies["/a"] = Reply("a", headers={"ETag": '"a"'})
    site.replies["/b?x=1&y=2"] = Reply("b")
    first = await scanned(web(site, "/sitemap.xml"))
    assert kinds(first) == {"/a": "added", "/b?x=1&y=2": "added", "/gone": "failed"}
    site.replies["/sitemap.xml"] = Reply(_sitemap(site, "/a", "/c"), type="application/xml")
    site.replies["/c"] = Reply("c")
    second = await scanned(web(site, "/sitemap.xml"), versions(first))
    assert kinds(second) == {"/a": "unchanged", "/b?x=1&y=2": "removed", "/c": "added"}


async def test_nested_and_compressed_sitemaps(site: Site) -> None:
    index = _sitemap(site, "/one.xml.gz", "/two.txt", "/index.xml", root="sitemapindex", item="sitemap")
    site.replies["/index.xml"] = Reply(index)  # it lists itself too
    site.replies["/one.xml.gz"] = Reply(gzip.compress(_sitemap(site, "/a").encode()), type="application/gzip")
    site.replies["/two.txt"] = Reply(f"{site.url('/a')}\n{site.url('/b')}\n", type="text/plain")
    site.replies["/a"] = site.replies["/b"] = Reply("page")
    assert kinds(await scanned(web(site, "/index.xml"))) == {"/a": "added", "/b": "added"}
    assert kinds(await scanned(web(site, "/one.xml.gz"))) == {"/a": "added"}
    assert kinds(await scanned(web(site, "/two.txt", "sitemap"))) == {"/a": "added", "/b": "added"}


async def test_a_part_that_cannot_be_read_removes_nothing(site: Site) -> None:
    index = _sitemap(site, "/one.xml", "/two.xml", root="sitemapindex", item="sitemap")
    site.replies["/index.xml"] = Reply(index)
    site.replies["/one.xml"] = Reply(_sitemap(site, "/a"))
    site.replies["/two.xml"] = Reply(_sitemap(site, "/b"))
    site.replies["/a"] = site.replies["/b"] = Reply("page")
    known = versions(await scanned(web(site, "/index.xml")))
    for broken in (
        Reply(status=500),
        Reply(status=404),
        Reply("<html>"),
        Reply(_sitemap(site, "/c", "/d")[:-30]),
    ):
        site.replies["/two.xml"] = broken
        found = kinds(await scanned(web(site, "/index.xml"), known))
        assert found["/two.xml"] == "failed" and "removed" not in found.values()


async def test_pages_of_other_hosts_and_patterns(site: Site) -> None:
    body = _sitemap(site, "/docs/a", "/docs/private/b", "/blog/c").replace(
        "</urlset>",
        f"<url><loc>{site.url('/x', 'evil.test')}</loc></url><url><loc>http://[::1</loc></url></urlset>",
    )
    site.replies["/sitemap.xml"] = Reply(body)
    site.replies["/docs/a"] = Reply("a")
    found = await scanned(web(site, "/sitemap.xml", include=["docs/**"], exclude=["docs/private"]))
    assert kinds(found) == {"/docs/a": "added", "http://evil.test/": "skipped", ":///": "skipped"}
    assert "1 pages of another host" in found["http://evil.test/"].reason
    found = await scanned(web(site, "/sitemap.xml", other_hosts=True, exclude=["docs", "blog"]))
    assert kinds(found) == {"http://evil.test/x": "failed", "http://[/": "failed"}


async def test_what_is_left_out_is_said(site: Site) -> None:
    site.replies["/sitemap.xml"] = Reply(_sitemap(site, "/a", "/b", "/c"))
    site.replies["/a"] = site.replies["/b"] = Reply("page")
    found = await scanned(web(site, "/sitemap.xml", max_pages=2))
    assert kinds(found) == {"/sitemap.xml": "skipped", "/a": "added", "/b": "added"}
    assert found["/sitemap.xml"].reason == "1 more were left out: raise max_pages"


async def test_sitemaps_without_end_are_not_held_in_memory(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.knowledge.sources.web.web._MOST_LINKS", 2)
    monkeypatch.setattr("deepwell.knowledge.sources.web.web._MOST_HOSTS", 1)
    site.replies["/index.xml"] = Reply(
        _sitemap(site, "/1.xml", "/2.xml", root="sitemapindex", item="sitemap")
    )
    others = "".join(f"<url><loc>http://{number}.test/</loc></url>" for number in range(5))
    site.replies["/1.xml"] = Reply(
        _sitemap(site, "/a", "/b", "/c").replace("</urlset>", f"{others}</urlset>")
    )
    source = web(site, "/index.xml", max_pages=1, robots=False)
    async with aclosing(source.scan({site.url("/old"): "1"})) as changes:
        found = [change async for change in changes]
    assert [change.reason.partition(" ")[0] for change in found if change.kind == "skipped"] == [
        "1",
        "4",
        "2",
    ]
    assert "1 of them were not read" in "".join(str(change.error) for change in found)
    assert not any(change.kind == "removed" for change in found)


async def test_a_trusted_lastmod_saves_the_question(site: Site) -> None:
    site.replies["/sitemap.xml"] = Reply(_sitemap(site, "/a", modified="2024-01-01"))
    site.replies["/a"] = Reply("a")
    known = versions(await scanned(web(site, "/sitemap.xml", trust_lastmod=True)))
    site.paths()
    assert kinds(await scanned(web(site, "/sitemap.xml", trust_lastmod=True), known)) == {"/a": "unchanged"}
    assert site.paths() == ["/sitemap.xml"]
    assert kinds(await scanned(web(site, "/sitemap.xml"), known)) == {"/a": "unchanged"}
    assert site.paths() == ["/sitemap.xml", "/a"]
    site.replies["/sitemap.xml"] = Reply(_sitemap(site, "/a", modified="2024-01-02"))
    site.replies["/a"] = Reply("new")
    assert kinds(await scanned(web(site, "/sitemap.xml", trust_lastmod=True), known)) == {"/a": "changed"}


async def test_a_site_that_went_down_is_given_up(site: Site) -> None:
    site.replies["/sitemap.xml"] = Reply(_sitemap(site, *(f"/{number}" for number in range(60))))
    for number in range(60):
        site.replies[f"/{number}"] = Reply(status=500)
    found = await scanned(web(site, "/sitemap.xml"))
    assert "40 more" in error(found, "/sitemap.xml")
    assert len(site.paths()) == 21


BOMB = """<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d SYSTEM "file:///etc/passwd">]>"""


@pytest.mark.parametrize(
    "body",
    [
        BOMB + "<urlset><url><loc>http://site.test/&c;&d;</loc></url></urlset>",
        '<!DOCTYPE urlset SYSTEM "http://evil.test/x.dtd"><urlset></urlset>',
        "<urlset" * 50_000,
        "<urlset>" + "<a>" * 50_000,
        "<urlset><url><loc>" + "x" * 500_000,
        "\x00\x01\x02",
        "not a list",
        "",
        gzip.compress(bytes(60 << 20), mtime=0),
        gzip.compress(b"<urlset>", mtime=0)[:10],
    ],
)
async def test_hostile_sitemaps_are_errors(site: Site, body: str | bytes) -> None:
    site.replies["/sitemap.xml"] = Reply(body)
    found = await scanned(web(site, "/sitemap.xml", "sitemap"))
    assert kinds(found) == {"/sitemap.xml": "failed"}


# Feeds


def _rss(site: Site, *items: str) -> str:
    return f'<?xml version="1.0"?><rss version="2.0" xmlns:content="http://purl.org/rss/1.0/modules/content/"><channel><title>T</title>{"".join(items)}</channel></rss>'


def _item(
    site: Site, path: str, *, title: str = "An entry", body: str = "", date: str = "", summary: str = "short"
) -> str:
    whole = f"<content:encoded><![CDATA[{body}]]></content:encoded>" if body else ""
    dated = f"<pubDate>{date}</pubDate>" if date else ""
    return f"<item><title>{title}</title><link>{site.url(path)}</link><description>{summary}</description>{whole}{dated}</item>"


MONDAY, TUESDAY = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"


async def test_entries_with_their_text_and_entries_with_pages(site: Site) -> None:
    site.replies["/rss"] = Reply(
        _rss(site, _item(site, "/whole", body="<p>all of it</p>"), _item(site, "/page", date=MONDAY))
    )
    site.replies["/page"] = Reply("<p>the page</p>")
    found = await scanned(web(site, "/rss"))
    assert kinds(found) == {"/whole": "added", "/page": "added"}
    assert b"all of it" in content(found, "/whole") and b"<h1>An entry</h1>" in content(found, "/whole")
    assert content(found, "/page") == b"<p>the page</p>"
    assert found["/page"].fetched is not None
    assert found["/page"].fetched.metadata == {"url": site.url("/page"), "title": "An entry", "date": MONDAY}
    assert site.paths() == ["/rss", "/page"]


async def test_an_entry_is_asked_for_again_when_its_date_changed(site: Site) -> None:
    site.replies["/rss"] = Reply(_rss(site, _item(site, "/a", date=MONDAY), _item(site, "/b")))
    site.replies["/a"] = site.replies["/b"] = Reply("page")
    known = versions(await scanned(web(site, "/rss")))
    site.paths()
    assert kinds(await scanned(web(site, "/rss"), known)) == {"/a": "unchanged", "/b": "unchanged"}
    assert site.paths() == ["/rss", "/b"]  # without a date there is nothing to go by
    site.replies["/rss"] = Reply(_rss(site, _item(site, "/a", date=TUESDAY)))
    site.replies["/a"] = Reply("news")
    assert kinds(await scanned(web(site, "/rss"), known)) == {"/a": "changed"}


async def test_entries_that_left_the_feed_stay_unless_it_is_mirrored(site: Site) -> None:
    site.replies["/rss"] = Reply(_rss(site, _item(site, "/a", body="a"), _item(site, "/b", body="b")))
    known = versions(await scanned(web(site, "/rss")))
    site.replies["/rss"] = Reply(_rss(site, _item(site, "/b", body="b")))
    assert kinds(await scanned(web(site, "/rss"), known)) == {"/b": "unchanged"}
    assert kinds(await scanned(web(site, "/rss", mirror=True), known)) == {"/b": "unchanged", "/a": "removed"}


async def test_atom_and_entries_without_a_link(site: Site) -> None:
    body = (
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>T</title>'
        "<entry><id>urn:1</id><title>One &amp; two</title>"
        '<content type="html">&lt;script&gt;x()&lt;/script&gt;&lt;b&gt;bold&lt;/b&gt;</content></entry>'
        "<entry><id>urn:2</id></entry></feed>"
    )
    site.replies["/atom"] = Reply(body, type="application/atom+xml")
    found = await scanned(web(site, "/atom", "feed"))
    assert kinds(found) == {"/atom#urn%3A1": "added", "/atom#urn%3A2": "skipped"}
    text = content(found, "/atom#urn%3A1").decode()
    assert "<title>One &amp; two</title>" in text and "<b>bold</b>" in text and "script" not in text


async def test_a_feed_that_did_not_change_does_not_come_again(site: Site) -> None:
    site.replies["/rss"] = Reply(_rss(site, _item(site, "/a", body="a")), headers={"ETag": '"1"'})
    source = web(site, "/rss")
    known = versions(await scanned(source))
    assert kinds(await scanned(source, known)) == {"/a": "unchanged"}
    assert site.asked[-1].headers["if-none-match"] == '"1"'


async def test_what_a_feed_says_too_much_is_left_out_and_said(site: Site) -> None:
    site.replies["/rss"] = Reply(_rss(site, *(_item(site, f"/{number}", body="x") for number in range(5))))
    found = await scanned(web(site, "/rss", max_entries=2, mirror=True), {site.url("/old"): "1"})
    assert kinds(found) == {"/rss": "skipped", "/0": "added", "/1": "added"}


async def test_links_of_a_feed_into_private_space_are_refused(site: Site) -> None:
    item = _item(site, "/").replace(site.url("/"), f"http://127.0.0.1:{site.port}/secret")
    site.replies["/rss"] = Reply(_rss(site, item, _item(site, "/b")))
    site.replies["/secret"] = Reply("secret")
    site.replies["/b"] = Reply("b")
    found = await scanned(web(site, "/rss"))
    assert kinds(found) == {"http://127.0.0.1/secret": "failed", "/b": "added"}
    assert "/secret" not in site.paths()


@pytest.mark.parametrize(
    "body",
    [
        BOMB + "<rss version='2.0'><channel><item><title>&c;&d;</title></item></channel></rss>",
        "<rss version='2.0'><channel>" + "<item><title>x" * 100_000,
        "<rss" + "<" * 1_200_000,
        f"<rss version='2.0'><channel>{'<a/>' * 100_001}</channel></rss>",
        "<html><body>no feed</body></html>",
        "\x00\xff",
        "",
    ],
)
async def test_hostile_feeds_are_errors(site: Site, body: str) -> None:
    site.replies["/rss"] = Reply(body)
    found = await scanned(web(site, "/rss", "feed"))
    assert kinds(found) == {"/rss": "failed"}


async def test_a_feed_that_is_not_well_formed_is_read(site: Site) -> None:
    site.replies["/rss"] = Reply(
        _rss(site, _item(site, "/a", title="R&D", body="text")).replace("</channel>", "")
    )
    assert kinds(await scanned(web(site, "/rss"))) == {"/a": "added"}


# Watching


async def test_watching_scans_again_and_says_what_changed(site: Site) -> None:
    site.replies["/"] = Reply("one")

    async def changes(source: Web) -> AsyncGenerator[Change]:
        async with aclosing(source.watch({})) as found:
            async for change in found:
                yield change

    async with aclosing(changes(web(site, every_s=0.01))) as found:
        assert (await anext(found)).kind == "added"
        site.replies["/"] = Reply("two")
        assert (await anext(found)).kind == "changed"
        site.replies["/"] = Reply(status=500)
        assert (await anext(found)).kind == "failed"  # once, however often it is tried

        def recovered(asked: Asked) -> Reply:
            return Reply("three")

        site.replies["/"] = recovered
        assert (await anext(found)).kind == "changed"
        site.replies["/"] = Reply(status=410)
        assert (await anext(found)).kind == "removed"
