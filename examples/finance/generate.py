"""Generates loan and guarantee contracts from templates, with the truth about each by construction.

The two files of templates share no wording. A contract is drawn from a seed: the same seed gives the same bytes everywhere.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

from examples.finance.numerals import fullwidth, large, plain

__all__ = [
    "CEILING",
    "FIELDS",
    "FINDINGS",
    "HELD_OUT_SHA256",
    "Clause",
    "Contract",
    "Half",
    "contracts",
    "digest",
]

Half = Literal["development", "held_out"]

FIELDS: Final = ("lender", "borrower", "guarantor", "principal", "rate", "months", "guarantee_months")
"""Facts that a contract states: three parties, yuan, per cent a year, months of the loan, months of the guarantee."""

FINDINGS: Final = {
    "usurious-rate": ("民法典", "第六百八十条"),
    "upfront-interest": ("民法典", "第六百七十条"),
    "excessive-default": ("民法典", "第五百八十五条"),
    "void-guarantee-period": ("民法典", "第六百九十二条"),
    "barred-guarantor": ("民法典", "第六百八十三条"),
    "forfeiture": ("民法典", "第四百零一条"),
    "limitation-waived": ("民法典", "第一百九十七条"),
    "liability-excluded": ("民法典", "第五百零六条"),
    "court-barred": ("民事诉讼法", "第三十五条"),
    "public-order": ("民法典", "第一百五十三条"),
    "missing-rate": ("民法典", "第六百八十条"),
    "missing-term": ("民法典", "第六百七十五条"),
    "missing-purpose": ("民法典", "第六百六十八条"),
    "missing-guarantee-mode": ("民法典", "第六百八十六条"),
    "missing-guarantee-period": ("民法典", "第六百九十二条"),
    "missing-court": ("民法典", "第四百七十条"),
}
"""Findings, each with the law and the article that it rests on."""

CEILING: Final = 13.8
"""Highest lawful cost in per cent a year: four times a one-year LPR of 3.45 %. A review takes it as a parameter."""

HELD_OUT_SHA256: Final = "74ce2772b30d681db355fb41d66b247ed34c8e934f16fc4c23cf14557877837f"
"""Digest of the held-out contracts, taken before a rule, a development template or a model was there."""

_A_FAMILY: Final = {"development": 40, "held_out": 16}
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause as it was drawn: its kind, such as `rate` or `upfront_bad`, and its text."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract and the truth about it.

    Attributes:
        id, family: number of the contract, and the templates it was drawn from.
        text: what a reviewer gets.
        fields: what it states, by name of the field; what it does not state is absent.
        findings: what it lacks and what the law does not allow.
        clauses: the clauses of the text, in order.
    """

    id: str
    family: str
    text: str
    fields: Mapping[str, str | float]
    findings: frozenset[str]
    clauses: tuple[Clause, ...]


@dataclass(slots=True)
class _Drawn:
    """Numbers and names of a contract that is being written."""

    slots: dict[str, str]
    fields: dict[str, str | float]
    findings: set[str]


@cache
def contracts(half: Half) -> tuple[Contract, ...]:
    """Returns the contracts of a half, family after family."""
    templates = tomllib.loads((_TEMPLATES / f"{half}.toml").read_text(encoding="utf-8"))
    return tuple(
        _contract(templates, family, f"{family['name']}-{number:02}")
        for family in templates["family"]
        for number in range(_A_FAMILY[half])
    )


def digest(drawn: Sequence[Contract]) -> str:
    """Returns the SHA-256 of texts and truths."""
    rows = [[one.id, one.text, dict(sorted(one.fields.items())), sorted(one.findings)] for one in drawn]
    return sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _contract(templates: Mapping[str, Any], family: Mapping[str, Any], name: str) -> Contract:
    random = Random(f"finance:{name}")  # noqa: S311 the seed of a test set, no secret
    drawn = _parties(random, templates)
    _amounts(random, templates, family, drawn)
    kinds = _kinds(random, family, drawn)
    clauses = [Clause("parties", _filled(family["parties"], drawn, random))]
    for kind in kinds:
        templates_of = family[kind]
        chosen = templates_of if isinstance(templates_of, list) else [templates_of]
        clauses += [Clause(kind, _filled(one, drawn, random)) for one in chosen if one]
    heading = family["heading"].format(title=family["title"], number=f"{random.randrange(10**8):08}")
    return Contract(
        name,
        family["name"],
        _laid_out(random, family, heading, clauses),
        drawn.fields,
        frozenset(drawn.findings),
        tuple(clauses),
    )


def _parties(random: Random, templates: Mapping[str, Any]) -> _Drawn:
    surnames, given, brands, trades, lenders, public, cities = (
        templates[one].split()
        for one in ("surnames", "given", "brands", "trades", "lenders", "public", "cities")
    )

    def person() -> str:
        return random.choice(surnames) + random.choice(given)

    def company(kinds: Sequence[str], city: str) -> str:
        return random.choice((city, "")) + random.choice(brands) + random.choice(kinds)

    lender_city, borrower_city, guarantor_city = (
        random.choice(cities),
        random.choice(cities),
        random.choice(cities),
    )
    lender = random.choice((person(), company(lenders, lender_city), company(lenders, lender_city)))
    borrower = random.choice((person(), company(trades, borrower_city)))
    findings = set[str]()
    if random.random() < 0.2:
        guarantor = f"{guarantor_city}市{random.choice(public)}"
        findings.add("barred-guarantor")
    else:
        guarantor = random.choice((person(), company(trades, guarantor_city)))
    while guarantor in (lender, borrower) or lender == borrower:
        borrower, guarantor = person(), person()
        findings.discard("barred-guarantor")
    slots = {
        "lender": lender, "borrower": borrower, "guarantor": guarantor,
        "lender_city": lender_city, "borrower_city": borrower_city, "guarantor_city": guarantor_city,
        "purpose": random.choice(templates["purposes"]),
        "collateral": random.choice(templates["collateral"]).format(city=borrower_city),
    }  # fmt: skip
    near = {lender_city, borrower_city}
    if random.random() < 0.25:
        far = [one for one in cities if one not in near | {guarantor_city}]
        slots["court"] = random.choice([*(f"{one}市城东区人民法院" for one in far), "最高人民法院"])
        slots["court_bad"] = "yes"
    else:
        slots["court"] = f"{random.choice(sorted(near))}市城东区人民法院"
    return _Drawn(slots, {"lender": lender, "borrower": borrower, "guarantor": guarantor}, findings)


def _amounts(random: Random, templates: Mapping[str, Any], family: Mapping[str, Any], drawn: _Drawn) -> None:
    slots, fields = drawn.slots, drawn.fields
    yuan = random.randrange(1, 60) * random.choice((1000, 10_000, 50_000))
    fields["principal"] = float(yuan)
    slots["principal"] = random.choice(family["amounts"]).format(
        grouped=f"{yuan:,}",
        daxie=large(yuan),
        zh=plain(yuan),
        wan=f"{yuan / 10_000:g}",
        fullwidth=fullwidth(str(yuan)),
    )
    kind = random.randrange(len(family["rates"]))
    while True:
        year, phrase = _rate(random, kind, family["rates"][kind])
        fee = random.choice((2, 3, 5, 8)) if random.random() < 0.3 else 0  # tenths of a per cent a month
        total = year + fee * 12 / 10
        if abs(total - CEILING) > 0.3:
            break
    fields["rate"] = round(year, 3)
    slots["rate"] = phrase
    if fee:
        slots["fee"] = random.choice((f"0.{fee}%", f"千分之{plain(fee)}"))
    if total > CEILING:
        slots["usurious"] = "yes"
    months = random.choice((3, 6, 9, 12, 18, 24, 36))
    start = date(2024, 1, 1) + timedelta(days=random.randrange(600))
    start = start.replace(day=min(start.day, 28))
    end_month = start.month - 1 + months
    end = start.replace(year=start.year + end_month // 12, month=end_month % 12 + 1)
    fields["months"] = float(months)
    written = {"n": str(months), "n_zh": plain(months)}
    for name, day in (("start", start), ("end", end)):
        written |= {
            name: f"{day.year}年{day.month}月{day.day}日",
            f"{name}_dash": f"{day:%Y-%m-%d}",
            f"{name}_dot": f"{day.year}.{day.month}.{day.day}",
        }
    slots["term"] = random.choice(family["terms"]).format(**written)
    lawful = random.random() < 0.7
    tenths = random.choice((2, 3)) if lawful else random.choice((5, 8, 10, 30, 50))  # ten-thousandths a day
    if not lawful:
        slots["overdue_bad"] = "yes"
    percent = f"{tenths / 100:g}%"
    fraction = f"万分之{plain(tenths)}" if tenths < 10 else f"千分之{plain(tenths // 10)}"
    slots["overdue"] = random.choice((percent, fraction))
    guarantee = random.choice((6, 12, 24, 36))
    years = guarantee // 12
    slots["g"] = (
        f"{guarantee}个月"
        if not years
        else random.choice((f"{plain(guarantee)}个月", f"{'两' if years == 2 else plain(years)}年"))
    )
    fields["guarantee_months"] = float(guarantee)


def _rate(random: Random, kind: int, phrase: str) -> tuple[float, str]:
    """Returns a rate in per cent a year, and its words: by the year, by the month, or by the day."""
    high = random.random() < 0.35
    if kind == 0:
        halves = random.randrange(29, 61) if high else random.randrange(8, 27)
        year = halves / 2
        whole = f"百分之{plain(halves // 2)}" + ("点五" if halves % 2 else "")
        return year, phrase.format(year=f"{year:g}", year_zh=whole)
    if kind == 1:
        tenths = random.randrange(12, 31) if high else random.randrange(3, 11)
        fen = "分".join(plain(one) if one else "" for one in divmod(tenths, 10))
        fen = f"{plain(tenths)}厘" if tenths < 10 else fen + ("厘" if tenths % 10 else "")
        return tenths * 12 / 10, phrase.format(
            month=f"{tenths / 10:g}", month_qian=f"千分之{plain(tenths)}", month_fen=fen
        )
    parts = random.randrange(4, 10) if high else random.randrange(1, 4)
    return parts * 3.65, phrase.format(day=f"{parts / 100:g}", day_wan=f"万分之{plain(parts)}")


def _kinds(random: Random, family: Mapping[str, Any], drawn: _Drawn) -> list[str]:
    """Draws the clauses in the order of the family, and notes what each makes true."""
    kinds = list[str]()
    for place in family["order"]:
        kind = _KINDS[place](random, drawn) if place in _KINDS else place
        if kind:
            kinds.append(kind)
    return kinds


def _optional(place: str, missing: str, field: str | None, share: float = 0.12) -> Any:
    def kind(random: Random, drawn: _Drawn) -> str:
        if random.random() < share:
            drawn.findings.add(missing)
            if field:
                drawn.fields.pop(field, None)
            return ""
        return place

    return kind


def _either(place: str, finding: str, present: float, bad: float) -> Any:
    def kind(random: Random, drawn: _Drawn) -> str:
        if random.random() >= present:
            return ""
        if random.random() < bad:
            drawn.findings.add(finding)
            return f"{place}_bad"
        return f"{place}_ok"

    return kind


def _rate_kind(random: Random, drawn: _Drawn) -> str:
    if random.random() < 0.1:
        drawn.findings.add("missing-rate")
        drawn.fields.pop("rate", None)
        drawn.slots.pop("fee", None)
        return ""
    if "usurious" in drawn.slots:
        drawn.findings.add("usurious-rate")
    return "rate"


def _guarantee(random: Random, drawn: _Drawn) -> str:
    kind = random.choice(("guarantee_joint", "guarantee_joint", "guarantee_general", "guarantee_silent"))
    if kind == "guarantee_silent":
        drawn.findings.add("missing-guarantee-mode")
    return kind


def _period(random: Random, drawn: _Drawn) -> str:
    draw = random.random()
    if draw < 0.4:
        drawn.fields.pop("guarantee_months", None)
        drawn.findings.add("missing-guarantee-period" if draw < 0.15 else "void-guarantee-period")
        return "" if draw < 0.15 else "period_bad"
    return "period_ok"


def _overdue(_random: Random, drawn: _Drawn) -> str:
    if "overdue_bad" in drawn.slots:
        drawn.findings.add("excessive-default")
    return "overdue"


def _court(random: Random, drawn: _Drawn) -> str:
    if random.random() < 0.12:
        drawn.findings.add("missing-court")
        return ""
    if "court_bad" in drawn.slots:
        drawn.findings.add("court-barred")
    return "court"


def _order_bad(random: Random, drawn: _Drawn) -> str:
    if random.random() < 0.15:
        drawn.findings.add("public-order")
        return "order_bad"
    return ""


_KINDS: Mapping[str, Any] = {
    "rate": _rate_kind,
    "fee": lambda _random, drawn: (
        "fee" if "fee" in drawn.slots and "missing-rate" not in drawn.findings else ""
    ),
    "purpose": _optional("purpose", "missing-purpose", None),
    "term": _optional("term", "missing-term", "months"),
    "upfront": _either("upfront", "upfront-interest", 0.5, 0.5),
    "guarantee": _guarantee,
    "period": _period,
    "overdue": _overdue,
    "mortgage": _either("mortgage", "forfeiture", 0.5, 0.4),
    "limitation": _either("limitation", "limitation-waived", 0.5, 0.4),
    "exemption": _either("exemption", "liability-excluded", 0.5, 0.4),
    "court": _court,
    "order": _order_bad,
}


def _filled(template: str, drawn: _Drawn, random: Random) -> str:
    k = random.randrange(1, 4)
    days = random.choice((10, 15, 30))
    number = days if "日" in template.split("{k}")[-1][:2] or "天" in template.split("{k}")[-1][:2] else k
    return template.format(**drawn.slots, k=random.choice((str(number), plain(number))))


def _laid_out(random: Random, family: Mapping[str, Any], heading: str, clauses: Sequence[Clause]) -> str:
    """Writes a contract down: numbered clauses, and what scanners and typists leave behind."""
    lines = [heading, clauses[0].text]
    for number, clause in enumerate(clauses[1:], 1):
        mark = family["numbering"].format(n=number, zh=plain(number)) if family["numbering"] else ""
        lines.append(mark + clause.text)
    noise = random.random()
    if noise < 0.2:
        lines.insert(random.randrange(3, len(lines)), f"第 {random.randrange(1, 4)} 页 共 4 页")
    elif noise < 0.35:
        lines = [fullwidth(line) for line in lines]
    elif noise < 0.5:
        lines = [_spaced(line, random) for line in lines]
    elif noise < 0.65:
        lines[2:] = ["".join(lines[2:5]), *lines[5:]]
    return "\n".join(lines) + "\n签章：        日期："


def _spaced(line: str, random: Random) -> str:
    """Puts a blank behind one in 25 characters, as text recognition does."""
    return "".join(one + (" " if random.random() < 0.04 else "") for one in line)
