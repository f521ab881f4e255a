"""`parse_robots`: groups, the longest rule, wildcards (RFC 9309)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.knowledge.sources.web.robots import EVERYTHING, NOTHING, parse_robots


def allows(text: str, path: str) -> bool:
    return parse_robots(text, "Deepwell").allow(path)


@pytest.mark.parametrize(
    ("rules", "allowed", "forbidden"),
    [
        ("Disallow:", ["/", "/a"], []),
        ("Disallow: /", ["/robots.txt"], ["/", "/a"]),
        ("Disallow: /a", ["/", "/b", "/A"], ["/a", "/ab", "/a/b", "/a?x=1"]),
        ("Disallow: /\nAllow: /docs", ["/docs", "/docs/a"], ["/", "/doc"]),
        ("Allow: /docs\nDisallow: /docs/private", ["/docs/a"], ["/docs/private/x"]),
        ("Disallow: /page\nAllow: /page", ["/page"], []),
        ("Disallow: /*.pdf$", ["/a.pdf?x", "/a.pdfx"], ["/a.pdf", "/b/c.pdf"]),
        ("Disallow: /*/edit", ["/edit", "/a/view"], ["/a/edit", "/a/b/edit/c"]),
        ("Disallow: *?session=", ["/a"], ["/a?session=1", "/?session="]),
        ("Disallow: /a*b*c$", ["/abcd", "/ac"], ["/abc", "/axbxc", "/abcc"]),
        ("Disallow: /%E4%BD%A0", ["/x"], ["/你", "/%e4%bd%a0/x"]),
        ("Disallow: /a # a comment", ["/b"], ["/a"]),
    ],
)
def test_rules(rules: str, allowed: list[str], forbidden: list[str]) -> None:
    text = f"User-agent: *\n{rules}"
    assert [path for path in allowed if not allows(text, path)] == []
    assert [path for path in forbidden if allows(text, path)] == []


def test_the_group_that_names_the_crawler_counts() -> None:
    text = """
        # everyone
        user-agent: *
        disallow: /

        User-Agent: other
        USER-AGENT: deepwell/1.0
        Disallow: /a
        Sitemap: https://example.com/sitemap.xml
        Disallow: /b
        Crawl-delay: 1.5

        User-agent: Deepwell
        Disallow: /c
        Crawl-delay: 86400
    """
    robots = parse_robots(text, "Deepwell")
    assert [robots.allow(path) for path in ("/a", "/b", "/c", "/d")] == [False, False, False, True]
    assert robots.delay_s == 60
    assert parse_robots(text, "Another").allow("/d") is False
    assert EVERYTHING.allow("/d") and not NOTHING.allow("/d")


@given(st.text(max_size=300), st.text(max_size=40))
def test_any_file_gives_an_answer(text: str, path: str) -> None:
    assert parse_robots(text, "Deepwell").allow(path) in (True, False)
    assert allows(f"User-agent: *\nDisallow: {path}", path) in (True, False)


def test_wildcards_are_linear() -> None:
    assert allows("User-agent: *\nDisallow: /" + "*a" * 50_000 + "b$", "/" + "a" * 50_000)
