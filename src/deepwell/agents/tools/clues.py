"""Words of English and Chinese tasks that call for a kind of tool, for models that choose badly among tools."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from deepwell.agents.tools.tool import Clues

__all__ = [
    "arithmetic_clues",
    "document_clues",
    "listing_clues",
    "path_clues",
    "searching_clues",
    "table_clues",
]

_EXPRESSION: Final = re.compile(r"\d\)?\s*[-+*/×÷^]\s*\(?\d")
_NUMBER: Final = re.compile(r"(?<![A-Za-z0-9_./-])\d[\d,]*(?:\.\d+)?(?![A-Za-z0-9_/-]|\.[A-Za-z])")
_ARITHMETIC: Final = re.compile(
    r"\b(?:compute|calculate|add up|adds? .{1,60} up|sum of|together|altogether|in both|combined|difference|subtract|minus|plus"
    r"|multipl\w+|times the|divided?|average|percent(?:age)?"
    r"|less (?:the|its|their)|(?:how (?:many|much) )more\b.{1,60}\bthan)\b"
    r"|\d\s*%|计算|加起来|相加|总和|之和|一共|总共|合计|减去|减掉|相差|差多少|之差|多多少|少多少|乘以|乘上|除以|平均|百分之",
    re.IGNORECASE,
)
_RULES: Final = re.compile(
    r"\b(?:rules?|polic(?:y|ies)|handbook|manual|guidelines?|regulations?|documents?|allowed|permitted|according to)\b"
    r"|规定|规则|规章|制度|政策|手册|守则|须知|办法|条例|文档|指南",
    re.IGNORECASE,
)
_DATABASE: Final = re.compile(
    r"\b(?:database|sql|tables?|records?|rows?)\b|数据库|数据表|表里|表中|记录", re.IGNORECASE
)
_FILE: Final = re.compile(r"\b(?:files?|notes?|folders?)\b|文件|笔记", re.IGNORECASE)
_WHICH_FILE: Final = re.compile(
    r"\b(?:(?:which|what) files?|paths?|(?:name|names) of the files?)\b|(?:哪个|哪些|哪一个|什么)文件|路径|文件名",
    re.IGNORECASE,
)
_LIST: Final = re.compile(
    r"\b(?:list (?:all |the )*files|how many files|what files are)\b|列出.{0,6}文件|多少个?文件|有哪些文件",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[a-z][a-z0-9]+")
_SEVERAL: Final = 2


def arithmetic_clues(task: str) -> Clues:
    """Returns the signs that numbers are to be computed with. The numbers of the task belong into the expression."""
    numbers = tuple(dict.fromkeys(one.replace(",", "") for one in _NUMBER.findall(task)))
    if _EXPRESSION.search(task):
        return Clues(0.9, numbers)
    if _ARITHMETIC.search(task):
        return Clues(0.6, numbers)
    return Clues(0.55 if len(numbers) >= _SEVERAL else 0.5 if numbers else 0.0, numbers)


def document_clues(task: str, about: str) -> Clues:
    """Returns the signs that documents are to be searched: words for rules, or the words that say what they are about."""
    words = {one for one in _WORD.findall(about.casefold()) if len(one) >= 5}
    return Clues(0.75 if _RULES.search(task) or words & set(_WORD.findall(task.casefold())) else 0.0)


def path_clues(task: str, paths: Iterable[str]) -> Clues:
    """Returns the signs that one file is to be read: its path or its name stands in the task, or some file is spoken of."""
    found = {one: at for one in paths if (at := _place(one, task)) >= 0}
    if found:
        return Clues(0.95, tuple(sorted(found, key=lambda one: found[one])))
    return Clues(
        0.7 if _FILE.search(task) and not _WHICH_FILE.search(task) and not _LIST.search(task) else 0.0
    )


def searching_clues(task: str, paths: Iterable[str]) -> Clues:
    """Returns the signs that files are to be searched: a file is spoken of, and none is named."""
    if any(_stands(one.rsplit("/", 1)[-1], task) for one in paths) or _LIST.search(task):
        return Clues()
    return Clues(0.8 if _FILE.search(task) or _WHICH_FILE.search(task) else 0.0)


def listing_clues(task: str) -> Clues:
    """Returns the signs that all files are to be listed."""
    return Clues(0.85 if _LIST.search(task) else 0.0)


def table_clues(task: str, names: Collection[str], values: Sequence[str]) -> Clues:
    """Returns the signs that a database is to be read: the word for it, a value that is in it, or names of its columns."""
    folded = task.casefold()
    found = tuple(dict.fromkeys(one for one in values if _is_telling(one) and one.casefold() in folded))
    if _DATABASE.search(task) or found:
        return Clues(0.9, found)
    words = set(_WORD.findall(folded))
    hits = sum(one.casefold() in words or one.casefold().rstrip("s") in words for one in names)
    return Clues(0.5 if hits >= _SEVERAL else 0.0)


def _is_telling(value: str) -> bool:
    """Returns whether a value is more than a plain word: several words, four Chinese characters, or a number with letters."""
    value = value.strip()
    if not value.isascii():
        return len(value) >= 4
    has_digits = any(one.isdigit() for one in value) and any(one.isalpha() for one in value)
    return (" " in value and len(value) >= 6) or (has_digits and len(value) >= 3)


def _place(path: str, task: str) -> int:
    """Returns where a path, or the name at its end, stands in a task; -1: nowhere."""
    name = path.rsplit("/", 1)[-1]
    return task.find(path) if _stands(path, task) else task.find(name) if _stands(name, task) else -1


def _stands(path: str, task: str) -> bool:
    """Returns whether a path stands in a task by itself, not as the end of a longer one."""
    # Most paths stand nowhere, and a pattern for each of thousands takes a while.
    return (
        path in task
        and bool(path)
        and re.search(rf"(?<![\w/.-]){re.escape(path)}(?![A-Za-z0-9_/-])", task) is not None
    )
