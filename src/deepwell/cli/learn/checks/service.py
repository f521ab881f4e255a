"""Checks of steps 10 to 12: tools, keys and costs, a roll-out."""

from __future__ import annotations

import re
import time
from typing import Any, Final, cast

from deepwell.cli.learn.checks.desk import Desk, Finding

__all__ = ["keys_and_costs", "own_tools", "rolled_out"]

_MOST_REQUESTS: Final = 6
_EVENTS: Final = {"register": "version", "start": "canary", "revert": "reverted"}
_QUESTIONS: Final = {
    "en": (
        ("order_status", "Until when does the warranty of order 4711 run?"),
        ("price", "What does the kettle cost?"),
    ),
    "zh": (("order_status", "订单 4711 的保修到什么时候？"), ("price", "电热水壶多少钱？")),
}


def own_tools(desk: Desk) -> list[Finding]:
    """Asks `tools.py` two questions, counts its requests, and looks for a run of an agent that called a tool."""
    there = (desk.folder / "tools.py").is_file()
    found = [Finding("file_there", there, {"file": "tools.py", "folder": desk.folder})]
    if not there:
        return found
    for name, question in _QUESTIONS[desk.language]:
        before = desk.requests()
        code, text = desk.run("tools.py", question)
        made = (desk.requests() or 0) - (before or 0)
        called = re.findall(r"^call (\w+)", text, re.MULTILINE)
        said = {"question": question, "name": name, "called": ", ".join(called) or "-", "made": made}
        found.append(Finding("tool_called", code == 0 and name in called, said))
        found.append(Finding("tool_budget", 2 <= made <= _MOST_REQUESTS, said))
    body = desk.ask_server("/v1/agents/runs?status=completed&limit=100").body
    runs = cast("dict[str, Any]", body).get("data") or [] if isinstance(body, dict) else []
    acted = [
        run for run in cast("list[dict[str, Any]]", runs) if run["usage"]["calls"] and run["output_text"]
    ]
    return [*found, Finding("agent_acted", bool(acted), {"runs": len(acted), "url": desk.url})]


def keys_and_costs(desk: Desk) -> list[Finding]:
    """Asks with no key and with each of the three keys, and reads the usage."""
    team, monitor = (desk.first_word(f"{name}.txt") for name in ("team", "monitor"))
    bare = desk.ask_server("/v1/models", key="")
    of_team = desk.ask_server("/v1/models", key=team)
    limit = of_team.headers.get("x-ratelimit-limit-requests", "")
    is_limited = of_team.status == 200 and limit.isdecimal() and 0 < int(limit) <= 30
    seen = desk.ask_server("/metrics", key=monitor).status
    hidden = desk.ask_server("/v1/models", key=monitor).status
    since = int(time.time()) - 7 * 86_400
    path = f"/v1/organization/usage/completions?start_time={since}&bucket_width=1d&limit=8&group_by=model"
    used = desk.ask_server(path, key=team)
    rows = _usage(used.body) if used.status == 200 else []
    tokens = sum(int(row.get("input_tokens", 0)) + int(row.get("output_tokens", 0)) for row in rows)
    return [
        Finding("no_key_refused", bare.status == 401, {"status": bare.status}),
        Finding("team_limited", is_limited, {"status": of_team.status, "limit": limit or "-"}),
        Finding("monitor_only", seen == 200 and hidden == 403, {"seen": seen, "hidden": hidden}),
        Finding("usage_told", tokens > 0, {"status": used.status, "tokens": tokens}),
    ]


def _usage(body: Any) -> list[dict[str, Any]]:
    buckets = cast("dict[str, Any]", body).get("data", []) if isinstance(body, dict) else []
    return [row for bucket in cast("list[dict[str, Any]]", buckets) for row in bucket.get("results", [])]


def rolled_out(desk: Desk) -> list[Finding]:
    """Reads the ledger of `prod`, asks the server for it, and runs `app.py` for three people."""
    code, told = desk.cli("models", "log", "prod")
    entries = cast("list[dict[str, Any]]", told.get("entries") or []) if isinstance(told, dict) else []
    events = {str(entry.get("event")) for entry in entries}
    done = {word: event in events for word, event in _EVENTS.items()}
    sound = code == 0  # `models log` verifies the ledger that it tells
    served = "prod" in desk.models()
    there = (desk.folder / "app.py").is_file()
    code, text = desk.run("app.py", "3") if there else (1, "")
    return [
        Finding(
            "ledger_told",
            all(done.values()),
            {"missing": ", ".join(k for k, v in done.items() if not v) or "-"},
        ),
        Finding("ledger_sound", sound),
        Finding("alias_served", served, {"url": desk.url}),
        Finding("file_there", there, {"file": "app.py", "folder": desk.folder}),
        Finding(
            "program_ends",
            code == 0,
            {"file": "app.py", "last": (text.strip() or "-").splitlines()[-1][:200]},
        ),
    ]
