"""Clauses of English contracts and their kinds; articles of Chinese statutes and their fields of law.

The English clauses are written for this task, in other words for each half. The Chinese articles come from the statutes of
`deepwell_bench.workloads.knowledge.law`; their field follows from the statute, and the halves share no statute.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from deepwell_bench.workloads.knowledge.law import law_articles
from deepwell_bench.workloads.prompts.task import Half, PromptItem, PromptTask, label_in

__all__ = ["LAW"]

_CLAUSES = Path(__file__).with_name("clauses.toml")
_LABELS_EN: Final = (
    "assignment", "confidentiality", "dispute resolution", "force majeure", "intellectual property", "liability",
    "notices", "payment", "termination", "warranty",
)  # fmt: skip
_STATUTES: Final[dict[str, dict[Half, tuple[str, ...]]]] = {
    "知识产权": {"development": ("商标法",), "held_out": ("专利法", "著作权法")},
    "劳动": {"development": ("劳动法",), "held_out": ("劳动合同法", "就业促进法")},
    "环境保护": {
        "development": ("大气污染防治法", "水污染防治法"),
        "held_out": ("土壤污染防治法", "噪声污染防治法", "海洋环境保护法"),
    },
    "金融": {
        "development": ("证券法", "保险法"),
        "held_out": ("商业银行法", "票据法", "证券投资基金法"),
    },
    "教育": {"development": ("教育法", "学前教育法"), "held_out": ("高等教育法", "职业教育法")},
    "医药卫生": {"development": ("药品管理法", "传染病防治法"), "held_out": ("疫苗管理法", "精神卫生法")},
    "交通运输": {
        "development": ("道路交通安全法", "海上交通安全法"),
        "held_out": ("公路法", "铁路法", "民用航空法"),
    },
    "诉讼程序": {"development": ("民事诉讼法",), "held_out": ("刑事诉讼法", "行政诉讼法")},
}
_LABELS_ZH: Final = tuple(_STATUTES)
_A_LABEL: Final = {"development": 5, "held_out": 10}


def _english(half: Half) -> Sequence[PromptItem]:
    clauses: dict[str, list[str]] = tomllib.loads(_CLAUSES.read_text(encoding="utf-8"))[half]
    return [
        PromptItem(f"{label}-{number}", text, {"label": label})
        for label in _LABELS_EN
        for number, text in enumerate(clauses[label])
    ]


def _chinese(half: Half) -> Sequence[PromptItem]:
    articles = law_articles()
    items: list[PromptItem] = []
    for label, halves in _STATUTES.items():
        own = [
            (f"{name}{number}", text)
            for name, number, text in articles
            if name.replace("中华人民共和国", "") in halves[half] and 40 <= len(text) <= 160
        ]
        for id, text in Random(f"law:{half}:{label}").sample(sorted(own), _A_LABEL[half]):  # noqa: S311
            items.append(PromptItem(id, text.strip(), {"label": label}))
    return items


def _scored(labels: Sequence[str]) -> Any:
    return lambda item, answer: float(label_in(answer, labels) == item.expected["label"])


LAW: Final = (
    PromptTask(
        "law-clause-en",
        "en",
        f"Name the kind of the contract clause. Answer with one of these and nothing else: {', '.join(_LABELS_EN)}.",
        _english,
        _scored(_LABELS_EN),
        choice=_LABELS_EN,
    ),
    PromptTask(
        "law-field-zh",
        "zh",
        f"判断法条属于哪个法律领域，只回答下列词语之一：{'、'.join(_LABELS_ZH)}。",
        _chinese,
        _scored(_LABELS_ZH),
        choice=_LABELS_ZH,
    ),
)
"""Tasks of the packs of law."""
