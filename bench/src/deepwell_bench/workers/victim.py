"""The well-behaved client of `deepwell bench siege`: asks one question after another, and notes when the first token came.

It prints one JSON line a request: begin, first and end in monotonic seconds, and what went wrong. Every second request
takes a new connection, because a client that is locked out notices it only there.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any

__all__ = ["Victim"]

PATIENCE_S = 60.0
PAUSE_S = 0.02


class Victim:
    """A client with a key that asks the same question, whose answer must stay the same."""

    def __init__(self, port: int, key: str, model: str) -> None:
        self._port = port
        self._headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
        }
        self._body = json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": "Name three rivers."}],
                "temperature": 0,
                "max_tokens": 8,
                "stream": True,
            }
        )
        self._connection: http.client.HTTPConnection | None = None
        self._answer = ""

    def ask(self, *, fresh: bool) -> dict[str, Any]:
        """Asks once, and returns the line to print."""
        begin = time.monotonic()
        first, text, error = 0.0, "", ""
        try:
            if fresh or self._connection is None:
                self._leave()
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
            self._connection.request("POST", "/v1/chat/completions", self._body, self._headers)
            answer = self._connection.getresponse()
            if answer.status != 200:
                error = f"{answer.status}: {answer.read()[:200]!r}"
            else:
                for line in answer:
                    if line.startswith(b"data: {"):
                        event = json.loads(line[6:])
                        if "error" in event:
                            error = json.dumps(event["error"])
                            continue
                        piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
                        if piece:
                            first = first or time.monotonic()
                            text += piece
                error = error or self._judged(text)
        except (OSError, http.client.HTTPException, ValueError, LookupError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        if error:
            self._leave()
        return {"begin": begin, "first": first, "end": time.monotonic(), "error": error}

    def _judged(self, text: str) -> str:
        self._answer = self._answer or text
        if not text:
            return "an empty answer"
        return "" if text == self._answer else f"another answer: {text!r} after {self._answer!r}"

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def main(port: str, model: str) -> None:
    """Asks until stdin ends; the key is the first line of it."""
    import threading

    key = sys.stdin.readline().strip()
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    victim = Victim(int(port), key, model)
    turn = 0
    while not ended.wait(PAUSE_S):
        print(json.dumps(victim.ask(fresh=turn % 2 == 0)), flush=True)
        turn += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
