"""The page at `/start`, in English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

from deepwell.messages import Language
from deepwell.version import deepwell_version

__all__ = ["page", "start_page"]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
pre, code { font: 14px/1.5 ui-monospace, monospace; }
pre { padding: .8rem 1rem; overflow-x: auto; border: 1px solid #8885; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8883; }
summary { cursor: pointer; }
h2 { margin-top: 2.2rem; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 600; }
"""

_PAGE = Template("""<!doctype html>
<html lang="$lang">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body
</body>
</html>
""")

_TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "title": "Deepwell",
        "lead": "This is an OpenAI-compatible server. It answers programs; this page says how to ask.",
        "models": "Models",
        "name": "Name",
        "context": "Context",
        "on_demand": "The server loads a model when a request names it. <code>deepwell pull NAME</code> adds one at any time.",
        "tokens": "tokens",
        "with_key": "This server asks for an API key. Whoever runs it makes one with <code>deepwell keys create NAME</code>.",
        "base": "Base URL for OpenAI clients",
        "curl": "From the shell",
        "python": "From Python",
        "terminal": "From the terminal of this machine",
        "question": "Why is the sky blue?",
        "more": "More",
        "console": "The web console",
        "docs": "The API, operation by operation",
        "openapi": "The same as an OpenAPI document",
        "ready": "Whether the server takes requests",
    },
    "zh": {
        "title": "Deepwell",
        "lead": "这是兼容 OpenAI API 的服务器，供程序调用；本页说明如何调用。",
        "models": "模型",
        "name": "名称",
        "context": "上下文",
        "on_demand": "请求指定某个模型时，服务器才加载它。随时可用 <code>deepwell pull 名称</code> 添加模型。",
        "tokens": "token",
        "with_key": "本服务器需要 API 密钥。请管理员运行 <code>deepwell keys create 名称</code> 创建。",
        "base": "OpenAI 客户端的 base URL",
        "curl": "命令行",
        "python": "Python",
        "terminal": "在本机终端中",
        "question": "天空为什么是蓝色的？",
        "more": "更多",
        "console": "网页控制台",
        "docs": "API 文档（逐个接口）",
        "openapi": "OpenAPI 文档（JSON）",
        "ready": "服务器是否就绪",
    },
}


def page(language: Language, title: str, body: str) -> str:
    """Returns a whole HTML page. `title` is plain text, `body` HTML."""
    lang = "zh-CN" if language == "zh" else "en"
    return _PAGE.substitute(lang=lang, title=escape(title), style=_STYLE, body=body)


def start_page(
    language: Language,
    url: str,
    models: Sequence[tuple[str, int]],
    *,
    with_key: bool,
    example: str = "",
    port: int | None = None,
    on_demand: bool = False,
) -> str:
    """Returns the page that says what is served and how to ask.

    Args:
        url: address under which the browser reached the server.
        models: names of the served models with the tokens of their context, the main one first; empty if a key protects them.
        example: model that the examples ask; empty: none is known.
        port: port that `deepwell ask` has to name; None: it finds the server without.
        on_demand: whether models are loaded when a request names them.
    """
    say = _TEXTS[language]
    name = example or "MODEL"
    option = f" --port {port}" if port else ""
    body = json.dumps(
        {"model": name, "messages": [{"role": "user", "content": say["question"]}], "max_tokens": 60},
        ensure_ascii=False,
    )
    header = ' \\\n  -H "Authorization: Bearer YOUR_KEY"' if with_key else ""
    curl = f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} \\\n  -d '{body}'"
    key = "YOUR_KEY" if with_key else "none"
    python = f"""from openai import OpenAI  # pip install openai

client = OpenAI(base_url="{url}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="{name}", messages=[{{"role": "user", "content": "{say["question"]}"}}], max_tokens=60
)
print(answer.choices[0].message.content)"""
    parts = [
        f"<h1>Deepwell {escape(deepwell_version())}</h1>",
        f"<p>{say['lead']}</p>",
        f"<h2>{say['models']}</h2>",
        f"<p>{say['with_key']}</p>" if with_key else _models_table(say, models) if models else "",
        f"<p>{say['on_demand']}</p>" if on_demand else "",
        f"<h2>{say['base']}</h2><pre>{escape(url)}/v1</pre>",
        f"<h2>{say['curl']}</h2><pre>{escape(curl)}</pre>",
        f"<h2>{say['python']}</h2><pre>{escape(python)}</pre>",
        f"<h2>{say['terminal']}</h2><pre>deepwell ask &quot;{say['question']}&quot;{option}\ndeepwell chat{option}</pre>",
        f"<h2>{say['more']}</h2><ul>",
        f'<li><a href="/">{say["console"]}</a></li>',
        f'<li><a href="/docs">{say["docs"]}</a></li>',
        f'<li><a href="/openapi.json">{say["openapi"]}</a></li>' if not with_key else "",
        f'<li><a href="/readyz">{say["ready"]}</a></li></ul>',
    ]
    return page(language, say["title"], "\n".join(part for part in parts if part))


def _models_table(say: Mapping[str, str], models: Sequence[tuple[str, int]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{tokens:,} {say['tokens']}</td></tr>"
        for name, tokens in models
    )
    return f"<table><tr><th>{say['name']}</th><th>{say['context']}</th></tr>{rows}</table>"
