"""`RemoteRuns`: the runs of a server, through its API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deepwell.cli.agent.asked import AskedRun, Tell
from deepwell.cli.answers import ServerFailed
from deepwell.cli.servers import connect_seconds
from deepwell.errors import DeepwellError
from deepwell.messages import language

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

__all__ = ["RemoteRuns"]

_RUNS = "/v1/agents/runs"
_WAITING = ("queued", "in_progress")


class RemoteRuns:
    """Asks a server.

    Raises:
        ServerFailed: it refuses, or stops answering.
    """

    def __init__(self, url: str, model: str, key: SecretStr | None) -> None:
        import httpx

        self.where = url
        self.model = model
        self._seen: dict[str, int] = {}  # number of the last step that was told of, by run
        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        headers["accept-language"] = language()  # of errors
        timeout = httpx.Timeout(600, connect=connect_seconds(url))
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)

    def start(self, asked: AskedRun, tell: Tell) -> dict[str, Any]:
        """Begins a run, and returns it once it ends or waits."""
        budget = {
            "turns": asked.turns,
            "calls": asked.calls,
            "tokens": asked.tokens,
            "seconds": asked.seconds,
        }
        body: dict[str, Any] = {"model": self.model, "input": asked.task, "budget": budget}
        body |= {"checks": asked.checks, "temperature": asked.temperature}
        given = {"instructions": asked.instructions, "tools": asked.tools, "seed": asked.seed}
        body |= {name: value for name, value in given.items() if value is not None}
        run = self._ask("POST", _RUNS, json=body)
        tell(run)
        return self.follow(run["id"], tell)

    def follow(self, id: str, tell: Tell) -> dict[str, Any]:
        """Tells of the steps to come, and returns the run once it ends or waits."""
        while True:
            run = self._stream(id, tell)
            if run["status"] not in _WAITING:
                return run

    def decide(self, id: str, call_ids: Sequence[str] | None, reason: str, *, is_approved: bool) -> None:
        """Approves or denies calls of a run."""
        if id not in self._seen:
            self._seen[id] = len(self.steps(id)) - 1
        verb = "approve" if is_approved else "deny"
        body = {"reason": reason} | ({} if call_ids is None else {"call_ids": list(call_ids)})
        self._ask("POST", f"{_path(id)}/{verb}", json=body)

    def get(self, id: str) -> dict[str, Any]:
        """Returns a run."""
        return self._ask("GET", _path(id))

    def steps(self, id: str) -> list[dict[str, Any]]:
        """Returns the steps of a run."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._ask("GET", f"{_path(id)}/steps", params={"after": len(found) - 1, "limit": 1000})
            found += page["data"]
            if not page["has_more"]:
                return found

    def list(self, status: str | None, limit: int) -> list[dict[str, Any]]:
        """Returns the newest runs."""
        given: dict[str, Any] = {"limit": limit} | ({"status": status} if status else {})
        return self._ask("GET", _RUNS, params=given)["data"]

    def cancel(self, id: str) -> dict[str, Any]:
        """Cancels a run."""
        return self._ask("POST", f"{_path(id)}/cancel")

    def tools(self) -> list[dict[str, Any]]:
        """Returns the tools that the server offers."""
        return self._ask("GET", "/v1/agents/tools")["data"]

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def _stream(self, id: str, tell: Tell) -> dict[str, Any]:
        import httpx

        run: dict[str, Any] = {}
        given = {"stream": True, "after": self._seen.get(id, -1)}
        try:
            with self._http.stream("GET", f"{_path(id)}/steps", params=given) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error_of(response)
                for line in response.iter_lines():
                    data = line.removeprefix("data: ")
                    if not data or data == "[DONE]":
                        continue
                    event: dict[str, Any] = json.loads(data)
                    if event.get("object") == "agent.step":
                        self._seen[id] = event["number"]
                        tell(event)
                    elif event.get("object") == "agent.run":
                        run = event
        except httpx.HTTPError as error:
            raise ServerFailed.of("server_stopped", url=self.where, reason=error) from None
        return run or self.get(id)

    def _ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        import httpx

        try:
            response = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise ServerFailed.of("server_stopped", url=self.where, reason=error) from None
        if response.status_code != 200:
            raise _error_of(response)
        return response.json()


def _path(id: str) -> str:
    return f"{_RUNS}/{quote(id, safe='')}"


def _error_of(response: httpx.Response) -> DeepwellError:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered with status {response.status_code}"
    return ServerFailed(message)
