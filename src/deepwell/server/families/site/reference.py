"""The page at `/docs`: the OpenAPI document as plain HTML, which needs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from deepwell.messages import Language
from deepwell.server.families.site.pages import page

__all__ = ["reference_page"]

_TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "title": "Deepwell: the API",
        "operations": "Operations",
        "schemas": "Bodies",
        "name": "Name",
        "type": "Type",
        "about": "About",
        "required": "required",
        "default": "default",
        "parameters": "Parameters",
        "body": "Request body",
        "answer": "Answer",
        "home": "What is served, and how to ask",
    },
    "zh": {
        "title": "Deepwell：API 文档",
        "operations": "接口",
        "schemas": "数据结构",
        "name": "名称",
        "type": "类型",
        "about": "说明",
        "required": "必填",
        "default": "默认值",
        "parameters": "参数",
        "body": "请求体",
        "answer": "响应",
        "home": "提供哪些模型、如何调用",
    },
}


def reference_page(document: Mapping[str, Any], language: Language) -> str:
    """Returns the page of an OpenAPI document: its operations, then the bodies that they name."""
    say = _TEXTS[language]
    operations = [
        (method, path, operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in methods.items()
    ]
    parts = [f"<h1>{say['title']}</h1>", f'<p><a href="/start">{say["home"]}</a></p>']
    parts.append(f"<h2>{say['operations']}</h2>")
    parts += [_operation(say, *one) for one in operations]
    parts.append(f"<h2>{say['schemas']}</h2>")
    schemas: Mapping[str, Any] = document.get("components", {}).get("schemas", {})
    parts += [_component(say, name, schema) for name, schema in sorted(schemas.items())]
    return page(language, say["title"], "\n".join(parts))


def _operation(say: Mapping[str, str], method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [f"<p>{escape(text)}</p>" for text in (operation.get("description"),) if text]
    if parameters := operation.get("parameters"):
        rows = [
            (one["name"], one.get("schema", {}), one.get("required", False), one.get("description", ""))
            for one in parameters
        ]
        parts.append(f"<h4>{say['parameters']}</h4>{_table(say, rows)}")
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>{say['body']}: {_type(content.get('schema', {}))} ({escape(media)})</p>")
    for media, content in operation["responses"].get("200", {}).get("content", {}).items():
        parts.append(f"<p>{say['answer']}: {_type(content.get('schema', {}))} ({escape(media)})</p>")
    title = f'<span class="method">{method.upper()}</span> <code>{escape(path)}</code>'
    summary = escape(operation.get("summary", ""))
    return f"<details><summary>{title} {summary}</summary>{''.join(parts)}</details>"


def _component(say: Mapping[str, str], name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (key, value, key in required, value.get("description", ""))
        for key, value in schema.get("properties", {}).items()
        if isinstance(value, dict)
    ]
    about = f"<p>{escape(schema['description'])}</p>" if schema.get("description") else ""
    inner = _table(say, rows) if rows else f"<p>{_type(schema)}</p>"
    anchor = escape(name, quote=True)
    return f'<details id="{anchor}" open><summary><b>{escape(name)}</b></summary>{about}{inner}</details>'


def _table(say: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, Any], bool, str]]) -> str:
    cells: list[str] = []
    for name, schema, required, about in rows:
        notes = [say["required"]] if required else []
        if "default" in schema and schema["default"] is not None:
            notes.append(f"{say['default']} {schema['default']!r}")
        note = f" <small>({escape(', '.join(notes))})</small>" if notes else ""
        text = f"<td>{_type(schema)}{note}</td><td>{escape(about)}</td>"
        cells.append(f"<tr><td><code>{escape(name)}</code></td>{text}</tr>")
    head = f"<tr><th>{say['name']}</th><th>{say['type']}</th><th>{say['about']}</th></tr>"
    return f"<table>{head}{''.join(cells)}</table>"


def _type(schema: Any) -> str:
    """Returns the type of a schema as HTML, with links to the bodies that it names."""
    if not isinstance(schema, dict):
        return "any"
    if "$ref" in schema:
        name = escape(str(schema["$ref"]).rpartition("/")[2], quote=True)
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(_type(one) for one in schema[key]))
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"[{_type(schema.get('items', {}))}]"
    return escape(" | ".join(kind) if isinstance(kind, list) else str(kind))
