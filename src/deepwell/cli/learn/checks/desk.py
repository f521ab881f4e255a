"""`Desk`: the place of a learner, as the checks of all steps look at it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import httpx

from deepwell.messages import Language

__all__ = ["Desk", "Finding", "ServerAnswer"]

_PROGRAM_S: Final = 300.0
_REQUEST_S: Final = 180.0
_COUNTER: Final = re.compile(
    r'^deepwell_requests_total\{route="(/v1/[^"]+)",status="200"\} (\d+)', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check looked at.

    Attributes:
        key: name of its texts in `steps.toml`.
        values: values of the placeholders of the texts.
    """

    key: str
    ok: bool
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """An answer of the server. `status` is 0 if it did not come."""

    status: int
    body: Any
    text: str
    headers: Mapping[str, str]


class Desk:
    """Looks at what a learner made.

    Args:
        folder: where the learner works.
        url: address of the server.
        key: API key; empty: none.
        language: of the learner, which the questions of the checks are asked in.
    """

    def __init__(self, folder: Path, url: str, key: str, language: Language) -> None:
        self.folder = folder
        self.url = url.rstrip("/")
        self.language: Language = language
        self._key = key

    def ask_server(
        self, path: str, body: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> ServerAnswer:
        """Asks the server: POST with a body, else GET. `key` replaces the learner's own; empty: none."""
        used = self._key if key is None else key
        headers = {"authorization": f"Bearer {used}"} if used else {}
        try:
            if body is None:
                got = httpx.get(f"{self.url}{path}", headers=headers, timeout=_REQUEST_S, trust_env=False)
            else:
                got = httpx.post(
                    f"{self.url}{path}", json=body, headers=headers, timeout=_REQUEST_S, trust_env=False
                )
        except httpx.HTTPError:
            return ServerAnswer(0, None, "", {})
        try:
            parsed: Any = got.json()
        except ValueError:
            parsed = None
        return ServerAnswer(got.status_code, parsed, got.text, dict(got.headers))

    def models(self) -> list[str]:
        """Returns the names that the server answers to; none if it does not answer."""
        body = self.ask_server("/v1/models").body
        rows = cast("dict[str, Any]", body).get("data", []) if isinstance(body, dict) else []
        return [str(row["id"]) for row in cast("list[dict[str, Any]]", rows)]

    def chat(self, text: str, **options: Any) -> str:
        """Returns the server's answer to one message; empty if there is none."""
        names = self.models()
        if not names:
            return ""
        body = {"model": names[0], "messages": [{"role": "user", "content": text}], "temperature": 0}
        answer = self.ask_server("/v1/chat/completions", {**body, "max_tokens": 60, **options})
        if answer.status != 200:
            return ""
        return str(answer.body["choices"][0]["message"]["content"] or "")

    def answer(self, model: str, messages: Sequence[Mapping[str, Any]]) -> str:
        """Returns a model's short answer to messages, the likeliest one; empty if there is none."""
        body = {"model": model, "messages": list(messages), "temperature": 0, "max_tokens": 24}
        answer = self.ask_server("/v1/chat/completions", body)
        return str(answer.body["choices"][0]["message"]["content"] or "") if answer.status == 200 else ""

    def requests(self) -> int | None:
        """Returns how many requests to `/v1/chat/completions` the server has answered; None: it does not say."""
        answer = self.ask_server("/metrics")
        if answer.status != 200:
            return None
        counted = dict(_COUNTER.findall(answer.text))
        return int(counted.get("/v1/chat/completions", 0))

    def run(self, *words: str, seconds: float = _PROGRAM_S) -> tuple[int, str]:
        """Runs a program of the learner's with this interpreter; returns its exit code and what it printed."""
        return self._started([sys.executable, *words], seconds)

    def cli(self, *words: str) -> tuple[int, Any]:
        """Runs a verb with `--json`; returns its exit code, and the last line of JSON that it printed."""
        code, text = self._started([sys.executable, "-m", "deepwell", *words, "--json"], _PROGRAM_S)
        for line in reversed(text.splitlines()):
            try:
                return code, json.loads(line)
            except ValueError:
                continue
        return code, None

    def _started(self, command: list[str], seconds: float) -> tuple[int, str]:
        env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        if self._key:
            env["DEEPWELL_API_KEY"] = self._key
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, f"no end within {seconds:g} s"
        out = done.stdout.decode(errors="replace")
        return done.returncode, out if done.returncode == 0 else out + done.stderr.decode(errors="replace")

    def read_json(self, name: str) -> Any:
        """Returns the JSON in a file of the learner's; None: there is none that can be read."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None

    def read_lines(self, name: str) -> list[Any]:
        """Returns the JSON lines of a file; none if it cannot be read."""
        try:
            text = (self.folder / name).read_text(encoding="utf-8")
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (OSError, ValueError, RecursionError):
            return []

    def first_word(self, name: str) -> str:
        """Returns the first word of a file, where `deepwell keys create` puts the key; empty if there is none."""
        try:
            words = (self.folder / name).read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return ""
        return words[0] if words else ""
