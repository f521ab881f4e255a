"""`Platform`: the parts of `deepwell up` while they run. One log, one state that others read, one way to end."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepwell.cli.output import console, write_json
from deepwell.cli.up.plan import title_of
from deepwell.errors import DeepwellError, EngineUnavailable
from deepwell.messages import Note, language
from deepwell.models.store.languages import CHINESE_MODEL, knows_chinese
from deepwell.process.programs import KeptProgram, Program, Programs

if TYPE_CHECKING:
    from deepwell.cli.up.plan import PlatformPlan
    from deepwell.process.claim import Claim

__all__ = ["Platform"]

_MARGIN_S = 12.0  # from the end of the grace period to the kill
_WIDTH = 11  # of the names before the lines
_COLOURS = {"up": "bold", "api": "cyan", "tensorboard": "magenta", "jupyter": "yellow"}


class Platform:
    """Runs the parts until a signal comes.

    Args:
        claim: that of this process on the data folder; it tells others the state.
        token: of JupyterLab; empty: it does not run.
        as_json: print events, one JSON object a line.
    """

    def __init__(
        self,
        plan: PlatformPlan,
        programs: Sequence[Program],
        claim: Claim,
        *,
        token: str = "",
        as_json: bool = False,
    ) -> None:
        self._plan = plan
        self._claim = claim
        self._token = token
        self._as_json = as_json
        self._programs = Programs(programs, self._line, self._changed)
        self._out = console()
        self._began = time.time()
        self._model: dict[str, Any] = {}
        self._failure: DeepwellError | None = None
        self._signals = 0

    def run(self) -> None:
        """Runs until SIGINT, SIGTERM or SIGHUP. A second one ends answers in flight, a third kills.

        Raises:
            DeepwellError: the server could not start; all other parts have ended.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        self._say("up_loading")
        failed = await self._programs.run()
        if failed is not None:
            raise self._failure or EngineUnavailable.of("up_failed", how=failed.last_end)

    def _stop(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._say("up_stopping")
            patience_s = self._plan.settings.drain_seconds + _MARGIN_S
            asyncio.get_running_loop().call_later(patience_s, self._programs.kill)
        if self._signals > 2:
            self._programs.kill()
        else:
            self._programs.stop()

    def _line(self, name: str, text: str) -> None:
        """Prints a line of a part. The server's are JSON where it reports to us."""
        if name == "api" and text.startswith("{") and self._reported(text):
            return
        if self._as_json:
            write_json({"event": "line", "part": name, "text": text})
            return
        self._out.print(f"{name:{_WIDTH}}| ", style=_COLOURS.get(name), end="", soft_wrap=True)
        self._out.print(text, soft_wrap=True)

    def _reported(self, text: str) -> bool:
        """Takes a report of the server. Returns whether the line was one."""
        try:
            report = json.loads(text)
        except ValueError:
            return False
        if isinstance(error := report.get("error"), dict):
            self._failure = DeepwellError(str(error.get("message")), fix=str(error.get("fix") or ""))
            self._line("api", f"{self._failure.message}: {self._failure.fix}")
        elif report.get("event") == "ready":
            self._model = {key: value for key, value in report.items() if key not in ("event", "url", "pid")}
            self._tell()
            part = self._plan.api
            self._announce(part.name, part.title, part.url)
        else:
            return False
        return True

    def _changed(self, one: KeptProgram) -> None:
        self._tell()
        name = one.program.name
        title = title_of(name)
        if one.state == "ready" and name != "api":
            url = next(part.url for part in self._plan.parts if part.name == name)
            if name == "jupyter" and self._token:
                url, self._token = f"{url}/lab?token={self._token}", ""  # it is shown once
            self._announce(name, title, url)
        elif one.state == "restarting":
            self._say("up_restarts", title=title, how=one.last_end)
        elif one.state == "failed" and not one.program.required:
            self._say("up_gave_up", title=title, how=one.last_end)

    def _announce(self, name: str, title: str, url: str) -> None:
        if self._as_json:
            write_json({"event": "ready", "part": name, "url": url} | (self._model if name == "api" else {}))
            return
        self._say("up_part_ready", title=title, url=url)
        if name == "api" and (model := self._model.get("model")):
            self._say(
                "up_model_ready",
                name=model,
                precision=self._model.get("precision"),
                threads=self._model.get("threads"),
                context=self._model.get("context"),
                batch=self._plan.planned[0].memory.batch_size,
            )
            if language() == "zh" and not any(knows_chinese(one.name) for one in self._plan.planned):
                self._say("up_no_chinese", name=model, other=CHINESE_MODEL)

    def _say(self, key: str, **values: Any) -> None:
        self._line("up", Note(key, values).said("en" if self._as_json else None))

    def _tell(self) -> None:
        """Writes down the state, for `deepwell status`."""
        kept = {one.program.name: one for one in self._programs.kept}
        self._claim.tell(
            {
                "began": self._began,
                "model": self._model,
                "parts": [
                    {
                        "name": part.name,
                        "url": part.url,
                        "state": one.state,
                        "pid": one.pid,
                        "restarts": one.restarts,
                    }
                    for part in self._plan.parts
                    if (one := kept.get(part.name)) is not None
                ],
            }
        )
