"""Names of diseases, and the chapter of ICD-10 that each belongs to: coding help, not medical advice.

English terms are inclusion terms of ICD-10-CM (CMS, public domain), Chinese ones come from the wheel of
faker-healthcare-provider (MIT). Both are read and never run. The chapter follows from the code.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, Final

from deepwell_bench.workloads.knowledge.icd import icd_entries
from deepwell_bench.workloads.prompts.task import Half, PromptItem, PromptTask, label_in
from deepwell_bench.workloads.wheels import pinned_wheel

__all__ = ["MEDICINE"]

_EN: Final = {
    "1": "infections",
    "2": "neoplasms",
    "3": "blood",
    "4": "endocrine",
    "5": "mental",
    "6": "nervous system",
    "7": "eye",
    "9": "circulatory",
    "10": "respiratory",
    "11": "digestive",
    "12": "skin",
    "13": "musculoskeletal",
    "14": "genitourinary",
    "19": "injury",
}
_ZH: Final = {
    "A": "感染", "B": "感染", "C": "肿瘤", "E": "内分泌", "F": "精神", "G": "神经", "H": "眼耳", "I": "循环",
    "J": "呼吸", "K": "消化", "L": "皮肤", "M": "肌肉骨骼", "N": "泌尿生殖",
}  # fmt: skip
_LABELS_EN: Final = tuple(_EN.values())
_LABELS_ZH: Final = tuple(dict.fromkeys(_ZH.values()))
_A_LABEL: Final = {"development": 3, "held_out": 6}
_WHEEL: Final = (
    "faker-healthcare-provider",
    "2.5.0",
    "5439d7b660798742dba4974546abc182735528aa890afcf145339c6c0af3b99a",
)
_MEMBER: Final = "faker_healthcare/zh_CN/disease_correlations.py"


def _english(half: Half) -> Sequence[PromptItem]:
    items: list[PromptItem] = []
    for chapter in icd_entries():
        label = _EN.get(chapter.code)
        if label is None:
            continue
        terms: dict[str, str] = {}
        for entry in chapter.walk():
            # Categories of an even second digit are held out: the halves share no category.
            is_held = len(entry.code) > 2 and entry.code[2] in "02468"
            if len(entry.code) < 3 or "-" in entry.code or is_held != (half == "held_out"):
                continue
            for term in entry.includes:
                if 12 <= len(term) <= 60 and not any(word in term.casefold() for word in _LABELS_EN):
                    terms.setdefault(term, entry.code)
        chosen = Random(f"icd:{half}:{label}").sample(sorted(terms), _A_LABEL[half])  # noqa: S311
        items += [PromptItem(f"{terms[one]}-{half}", one, {"label": label}) for one in chosen]
    return items


def _chinese(half: Half) -> Sequence[PromptItem]:
    items = [
        PromptItem(
            name, f"疾病：{name}\n常见症状：{'、'.join(told['symptoms'])}", {"label": _ZH[told["icd10"][0]]}
        )
        for name, told in sorted(_diseases().items())
        if told["icd10"][0] in _ZH and not any(label in name for label in _LABELS_ZH)
    ]
    Random("diseases").shuffle(items)  # noqa: S311 the order of a test set, no secret
    cut = len(items) // 3
    return items[:cut] if half == "development" else items[cut:]


@cache
def _diseases() -> dict[str, dict[str, Any]]:
    with zipfile.ZipFile(pinned_wheel(*_WHEEL, "medicine")) as archive:
        tree = ast.parse(archive.read(_MEMBER).decode())
    table = next(one for one in tree.body if isinstance(one, ast.AnnAssign) and one.value is not None)
    assert table.value is not None
    return ast.literal_eval(table.value)


def _scored(labels: Sequence[str]) -> Any:
    return lambda item, answer: float(label_in(answer, labels) == item.expected["label"])


MEDICINE: Final = (
    PromptTask(
        "medicine-chapter-en",
        "en",
        "Name the chapter of ICD-10 to which the condition belongs. Answer with one of these words and nothing else: "
        f"{', '.join(_LABELS_EN)}.",
        _english,
        _scored(_LABELS_EN),
        choice=_LABELS_EN,
    ),
    PromptTask(
        "medicine-chapter-zh",
        "zh",
        f"判断疾病属于 ICD-10 的哪一章，只回答下列词语之一：{'、'.join(_LABELS_ZH)}。",
        _chinese,
        _scored(_LABELS_ZH),
        choice=_LABELS_ZH,
    ),
)
"""Tasks of the packs of medicine."""
