"""Attacks by grammars and schemas: costly to compile, costly to follow, or impossible to end."""

from __future__ import annotations

import itertools
from typing import Any

from deepwell_bench.workloads.attacks.ground import Attack, Ground

__all__ = ["ATTACKS"]

_KIND = "grammars"
_CHAT = "/v1/chat/completions"
_number = itertools.count()


async def _ask(ground: Ground, choices: int = 1, tokens: int = 24, **format: Any) -> None:
    body = ground.chat("Write.", max_tokens=tokens, n=choices, temperature=1, structured_outputs=format)
    await ground.civil("POST", _CHAT, body)


async def ambiguous_recursion(ground: Ground) -> None:
    grammar = 'start: e\ne: e e | "a" e | e "a" | "a" | e e e\n'
    await _ask(ground, choices=64, grammar=grammar)


async def ambiguous_words(ground: Ground) -> None:
    grammar = "start: w+\nw: /[a-z ]+/ | /[a-z]+/ | / [a-z]*/ | w w\n"
    await _ask(ground, choices=64, grammar=grammar)


async def left_recursion(ground: Ground) -> None:
    await _ask(ground, choices=16, grammar='start: start start | start "x" | "x"\n')


async def empty_loops(ground: Ground) -> None:
    await _ask(ground, choices=4, grammar='start: a\na: b a | ""\nb: a | ""\n')


async def nested_repeats(ground: Ground) -> None:
    for pattern in (
        "(a*)*b",
        "((a{1,100}){1,100}){1,100}",
        "(a|a?)+b{5000}",
        "(.*a){50}",
        "[a-z]{1,100000}",
        "(x+x+)+y",
    ):
        await _ask(ground, choices=4, regex=pattern)


async def unicode_classes(ground: Ground) -> None:
    for pattern in (
        r"(\p{L}|\p{N}){1,2000}",
        r"[^\x00-\x7f]{1000}",
        r"(\p{Han}+\s?){1,500}",
        r"(?i)" + "straße" * 200,
    ):
        await _ask(ground, choices=4, regex=pattern)


async def long_enums(ground: Ground) -> None:
    names = [f"value {number} {number * 7919 % 10_007}" for number in range(8000)]
    await _ask(ground, json={"enum": names})


async def long_choices(ground: Ground) -> None:
    await _ask(ground, choice=[f"choice {number:05d} of them" for number in range(1024)])


async def deep_schemas(ground: Ground) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    await _ask(ground, json=schema)
    for _ in range(400):
        schema = {"type": "array", "items": schema}
    await ground.refused("POST", _CHAT, ground.chat(structured_outputs={"json": schema}))


async def circular_schemas(ground: Ground) -> None:
    for schema in (
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}, {"type": "object"}]},
        {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:1/schema"}}},
        {"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}},
    ):
        await _ask(ground, json=schema)


async def wide_schemas(ground: Ground) -> None:
    properties = {f"property_{number}": {"type": ["string", "number", "null"]} for number in range(1500)}
    await _ask(ground, json={"type": "object", "properties": properties})
    options = [
        {"type": "object", "properties": {f"p{number}": {"type": "string"}}, "required": [f"p{number}"]}
        for number in range(800)
    ]
    await _ask(ground, json={"anyOf": options})


async def counted_schemas(ground: Ground) -> None:
    for schema in (
        {"type": "array", "items": {"type": "integer"}, "minItems": 10_000, "maxItems": 20_000},
        {"type": "string", "minLength": 50_000, "maxLength": 100_000},
        {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
        {"type": "number", "multipleOf": 1e-300},
        {"type": "array", "prefixItems": [{"type": "string"}] * 3000},
    ):
        await _ask(ground, json=schema)


async def patterns_of_names(ground: Ground) -> None:
    schema = {
        "type": "object",
        "patternProperties": {f"^(a|b)*{number}(a|b){{12}}$": {"type": "string"} for number in range(60)},
    }
    await _ask(ground, choices=4, json=schema)


async def new_schemas(ground: Ground) -> None:
    """Each is compiled and kept, until the cache of compiled grammars holds nothing else."""
    while not ground.over():
        number = next(_number)
        properties = {f"k{number}_{place}": {"type": "string", "maxLength": 40} for place in range(30)}
        await _ask(ground, tokens=1, json={"type": "object", "properties": properties})


async def long_grammars(ground: Ground) -> None:
    rules = "".join(f'r{number}: "x{number}" r{number + 1} | "y"\n' for number in range(9000))
    await _ask(ground, grammar=f'start: r0\n{rules}r9000: "z"\n')
    await ground.refused(
        "POST", _CHAT, ground.chat(structured_outputs={"grammar": "start: " + '"a" ' * 1_500_000})
    )


async def dead_ends(ground: Ground) -> None:
    formats: tuple[dict[str, Any], ...] = (
        {"regex": "[^\\s\\S]"},
        {"grammar": 'start: "a" start\n'},
        {"grammar": "start: x\nx: x\n"},
        {"regex": ""},
        {"json": {"enum": []}},
        {"json": {"type": "string", "minLength": 5, "maxLength": 2}},
    )
    for format in formats:
        await _ask(ground, **format)


async def no_grammars(ground: Ground) -> None:
    formats = (
        {"grammar": "\0"},
        {"grammar": "start: %import x"},
        {"regex": "("},
        {"regex": "(?<=a)b"},
        {"grammar": "start: @file"},
        {"json": "[]"},
        {"json": "{"},
    )
    for format in formats:
        await ground.refused("POST", _CHAT, ground.chat(structured_outputs=format))


_OWN = "it slows or ends its own request alone"
_SPECIFIED = (
    ("ambiguous_recursion", "64 choices of an ambiguous recursion", _OWN, ambiguous_recursion),
    ("ambiguous_words", "64 choices of words that may be read in many ways", _OWN, ambiguous_words),
    ("left_recursion", "16 choices of a doubly left-recursive rule", _OWN, left_recursion),
    ("empty_loops", "rules that derive nothing in a circle", _OWN, empty_loops),
    ("nested_repeats", "nested and counted repetitions", _OWN, nested_repeats),
    ("unicode_classes", "counted classes of all letters", _OWN, unicode_classes),
    ("long_enums", "an enum of 8,000 strings", _OWN, long_enums),
    ("long_choices", "a choice of 1,024 strings", _OWN, long_choices),
    ("deep_schemas", "schemas nested 60 and 460 deep", _OWN, deep_schemas),
    (
        "circular_schemas",
        "references in circles, to files and to addresses",
        "nothing is fetched",
        circular_schemas,
    ),
    ("wide_schemas", "1,500 properties, and 800 alternatives", _OWN, wide_schemas),
    ("counted_schemas", "counts and bounds of thousands", _OWN, counted_schemas),
    ("patterns_of_names", "60 patterns of names that meet", _OWN, patterns_of_names),
    ("new_schemas", "a new schema with every request", _OWN, new_schemas),
    ("long_grammars", "9,000 rules, and a source of 6 MB", _OWN, long_grammars),
    ("dead_ends", "grammars that nothing fits, or that never end", _OWN, dead_ends),
    ("no_grammars", "sources that are none", "400", no_grammars),
)
_HEAVY = ("ambiguous_recursion", "ambiguous_words", "left_recursion")
ATTACKS = tuple(
    Attack(name, _KIND, what, holds, run, "heavy" if name in _HEAVY else "light")
    for name, what, holds, run in _SPECIFIED
)
