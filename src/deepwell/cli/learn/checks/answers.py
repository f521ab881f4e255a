"""Checks of steps 1 to 4: answers, programs, structured output, documents."""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

from deepwell.cli.learn.checks.desk import Desk, Finding

__all__ = ["answers_from_documents", "first_answer", "own_program", "structured_output"]

_HANZI: Final = re.compile(r"[\u4e00-\u9fff]")
_TICKETS: Final = {
    "en": [
        ("The pan from order 5102 lost its handle. Please answer today!", 5102),
        ("Order 77 has not come yet, but I have time.", 77),
        ("My toaster, order 30418, smells burnt. Help me before the weekend.", 30418),
    ],
    "zh": [
        ("订单 5102 的平底锅手柄掉了，请今天回复！", 5102),
        ("订单 77 还没收到，不着急。", 77),
        ("订单 30418 的烤面包机有焦味，请在周末前帮我处理。", 30418),
    ],
}
_COVERED: Final = {
    "en": "How much does the company pay per kilometre with my own car?",
    "zh": "自驾出差每公里补贴多少钱？",
}
_FAR: Final = {"en": "Who wrote the opera Fidelio?", "zh": "歌剧《费德里奥》是谁写的？"}


def first_answer(desk: Desk) -> list[Finding]:
    """Looks for a model in the store and asks the server something."""
    _, listed = desk.cli("models", "list")
    stored = [one["name"] for one in listed["models"]] if isinstance(listed, dict) else []
    names = desk.models()
    question = "中国的首都是哪里？" if desk.language == "zh" else "What is the capital of France?"
    answer = desk.chat(question).strip()
    said = {"answer": answer[:80], "question": question}
    found = [
        Finding("model_stored", bool(stored), {"names": ", ".join(stored)}),
        Finding("server_runs", bool(names), {"url": desk.url, "names": ", ".join(names)}),
        Finding("server_answers", bool(answer), said),
    ]
    if desk.language == "zh":
        found.append(Finding("knows_chinese", bool(_HANZI.search(answer)), said))
    return found


def own_program(desk: Desk) -> list[Finding]:
    """Runs `chat.py`, and counts its requests at the server."""
    there = (desk.folder / "chat.py").is_file()
    before = desk.requests()
    code, text = desk.run("chat.py") if there and before is not None else (1, "")
    after = desk.requests()
    made = (after or 0) - (before or 0)
    lines = [line for line in text.splitlines() if line.strip()]
    return [
        Finding("file_there", there, {"file": "chat.py", "folder": desk.folder}),
        Finding("server_counts", before is not None, {"url": desk.url}),
        Finding("program_ends", code == 0, {"file": "chat.py", "last": lines[-1][:200] if lines else "-"}),
        Finding("two_requests", made >= 2, {"made": made}),
        Finding("two_answers", code == 0 and len(lines) >= 2, {"lines": len(lines)}),
    ]


def structured_output(desk: Desk) -> list[Finding]:
    """Reads `schema.json`, and asks the server about three messages under it."""
    schema = desk.read_json("schema.json")
    wrong = _unsound(schema)
    found = [Finding("schema_sound", wrong == "", {"reason": wrong})]
    if wrong:
        return found
    right = parsed = 0
    for text, order in _TICKETS[desk.language]:
        prompt = "提取字段，输出 JSON：" if desk.language == "zh" else "Extract the fields as JSON:"
        form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": schema}}
        answer = desk.chat(f"{prompt}\n{text}", response_format=form, max_tokens=160)
        try:
            fields: Any = json.loads(answer)
        except ValueError:
            continue
        if isinstance(fields, dict) and set(schema["required"]) <= cast("dict[str, Any]", fields).keys():
            parsed += 1
            right += cast("dict[str, Any]", fields).get("order") == order
    return [
        *found,
        Finding("answers_parse", parsed == 3, {"parsed": parsed, "url": desk.url}),
        Finding("orders_right", right >= 2, {"right": right}),
    ]


def _unsound(schema: Any) -> str:
    """Returns what is wrong with the schema of step 3; empty if it is sound."""
    if not isinstance(schema, dict):
        return "schema.json"
    fields = cast("dict[str, Any]", schema)
    properties = fields.get("properties")
    if not isinstance(properties, dict):
        return "properties"
    known = cast("dict[str, Any]", properties)
    if not {"product", "order", "urgent"} <= known.keys():
        return "product, order, urgent"
    if fields.get("additionalProperties") is not False:
        return "additionalProperties: false"
    if set(cast("list[str]", fields.get("required") or [])) != set(known):
        return "required"
    for name, about in known.items():
        is_text = isinstance(about, dict) and cast("dict[str, Any]", about).get("type") == "string"
        if is_text and not {"maxLength", "enum", "pattern"} & set(cast("dict[str, Any]", about)):
            return f"{name}: maxLength"
    return ""


def answers_from_documents(desk: Desk) -> list[Finding]:
    """Counts the documents of `handbook`, asks a covered question and one from far away."""
    _, shown = desk.cli("knowledge", "list")
    rows = cast("list[dict[str, Any]]", _rows(shown))
    base = next((one for one in rows if one.get("name") == "handbook"), None)
    counts = base.get("files", {}) if base else {}
    files = counts.get("completed", 0) if isinstance(counts, dict) else 0
    found = [
        Finding("base_there", base is not None),
        Finding("three_documents", files >= 3, {"files": files}),
    ]
    if base is None:
        return found
    model = ["--model", "qwen2.5-coder-0.5b"]
    _, covered = desk.cli("ask", "--knowledge", "handbook", _COVERED[desk.language], *model)
    _, far = desk.cli("ask", "--knowledge", "handbook", _FAR[desk.language], *model)
    cited = isinstance(covered, dict) and bool(covered.get("citations")) and "0.3" in str(covered)
    declined = isinstance(far, dict) and not far.get("citations")
    return [
        *found,
        Finding("covered_cited", cited, {"question": _COVERED[desk.language]}),
        Finding("far_declined", declined, {"question": _FAR[desk.language]}),
    ]


def _rows(listed: Any) -> list[Any]:
    if isinstance(listed, list):
        return cast("list[Any]", listed)
    if isinstance(listed, dict):
        fields = cast("dict[str, Any]", listed)
        return next((value for value in fields.values() if isinstance(value, list)), [])
    return []
