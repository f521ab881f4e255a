"""`check_table`: finds gaps, rows that no case reaches, and rows that contradict each other, for all cases at once.

The conditions of a column cut its values into regions on which every row agrees: the named points and what lies between them,
or the named texts and all others. So a table is checked exactly by one value of each region, in all combinations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from deepwell.agents.rules.facts import ArgumentType
from deepwell.agents.rules.logic.wire import Finding
from deepwell.agents.rules.tables.cells import ANYTHING, Cell
from deepwell.agents.rules.tables.table import Table

__all__ = ["MOST_COMBINATIONS", "Region", "check_table", "matching_rows", "regions_of"]

MOST_COMBINATIONS: Final = 200_000
"""Most combinations of regions that are looked at."""

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Region:
    """Values of a column on which all rows agree.

    Attributes:
        value: one of them; None: there is no fact.
        text: the region in words, such as `5` or `(5..20)`.
    """

    value: Decimal | str | None
    text: str


def matching_rows(table: Table, values: Mapping[str, Decimal | str | None]) -> list[int]:
    """Returns the numbers of the rows whose conditions hold, as zen-engine would; of "first" only the first one."""
    found = [
        number
        for number, row in enumerate(table.rows)
        if all(row.cells.get(name, ANYTHING).holds(values.get(name)) for name in table.inputs)
    ]
    return found[:1] if table.hit == "first" else found


def regions_of(table: Table, column: str) -> list[Region]:
    """Returns the regions of a column. The last one is the missing fact; a number of facts is never missing."""
    kind = table.inputs[column]
    cells = [row.cells[column] for row in table.rows if column in row.cells]
    found = [*_number_regions(kind, cells)] if kind.limits() is not None else [*_text_regions(kind, cells)]
    return found if column.endswith(".count") else [*found, Region(None, "absent")]


def check_table(table: Table) -> list[Finding]:
    """Returns what is wrong with a table whose rows could all be read."""
    if table.model or not table.rows:
        return []
    columns = [*table.inputs]
    regions = [regions_of(table, column) for column in columns]
    number = math.prod(len(one) for one in regions)
    if number > MOST_COMBINATIONS:
        values = {"number": number, "most": MOST_COMBINATIONS}
        return [Finding("note", table.name, "rules_table_wide", values)]
    seen = _Seen(table)
    masks = [
        [_mask(table, column, region) for region in one] for column, one in zip(columns, regions, strict=True)
    ]
    for mask, chosen in _combinations(masks, (1 << len(table.rows)) - 1):
        seen.add(mask, {columns[place]: regions[place][at] for place, at in enumerate(chosen)})
    if table.proposals:  # a proposal that no row fits has no verdict, and rules see it
        return [one for one in seen.findings() if not one.key.startswith("rules_gap")]
    return [*seen.findings(), *_absences(table)]


class _Seen:
    """Collects which rows fit on which regions."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._reached = 0
        self._fitting = 0
        self._gaps = list[str]()
        self._pairs = dict[tuple[int, int], str]()

    def add(self, mask: int, chosen: Mapping[str, Region]) -> None:
        """Adds a combination of regions with the rows that fit it; fewer regions than columns stand for all of the others."""
        if not mask:
            if all(region.value is not None for region in chosen.values()):
                self._gaps.append(_named(chosen))
            return
        lowest = mask & -mask
        self._fitting |= mask
        self._reached |= lowest if self._table.hit == "first" else mask
        if self._table.hit != "first" and mask != lowest:
            rows = [number for number in range(mask.bit_length()) if mask >> number & 1]
            for place, one in enumerate(rows):
                for other in rows[place + 1 :]:
                    if self._table.hit == "unique" or self._contradict(one, other):
                        self._pairs.setdefault((one, other), _named(chosen))

    def findings(self) -> Iterator[Finding]:
        table = self._table
        for number, row in enumerate(table.rows):
            if not self._reached >> number & 1:
                key = "rules_row_covered" if self._fitting >> number & 1 else "rules_row_unreachable"
                yield Finding("warning", f"{table.name}, row {row.id}", key, {})
        for (one, other), where in self._pairs.items():
            unique = table.hit == "unique"
            key = "rules_rows_overlap" if unique else "rules_rows_contradict"
            values = {"one": table.rows[one].id, "other": table.rows[other].id, "where": where}
            yield Finding("error" if unique else "warning", table.name, key, values)
        for gap in self._gaps[:_SHOWN]:
            yield Finding("warning", table.name, "rules_gap", {"where": gap})
        if len(self._gaps) > _SHOWN:
            yield Finding("warning", table.name, "rules_gaps_more", {"number": len(self._gaps) - _SHOWN})

    def _contradict(self, one: int, other: int) -> bool:
        first, second = self._table.rows[one].outputs, self._table.rows[other].outputs
        decisive = [name for name in ("outcome", "verdict") if name in first and name in second]
        return any(first[name] != second[name] for name in decisive)


def _combinations(
    masks: Sequence[Sequence[int]], rows: int, chosen: tuple[int, ...] = ()
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yields combinations of regions with the rows that fit; one that no row fits already is not combined further."""
    if len(chosen) == len(masks) or not rows:
        yield rows, chosen
        return
    for at, mask in enumerate(masks[len(chosen)]):
        yield from _combinations(masks, rows & mask, (*chosen, at))


def _mask(table: Table, column: str, region: Region) -> int:
    return sum(
        1 << number
        for number, row in enumerate(table.rows)
        if row.cells.get(column, ANYTHING).holds(region.value)
    )


def _named(chosen: Mapping[str, Region]) -> str:
    return ", ".join(f"{name} {region.text}" for name, region in chosen.items())


def _absences(table: Table) -> Iterator[Finding]:
    for column in table.inputs:
        uncovered = not any(row.cells.get(column, ANYTHING).holds(None) for row in table.rows)
        if uncovered and not column.endswith(".count"):
            yield Finding("note", table.name, "rules_absence", {"column": column})


def _number_regions(kind: ArgumentType, cells: Sequence[Cell]) -> Iterator[Region]:
    limits = kind.limits() or (0, 0)
    step = Decimal(1) / kind.scale
    low, high = limits[0] * step, limits[1] * step
    ends = {end for cell in cells for one in cell.intervals for end in (one.low, one.high)}
    points = sorted(end for end in {*ends, low, high} if end is not None and low <= end <= high)
    for place, point in enumerate(points):
        yield Region(point, f"{point.normalize():f}")
        if place + 1 < len(points):
            following = points[place + 1]
            # Ends finer than the values' places lie between two values.
            inside = (point / step).to_integral_value(rounding="ROUND_FLOOR") * step + step
            if inside < following:
                yield Region(inside, f"({point.normalize():f}..{following.normalize():f})")


def _text_regions(kind: ArgumentType, cells: Sequence[Cell]) -> Iterator[Region]:
    named = dict.fromkeys(text for cell in cells for text in cell.texts)
    values = ("true", "false") if kind.type == "boolean" else kind.values
    for text in values or named:
        yield Region(text, text)
    if not values:
        other = "other"
        while other in named:
            other += "_"
        yield Region(other, "other")
