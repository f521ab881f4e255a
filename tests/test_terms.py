"""The terms of the Chinese texts: pages and messages use one word for one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepwell.messages import catalogue

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.zh-CN.md"), *(ROOT / "docs").rglob("*.zh-CN.md")])
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)

# A word that is not written, and the one that is. 目录 is a folder: the catalog of models is 模型清单.
REPLACED = {
    "您": "你",
    "词元": "token",
    "令牌": "token",
    "作业": "任务",
    "混合专家": "专家混合",
    "潜变量": "潜在向量",
    "投机": "推测解码",
    "模型目录": "模型清单",
    "目录中的模型": "模型清单中的模型",
    "目录中的名称": "模型清单中的名称",
    "消息目录": "消息清单",
    "流式回答": "流式输出",
    "附加组件": "附加依赖包",
    "安全护栏": "安全防护",
}


def wrong_terms(text: str) -> list[str]:
    return [f"{wrong}: write {right}" for wrong, right in REPLACED.items() if wrong in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_chinese_pages_use_one_term_for_one_thing(page: Path) -> None:
    assert wrong_terms(FENCE.sub("", page.read_text(encoding="utf-8"))) == []


def test_chinese_messages_use_one_term_for_one_thing() -> None:
    assert wrong_terms("\n".join(entry.message_zh + entry.fix_zh for entry in catalogue().values())) == []


def test_a_wrong_term_is_found() -> None:
    assert wrong_terms("请让您的作业返回词元") == ["您: write 你", "词元: write token", "作业: write 任务"]
