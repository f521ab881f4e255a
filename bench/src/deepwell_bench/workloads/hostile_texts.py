"""Hostile tokenizers and chat templates: what they would take at load, at the first chat, or at a single step of a render."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["templates", "tokenizers"]

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def _alphabet() -> list[str]:
    """Returns GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(extra)) for byte in range(256)]


def _added(*tokens: str, first: int = 256, **changes: Any) -> list[dict[str, Any]]:
    return [{"id": first + i, "content": token, **_PLAIN, **changes} for i, token in enumerate(tokens)]


def _tokenizer(**changes: Any) -> dict[str, Any]:
    """Returns a sound byte-level tokenizer.json with changed parts."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added("<|im_start|>", "<|im_end|>"),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _model(),
    } | changes


def _model(**changes: Any) -> dict[str, Any]:
    vocab = {character: byte for byte, character in enumerate(_alphabet())}
    return {"type": "BPE", "vocab": vocab, "merges": []} | changes


def _files(tokenizer: object, template: Any = _TEMPLATE, **config: Any) -> dict[str, bytes]:
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    data = tokenizer if isinstance(tokenizer, bytes) else json.dumps(tokenizer).encode()
    return {
        "tokenizer.json": data,
        "tokenizer_config.json": json.dumps(names | config).encode(),
        "chat_template.jinja": template if isinstance(template, bytes) else template.encode(),
    }


def _special(count: int, ids: int) -> dict[str, Any]:
    """Returns a post-processor that puts `count` x `ids` tokens before a text."""
    piece = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*[piece] * count, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [256] * ids, "tokens": ["<|im_start|>"] * ids}
        },
    }


def _normalizers() -> Iterator[tuple[str, dict[str, Any]]]:
    def chained(*parts: dict[str, Any]) -> dict[str, Any]:
        return {"type": "Sequence", "normalizers": list(parts)}

    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    yield "doubling", chained(*[doubling] * 40)
    yield "tenfold", chained(*[doubling | {"content": "a" * 10}] * 12)
    yield "everything", chained(*[{"type": "Replace", "pattern": {"Regex": "."}, "content": "ab"}] * 30)
    yield "nothing", chained(*[{"type": "Replace", "pattern": {"Regex": ""}, "content": "a"}] * 30)
    yield "one", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000_000}
    yield "prepend", {"type": "Prepend", "prepend": "a" * 1_000_000}
    yield "compatibility", chained(*[{"type": "NFKD"}, {"type": "Lowercase"}] * 100)
    yield "backtracking", {"type": "Replace", "pattern": {"Regex": "(a+)+(b+)+$"}, "content": ""}
    yield "precompiled", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    yield "precompiled-short", {"type": "Precompiled", "precompiled_charsmap": ""}
    nested: dict[str, Any] = {"type": "NFC"}
    for _ in range(60):
        nested = chained(nested)
    yield "nested", nested
    for _ in range(150):
        nested = chained(nested)
    yield "deep", nested
    yield "unknown", {"type": "Shell", "command": "true"}
    yield "bytes", {"type": "ByteLevel"}


def tokenizers() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields names and files of models whose tokenizer means harm."""
    yield from _components()
    yield from _cuts()
    yield from _tokens_and_files()
    yield from _large()


def _components() -> Iterator[tuple[str, dict[str, bytes]]]:
    for name, normalizer in _normalizers():
        yield f"normalizer-{name}", _files(_tokenizer(normalizer=normalizer))
    for count, length in ((16, 32_768), (2000, 129), (12_000, 12)):
        tokens = [f"<|{i:05}".ljust(length - 2, "x") + "|>" for i in range(count)]
        yield f"control-{count}x{length}", _files(_tokenizer(added_tokens=_added(*tokens)))
    for count, ids in ((2, 8000), (8000, 1), (65, 1)):
        yield f"frame-{count}x{ids}", _files(_tokenizer(post_processor=_special(count, ids)))
    frames = {"type": "Sequence", "processors": [_special(40, 1)] * 40}
    yield "frame-sequence", _files(_tokenizer(post_processor=frames))
    yield "frame-unknown", _files(_tokenizer(post_processor=_special(1, 1) | {"special_tokens": {}}))
    for dropout in (0.1, 1.0, -1.0, 1e308):
        yield f"dropout-{dropout}", _files(_tokenizer(model=_model(dropout=dropout)))
    yield "vocabulary-far", _files(_tokenizer(model=_model(vocab=_model()["vocab"] | {"xx": 4_000_000_000})))
    yield "vocabulary-beyond", _files(_tokenizer(model=_model(vocab=_model()["vocab"] | {"xx": 1 << 64})))
    yield "vocabulary-empty", _files(_tokenizer(model=_model(vocab={})))
    yield "vocabulary-list", _files(_tokenizer(model=_model(vocab=[["a", 0.5]])))
    yield "vocabulary-twice", _files(_tokenizer(model=_model(vocab=dict.fromkeys(_alphabet(), 7))))
    for name, merges in (
        ("short", ["a"]),
        ("empty", [""]),
        ("unknown", ["zz yy"]),
        ("numbers", [1, 2]),
        ("deep", [[["a"]]]),
        ("spaces", [" " * 100_000]),
    ):
        yield f"merges-{name}", _files(_tokenizer(model=_model(merges=merges)))
    for name, change in (
        ("prefix", {"continuing_subword_prefix": "x" * 1_000_000}),
        ("suffix", {"end_of_word_suffix": "x" * 1_000_000}),
        ("unk", {"unk_token": "nothing"}),
        ("fallback", {"byte_fallback": True, "unk_token": "nothing", "fuse_unk": True}),
        ("type", {"type": "Pickle"}),
    ):
        yield f"model-{name}", _files(_tokenizer(model=_model(**change)))


def _cuts() -> Iterator[tuple[str, dict[str, bytes]]]:
    pieces = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    for name, change in (
        ("no-unk", {"vocab": {"a": 0}, "max_input_chars_per_word": 100}),
        ("long-words", {"vocab": {"a": 0, "[UNK]": 1}, "max_input_chars_per_word": 1 << 60}),
        ("negative", {"vocab": {"a": 0, "[UNK]": 1}, "max_input_chars_per_word": -1}),
    ):
        yield f"word-piece-{name}", _files(_tokenizer(model=pieces | change))
    yield "unigram", _files(_tokenizer(model={"type": "Unigram", "vocab": [["a", -1e308]], "unk_id": 7}))
    split = {"type": "Split", "invert": False, "behavior": "Isolated"}
    for name, pre in (
        ("backtracking", split | {"pattern": {"Regex": "(W?h?a?t? ?)+(x+x+)+y"}}),
        ("unsound", split | {"pattern": {"Regex": "(((("}}),
        ("huge-repeat", split | {"pattern": {"Regex": "(a{1,1000}){1,1000}"}}),
        ("recursive", split | {"pattern": {"Regex": "(?<x>a\\g<x>?b)"}}),
        ("removed", split | {"pattern": {"Regex": ".*"}, "behavior": "Removed"}),
        ("many", {"type": "Sequence", "pretokenizers": [split | {"pattern": {"Regex": "."}}] * 2000}),
        ("metaspace", {"type": "Metaspace", "replacement": "abc", "prepend_scheme": "always"}),
        ("unknown", {"type": "Eval"}),
    ):
        yield f"cut-{name}", _files(_tokenizer(pre_tokenizer=pre))


def _tokens_and_files() -> Iterator[tuple[str, dict[str, bytes]]]:
    for name, added in (
        ("empty", _added("")),
        ("gap", _added("<|x|>", first=9000)),
        ("stolen", _added("<|x|>", first=65)),
        ("byte", _added("Ġ", "ÿ", "\x00")),
        ("lines", _added("\n", " ", "  ")),
        ("pattern", _added("(a+)+$", ".*")),
        ("strips", _added("<|x|>", lstrip=True, rstrip=True)),
        ("numbers", [{"id": "256", "content": 7}]),
        ("content-bytes", [{"id": 256, "content": [60, 120, 62], **_PLAIN}]),
        ("negative", [{"id": -1, "content": "<|x|>", **_PLAIN}]),
        ("long-text", _added("x" * (2 << 20), special=False)),
    ):
        yield f"added-{name}", _files(_tokenizer(added_tokens=added))
    for name, config in (
        ("token-bytes", {"eos_token": [60, 120, 62], "bos_token": {"content": [1]}}),
        ("token-surrogate", {"eos_token": "\ud800"}),
        ("template-number", {"chat_template": 7}),
        ("template-list", {"chat_template": [7, {"name": "default", "template": [1]}]}),
        ("add-bos", {"add_bos_token": [1]}),
        ("eos-ids", {"eos_token_id": [10**400]}),
    ):
        files = _files(_tokenizer(), **config)
        del files["chat_template.jinja"]
        yield f"config-{name}", files
    for name, data in (
        ("bytes", b"\xff\xfe" * 64),
        ("empty", b""),
        ("deep", b'{"a":' * 100_000),
        ("cut", json.dumps(_tokenizer()).encode()[:3000]),
        ("number", b"7"),
        ("null", b"null"),
        ("spaces", b" " * (1 << 20)),
    ):
        yield f"file-{name}", _files(data)
    for name, config in (
        ("deep", b'{"a":' * 100_000),
        ("bytes", b"\xff"),
    ):
        yield f"config-file-{name}", _files(_tokenizer()) | {"tokenizer_config.json": config}


def _large() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields the files of megabytes, last of all."""
    for count, length in ((100_000, 12), (1, 4 << 20)):
        tokens = [f"<|{i:05}".ljust(length - 2, "x") + "|>" for i in range(count)]
        yield f"large-control-{count}x{length}", _files(_tokenizer(added_tokens=_added(*tokens)))
    for count, ids in ((1, 1_000_000), (200_000, 1), (2000, 2000)):
        yield f"large-frame-{count}x{ids}", _files(_tokenizer(post_processor=_special(count, ids)))
    alphabet = _model()["vocab"]
    wide = alphabet | {f"w{i:07}{'x' * 16}": 300 + i for i in range(1_600_000)}
    yield "large-vocabulary", _files(_tokenizer(model=_model(vocab=wide)))
    yield "large-word", _files(_tokenizer(model=_model(vocab=alphabet | {"x" * (20 << 20): 300})))
    yield "large-merges", _files(_tokenizer(model=_model(merges=["a b"] * 1_000_000)))
    prepends = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a" * 200}] * 10_000}
    yield "large-prepends", _files(_tokenizer(normalizer=prepends))
    yield (
        "large-config",
        _files(_tokenizer()) | {"tokenizer_config.json": b"[" + b"[]," * (3 << 20) + b"1]"},
    )


def _often(times: int, body: str) -> str:
    return f"{{% for i in range({times}) %}}{body}{{% endfor %}}"


_BIG = "{% set a = 'aaaaaaaaaa' * 800000 %}"
_ITEMS = "{% set l = [1] * 260000 %}"
_TEMPLATES: dict[str, str | bytes] = {
    "not-utf8": b"\xff\xfe{{ messages }}",
    "half-character": b"{{ messages }}" + b"\xe4\xbd",
    "null": "{{ messages }}\0",
    "long": "x" * 100_000,
    "longer": "x" * (2 << 20),
    "nested": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested-if": "{% if x %}" * 3000 + "{% endif %}" * 3000,
    "constant": "{{ '" + "x" * 1000 + "' * 1000000 * 1000000 }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro m(n) %}{{ m(n - 1) ~ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
    "endless": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "title": _BIG + _often(20, "{% set b = a | title %}"),
    "title-words": "{% set a = 'a ' * 4000000 %}" + _often(20, "{% set b = a | title %}"),
    "sort": "{% set l = (range(99999) | list) + (range(99999) | list) %}"
    + _often(50, "{% set b = l | sort %}"),
    "sort-texts": "{% set a = 'a' * 8000 %}{% set l = [a] * 900 %}" + _often(999, "{% set b = l | sort %}"),
    "unique": "{% set l = range(99999) | list %}" + _often(999, "{% set b = l | unique | list %}"),
    "replace": _BIG + _often(99, "{% set b = a.replace('a', 'b') %}"),
    "replace-filter": _BIG + _often(99, "{% set b = a | replace('aa', 'b') %}"),
    "find": _BIG + _often(99, "{% set b = a.find('a' * 90 ~ 'b') %}"),
    "count": _BIG + _often(99, "{% set b = a.count('a' * 90 ~ 'b') %}"),
    "split": _BIG + _often(99, "{% set b = a.split('a') %}"),
    "strip": _BIG + _often(99, "{% set b = a.strip('bcdefghijklmnopqrstuvwxyza') %}"),
    "integer": "{% set n = ('f' * 8000000) | int(base=16) %}{{ n }}",
    "integers": "{% set a = 'f' * 8000000 %}{% set ns = namespace(l=[]) %}"
    "{% for i in range(999) %}{% set ns.l = ns.l + [a | int(base=16)] %}{% endfor %}",
    "integer-base-7": "{% set a = '6' * 8000000 %}{{ a | int(base=7) }}",
    "integer-hex": "{{ '%x' % (('f' * 8000000) | int(base=16)) }}",
    "power": "{{ 10 ** 1000000000 }}",
    "float": "{{ ('9' * 8000000) | float }}",
    "format": "{% set a = '%99.99f' * 60000 %}{{ a % ([1.5] * 60000) }}",
    "format-repr": "{% set a = '\u2028' * 700000 %}{% set l = [a] * 9 %}"
    + _often(99, "{% set b = '%s' % (l,) %}"),
    "concat-repr": "{% set a = '\u2028' * 700000 %}{% set l = [a] * 9 %}"
    + _often(99, "{% set b = l ~ 'x' %}"),
    "json-ascii": "{% set a = '\u2028' * 7000000 %}"
    + _often(99, "{% set b = [a] | tojson(ensure_ascii=true) %}"),
    "json-indent": _ITEMS
    + "{% set ns = namespace(l=l) %}{% for i in range(60) %}{% set ns.l = [ns.l] %}{% endfor %}"
    "{{ ns.l | tojson(indent=16) }}",
    "json-sorted": _often(999, "{% set b = tools | tojson(sort_keys=true) %}")
    + _ITEMS
    + _often(99, "{% set b = l | tojson(indent=1) %}"),
    "selects": "{{ range(99999)" + " | select" * 300 + " | list | length }}",
    "rejects": "{% for x in range(99999)" + " | reject" * 300 + " %}{% endfor %}",
    "rejects-first": "{{ range(99999)" + " | map('abs') | reject" * 100 + " | first }}",
    "compares": _ITEMS + "{{ " + " or ".join(["(2 in l)"] * 3000) + " }}",
    "compare-texts": _BIG + "{{ " + " or ".join(["('ab' in a)"] * 3000) + " }}",
    "join": _often(99, "{% set b = (range(99999) | list) | join('aaaa') %}"),
    "lists": "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "texts": "{% set ns = namespace(s='x') %}{% for i in range(90) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "kept": _BIG
    + "{% set ns = namespace(l=[]) %}{% for i in range(90) %}{% set ns.l = ns.l + [a[i:]] %}{% endfor %}",
    "upper": "{% set a = 'ß' * 8000000 %}" + _often(99, "{% set b = a | upper %}"),
    "escape": "{% set a = '<' * 1500000 %}" + _often(99, "{% set b = a | e %}"),
    "indent": "{% set a = 'x\n' * 400000 %}" + _often(99, "{% set b = a | indent(9) %}"),
    "lines": "{% set a = '\n' * 8000000 %}" + _often(99, "{% set b = a.splitlines() %}"),
    "output": _BIG + "{% for i in range(100) %}{{ a }}{% endfor %}",
    "dictionary": "{% set d = dict((range(99999) | list) | map('string') | map('list')) %}{{ d | length }}",
    "internals": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ self.__init__.__globals__ }}",
    "import": "{% import 'os' as os %}{{ os.system('true') }}",
    "include": "{% include '/etc/passwd' %}",
    "attribute": "{{ [messages] | map(attribute='a.' * 1000000 ~ 'a') | list }}",
    "control": "<|im_start|>" * 4000,
    "marks": "".join(chr(0xF0000 + i) for i in range(20_000)),
    "raise": "{{ raise_exception('x' * 8000000) }}",
    "time": "{{ strftime_now('%c' * 100) }}{{ strftime_now('%999999999d') }}",
}


def templates() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields names and files of models whose chat template means harm."""
    for name, source in _TEMPLATES.items():
        yield name, _files(_tokenizer(), source)
