"""Every page of the documentation has links that resolve and a twin in the other language, and can be found."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHINESE = ".zh-CN.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "bench").rglob("*.md")])

# Pages in English alone. They are made for those who change the code, or from it.
ENGLISH_ALONE = {
    ".": {"benchmarks", "dependencies"},
    "reference": {"api", "commands", "coverage", "python"},
}
EXPLAINED_IN_BOTH = {"deepseek", "security"}  # the other explanations describe the code

FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|(?:href|src)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def links(page: Path) -> tuple[str, ...]:
    """Returns the targets of a page's links, other than addresses of the web."""
    found = (one or other for one, other in LINK.findall(CODE.sub("`", prose(page))))
    return tuple(target for target in found if not re.match(r"[a-z][a-z0-9+.-]*:", target))


def slug(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    """Returns all anchors of a page; those of equal headings are numbered."""
    found: set[str] = set()
    counts: dict[str, int] = {}
    for heading in HEADING.findall(prose(page)):
        anchor = slug(heading)
        number = counts.get(anchor, 0)
        counts[anchor] = number + 1
        found.add(f"{anchor}-{number}" if number else anchor)
    return frozenset(found | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", prose(page))))


def target_of(page: Path, link: str) -> Path:
    place = link.partition("#")[0]
    return (page.parent / place).resolve() if place else page


def is_chinese(page: Path) -> bool:
    return page.name.endswith(CHINESE)


def twin_of(page: Path) -> Path:
    """Returns where the page in the other language lies, whether it exists or not."""
    if is_chinese(page):
        return page.with_name(page.name.removesuffix(CHINESE) + ".md")
    return page.with_name(page.stem + CHINESE)


def needs_twin(page: Path) -> bool:
    if DOCS not in page.parents:
        return page.stem == "README" and page.parent == ROOT
    folder = str(page.parent.relative_to(DOCS))
    if folder == "explanation":
        return page.stem in EXPLAINED_IN_BOTH
    if folder == "log":
        return False
    return page.stem not in ENGLISH_ALONE.get(folder, ())


def reachable(start: Path) -> set[Path]:
    """Returns the pages that links lead to from a page, without a change of language on the way."""
    found, waiting = {start}, [start]
    while waiting:
        page = waiting.pop()
        for link in links(page):
            target = target_of(page, link)
            if target in found or target not in PAGES or is_chinese(target) != is_chinese(start):
                continue
            found.add(target)
            waiting.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_anchor_resolves(page: Path) -> None:
    wrong: list[str] = []
    for link in links(page):
        target, anchor = target_of(page, link), link.partition("#")[2]
        if ROOT not in target.parents or not target.exists():
            wrong.append(f"{link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            wrong.append(f"{link}: there is no such heading; {sorted(anchors(target))}")
    assert wrong == []


@pytest.mark.parametrize("page", [one for one in PAGES if is_chinese(one) or needs_twin(one)], ids=name_of)
def test_every_page_links_its_twin_in_its_first_lines(page: Path) -> None:
    twin = twin_of(page)
    assert twin.exists(), f"write {name_of(twin)}"
    head = "\n".join(page.read_text(encoding="utf-8").splitlines()[:6])
    assert f"]({twin.name})" in head


@pytest.mark.parametrize("page", [one for one in PAGES if is_chinese(one)], ids=name_of)
def test_chinese_pages_lead_to_chinese_pages(page: Path) -> None:
    targets = {target_of(page, link) for link in links(page)} - {twin_of(page), page}
    missed = [
        name_of(one)
        for one in targets
        if one.suffix == ".md" and not is_chinese(one) and twin_of(one).exists()
    ]
    assert missed == []


@pytest.mark.parametrize("index", ["index.md", "index.zh-CN.md"])
def test_every_page_is_reachable_from_the_index(index: str) -> None:
    start = DOCS / index
    pages = {one for one in PAGES if DOCS in one.parents and is_chinese(one) == is_chinese(start)}
    missed = sorted(map(name_of, pages - reachable(start)))
    assert missed == [], f"link them from docs/{index}, or from a page that it links"


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Who may ask, how much, and who is next", "who-may-ask-how-much-and-who-is-next"),
        ("The engine's process", "the-engines-process"),
        ("`PORT` is [taken](x.md)", "port-is-taken"),
        ("名称与网页", "名称与网页"),
        ("安全：威胁模型", "安全威胁模型"),
        ("a_b - c", "a_b---c"),
    ],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor
