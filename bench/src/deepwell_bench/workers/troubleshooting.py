"""Writes the pages on troubleshooting from the catalogue of messages: `python -m deepwell_bench.workers.troubleshooting`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from deepwell.messages import Entry, Language, catalogue
from deepwell_bench.harness.assets import repository

__all__ = ["pages", "write_pages"]

_TOPICS: Mapping[str, tuple[str, str]] = {
    "command": ("The command line", "命令行"),
    "settings": ("Settings", "设置"),
    "models": ("Models", "模型"),
    "memory": ("Memory and processor", "内存与处理器"),
    "server": ("The server", "服务器"),
    "keys": ("API keys", "API 密钥"),
    "engines": ("Engines beyond this machine", "本机以外的引擎"),
    "platform": ("The platform: deepwell up", "平台：deepwell up"),
    "deploy": ("Deployments", "部署"),
    "requests": ("Requests", "请求"),
    "context": ("Long contexts", "长上下文"),
    "knowledge": ("Knowledge bases", "知识库"),
    "speech": ("Speech", "语音"),
    "images": ("Images", "图像"),
    "data": ("Training data", "训练数据"),
    "guard": ("The guard", "安全防护"),
    "sandbox": ("The sandbox", "沙箱"),
    "tuning": ("Fine-tuning", "微调"),
    "evaluate": ("Evaluation", "评测"),
    "agents": ("Agents", "智能体"),
    "rules": ("Rules", "规则"),
    "prompts": ("Stored prompts", "提示词库"),
    "mcp": ("MCP", "MCP"),
    "simulate": ("The simulator", "容量模拟"),
    "ray": ("Batches without a server, and Ray", "离线批处理与 Ray"),
    "doctor": ("What doctor finds", "doctor 检查出的问题"),
}

_HEADS: Mapping[Language, str] = {
    "en": """# Troubleshooting

[中文](troubleshooting.zh-CN.md)

This page lists the errors of the first hour, each with its fix. Words in capitals stand for your own names and numbers. The
command line prints errors in Chinese if `LC_ALL` or `LANG` is Chinese (`LANG=zh_CN.UTF-8`), and the server sends them in
Chinese if a request's `Accept-Language` prefers it. `deepwell doctor` checks the installation, the model, the port and the
settings, and prints the command that mends each fault.

`make docs` makes this page from the catalogue of messages (`src/deepwell/messages/catalogue.toml`).
""",
    "zh": """# 故障排查

[English](troubleshooting.md)

本页列出初次使用时可能遇到的错误及其解决办法。大写单词代表你自己的名称和数字。`LC_ALL` 或 `LANG` 为中文时（例如
`LANG=zh_CN.UTF-8`），命令行以中文报错；请求的 `Accept-Language` 优先中文时，服务器以中文报错。
`deepwell doctor` 会检查安装、模型、端口和设置，并给出修复命令。

`make docs` 根据消息清单（`src/deepwell/messages/catalogue.toml`）生成本页。
""",
}


def _shown(text: str) -> str:
    """Returns a text with its placeholders in capitals."""
    named = re.sub(r"(?<!\{)\{(\w+)(![rs])?\}(?!\})", lambda found: found[1].upper().replace("_ZH", ""), text)
    return named.replace("{{", "{").replace("}}", "}")


def _error(entries: Sequence[Entry], language: Language) -> str:
    """Returns the paragraph of one error; its entries differ in example and fix."""
    labels = ("示例", "解决") if language == "zh" else ("Example", "Fix")
    colon = "：" if language == "zh" else ": "
    lines = [f"### {_shown(entries[0].texts(language)[0])}", ""]
    for entry in entries:
        example = entry.example if "`" in entry.example else f"`{entry.example}`"
        lines += [f"- {labels[0]}{colon}{example}", f"- {labels[1]}{colon}{_shown(entry.texts(language)[1])}"]
    return "\n".join([*lines, ""])


def _errors(topic: str, language: Language) -> Iterator[str]:
    """Yields the paragraphs of a topic, one for each message."""
    by_message: dict[str, list[Entry]] = {}
    for entry in catalogue().values():
        if entry.topic == topic:
            by_message.setdefault(entry.texts(language)[0], []).append(entry)
    yield from (_error(entries, language) for entries in by_message.values())


def pages() -> dict[str, str]:
    """Returns the texts of both pages by their file name in `docs`."""
    found: dict[str, str] = {}
    names: tuple[tuple[str, Language], ...] = (
        ("troubleshooting.md", "en"),
        ("troubleshooting.zh-CN.md", "zh"),
    )
    for name, language in names:
        parts = [_HEADS[language]]
        for topic, titles in _TOPICS.items():
            parts.append(f"## {titles[language == 'zh']}\n")
            parts += _errors(topic, language)
        found[name] = "\n".join(parts)
    return found


def write_pages() -> None:
    """Writes both pages."""
    for name, text in pages().items():
        (repository() / "docs" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_pages()
