"""The pages on settings, in English and Chinese, made from the settings object, the verbs and the Chinese descriptions."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from deepwell.cli.pages.verbs import verbs
from deepwell.messages import Language, chinese_settings
from deepwell.settings import Settings

__all__ = ["flags", "sections", "settings_pages"]

# Parameters that are named like a setting and are something else.
_OTHERS = {
    ("pull", "model"),
    ("keys create", "requests_per_minute"),
    ("keys create", "tokens_per_minute"),
    ("keys create", "audio_seconds_per_minute"),
    ("keys create", "images_per_minute"),
    ("models synth", "precision"),
    ("up", "knowledge"),  # a folder there
    ("world plan", "model"),  # a model of the world there
    ("world imagine", "model"),
    ("world evaluate", "model"),
    ("media draw", "model"),  # one that draws there
    ("media transcribe", "model"),  # one for recognition there
    ("data check", "model"),  # none by default
    ("data dedup", "embedding_model"),
}

_TITLES: Mapping[str, tuple[str, str]] = {
    "server": ("Server", "服务器"),
    "engine": ("Engine", "引擎"),
    "models": ("Models", "模型"),
    "storage": ("Data at rest", "数据存储"),
    "knowledge": ("Knowledge", "知识库"),
    "mcp": ("MCP", "MCP"),
    "recognition": ("Recognition of speech", "语音识别"),
    "images": ("Images", "图像"),
    "agents": ("Agents", "智能体"),
    "safety": ("Safety", "安全防护"),
    "improve": ("Improvement by votes", "按反馈改进"),
    "client": ("Command line as a client", "命令行客户端"),
}

_COLUMNS: Mapping[Language, str] = {
    "en": "| setting | variable | flag | values | default | |",
    "zh": "| 设置 | 环境变量 | 命令行选项 | 取值 | 默认值 | 说明 |",
}

_WORDS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "secret": "text, never shown",
        "text": "text",
        "path": "path",
        "list": "list",
        "secrets": "list, never shown",
        "integer": "integer",
        "number": "number",
        "switch": "`true` or `false`",
        "or": ", ",
        "between": "{kind}, {low} to {high}",
        "least": "{kind}, at least {low}",
        "above": "{kind}, above {low}",
        "unset": "unset",
        "empty": "empty",
    },
    "zh": {
        "secret": "文本，不会显示",
        "text": "文本",
        "path": "路径",
        "list": "列表",
        "secrets": "列表，不会显示",
        "integer": "整数",
        "number": "数值",
        "switch": "`true` 或 `false`",
        "or": "、",
        "between": "{kind}，{low} 到 {high}",
        "least": "{kind}，不小于 {low}",
        "above": "{kind}，大于 {low}",
        "unset": "不设置",
        "empty": "空",
    },
}

_HEADS: Mapping[Language, str] = {
    "en": """\
# Settings

[中文](settings.zh-CN.md)

Every setting can come from four places. The first of these that names it wins:

1. a **flag** of the command: `deepwell serve --port 9000`
2. an **environment variable**, the name in capitals behind `DEEPWELL_`: `DEEPWELL_PORT=9000 deepwell serve`
3. the **configuration file**, a line of TOML: `port = 9000`
4. the **default**: 8000

With all of these at once, the server listens on 9001:

```toml
# ~/.config/deepwell/config.toml
port = 9003
precision = "int8"
cors_origins = ["https://app.example.com"]
```

```
DEEPWELL_PORT=9002 deepwell serve --port 9001
```

`deepwell doctor` shows the value of every setting with the place that it comes from. A list in a variable is separated by
commas or blanks. An empty variable counts as not set. A misspelt name is an error that names the nearest right one.

| variable | what it moves |
|---|---|
| `DEEPWELL_CONFIG` | the configuration file; unset: `~/.config/deepwell/config.toml` |
| `DEEPWELL_HOME` | everything that Deepwell keeps: `config.toml`, `cache/`, `data/` and `state/` lie in this folder |
| `XDG_CONFIG_HOME`, `XDG_CACHE_HOME`, `XDG_DATA_HOME`, `XDG_STATE_HOME` | the same one by one, as on any Linux |

The first column is the name in the configuration file. `make docs` makes this page from the code.
""",
    "zh": """\
# 设置

[English](settings.md)

每项设置有四个来源，排在前面的优先：

1. **命令行选项**：`deepwell serve --port 9000`
2. **环境变量**，即 `DEEPWELL_` 加大写的设置名：`DEEPWELL_PORT=9000 deepwell serve`
3. **配置文件**中的一行 TOML：`port = 9000`
4. **默认值**：8000

如果四者同时存在，服务器监听 9001：

```toml
# ~/.config/deepwell/config.toml
port = 9003
precision = "int8"
cors_origins = ["https://app.example.com"]
```

```
DEEPWELL_PORT=9002 deepwell serve --port 9001
```

`deepwell doctor` 会列出每项设置的值及其来源。环境变量中的列表用逗号或空格分隔；空的环境变量视为未设置。
设置名拼写错误时会报错，并给出最接近的正确名称。

| 环境变量 | 作用 |
|---|---|
| `DEEPWELL_CONFIG` | 配置文件的位置；不设置：`~/.config/deepwell/config.toml` |
| `DEEPWELL_HOME` | Deepwell 的全部文件都放在这个文件夹：`config.toml`、`cache/`、`data/` 和 `state/` |
| `XDG_CONFIG_HOME`、`XDG_CACHE_HOME`、`XDG_DATA_HOME`、`XDG_STATE_HOME` | 分别指定上述位置，与其他 Linux 程序相同 |

第一列是配置文件中的名称。本页由 `make docs` 根据代码生成。
""",
}


def sections() -> dict[str, dict[str, FieldInfo]]:
    """Returns the settings by the section that declares them, in the order of the page."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for section in _TITLES:
        (base,) = (one for one in Settings.__bases__ if one.__module__ == f"deepwell.settings.{section}")
        found[section] = {name: Settings.model_fields[name] for name in base.model_fields}
    return found


def flags() -> dict[str, dict[str, list[str]]]:
    """Returns the flags and arguments of each setting, each with the verbs that take it."""
    found: dict[str, dict[str, list[str]]] = {}
    for verb in verbs():
        if verb.path.startswith("bench"):
            continue
        for parameter in verb.parameters:
            if (verb.path, parameter.name) in _OTHERS:
                continue
            # A repeatable flag is named in the singular.
            called = (parameter.name, f"{parameter.name}s", f"model_{parameter.name}_s")
            names = (name for name in called if name in Settings.model_fields)
            if name := next(names, None):
                found.setdefault(name, {}).setdefault(parameter.shown, []).append(verb.path)
    return found


def settings_pages() -> dict[str, str]:
    """Returns the texts of both pages by their file name in `docs/reference`."""
    with _home() as home:
        return {
            "settings.md": _page("en", home),
            "settings.zh-CN.md": _page("zh", home),
        }


def _page(language: Language, home: Path) -> str:
    known_flags, chinese = flags(), chinese_settings()
    parts = [_HEADS[language]]
    for section, fields in sections().items():
        lines = [
            f"## {_TITLES[section][language == 'zh']}",
            "",
            _COLUMNS[language],
            "|---|---|---|---|---|---|",
        ]
        for name, field in fields.items():
            cells = (
                f"`{name}`",
                f"`DEEPWELL_{name.upper()}`",
                _flags(known_flags.get(name, {})),
                _values(field, _WORDS[language]),
                _default(name, field, home, _WORDS[language]),
                (chinese[section][name] if language == "zh" else str(field.description)).replace("|", "\\|"),
            )
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def _flags(by_flag: Mapping[str, list[str]]) -> str:
    return "<br>".join(f"`{flag}`: {', '.join(found)}" for flag, found in by_flag.items())


def _values(field: FieldInfo, words: Mapping[str, str]) -> str:
    """Returns the values that a setting takes, in words."""
    kind: Any = field.annotation
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if type(None) in get_args(kind):
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        return words["or"].join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is list:
        return words["secrets" if get_args(kind)[0] is SecretStr else "list"]
    simple = {SecretStr: "secret", Path: "path", bool: "switch", str: "text"}
    if kind in simple:
        return words[simple[kind]]
    limits = {
        name: value
        for limit in field.metadata
        for name in ("ge", "gt", "le")
        if (value := getattr(limit, name, None)) is not None
    }
    named = words["integer" if kind is int else "number"]
    if "ge" in limits and "le" in limits:
        return words["between"].format(kind=named, low=limits["ge"], high=limits["le"])
    if "gt" in limits:
        return words["above"].format(kind=named, low=limits["gt"])
    return words["least"].format(kind=named, low=limits["ge"]) if "ge" in limits else named


def _default(name: str, field: FieldInfo, home: Path, words: Mapping[str, str]) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return words["unset"]
    if value == []:
        return words["empty"]
    if isinstance(value, Path):
        return f"`~/{value.relative_to(home)}`"
    if name.endswith("_bytes"):
        unit, size = ("GiB", 1 << 30) if value % (1 << 30) == 0 else ("MiB", 1 << 20)
        return f"`{value}` ({value // size} {unit})"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


@contextmanager
def _home() -> Generator[Path]:
    """Hides the folders of whoever makes the pages, so that defaults read the same everywhere."""
    home = Path("/home/user")
    before = dict(os.environ)
    os.environ.clear()
    os.environ["HOME"] = str(home)
    try:
        yield home
    finally:
        os.environ.clear()
        os.environ.update(before)
