"""`OptimisationRun`: one claim of a job that searches for a better prompt."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, ClassVar, Final

import msgspec

from deepwell.dialogue.prompts.content import PromptReport, decode_content, encode_content
from deepwell.dialogue.prompts.text import PromptText
from deepwell.safety.audit.trail import now_ms
from deepwell.server.families.fine_tuning.configured import training_threads
from deepwell.server.families.fine_tuning.works.following import WorkRun, base_model
from deepwell.storage.registry.prompts import StoredPrompt
from deepwell.storage.safety.chain import AuditRecord
from deepwell.tuning.prompts.rows import Fields
from deepwell.tuning.prompts.worker import SearchConfig

__all__ = ["OptimisationRun", "search_config"]

_MODULE: Final = "deepwell.tuning.prompts.worker"
_SHOWN: Final = 10  # candidates of a result


def search_config(asked: dict[str, Any], text: PromptText, data: str, held_out: str) -> SearchConfig:
    """Returns the configuration of a search without its model.

    Args:
        asked: the checked request.
        data, held_out: paths of the files of rows; the second is empty where they are a part of the first.
    """
    metric: Any = asked["metric"]
    named = isinstance(metric, str)
    return SearchConfig(
        model="",
        name=asked["model"],
        text=text,
        data=data,
        held_out=held_out,
        metric=metric if named else "grader",
        grader=None if named else metric,
        calls=asked["calls"],
        seed=asked["seed"],
        max_examples=asked["max_examples"],
        max_tokens=asked["max_tokens"],
        candidates=tuple(asked["candidates"]),
        fields=Fields(asked["input_field"], asked["answer_field"]),
    )


class OptimisationRun(WorkRun):
    """A search. Its winner becomes a version of the prompt that it began with."""

    what = "search for a prompt"
    copies: ClassVar = {"rows.jsonl": "data_file", "held-out.jsonl": "held_out_file"}

    def module(self) -> tuple[str, ...]:
        """Returns the program that searches."""
        return (sys.executable, "-P", "-m", _MODULE)

    async def config(self) -> SearchConfig:
        """Copies the rows, and returns the configuration of the search."""
        asked = self._payload.asked
        model = await base_model(self._context, self.tenant, asked["model"])
        content = decode_content((await self._start()).body)
        data = await self.copied(asked["data_file"], "rows.jsonl")
        held_out = ""
        if asked["held_out_file"] is not None:
            held_out = await self.copied(asked["held_out_file"], "held-out.jsonl")
        made = search_config(asked, content.text, data, held_out)
        runs = model.capabilities
        return msgspec.structs.replace(
            made,
            model=str(model.codec.path or model.name),
            context=runs.max_model_len,
            precision=runs.precision,
            threads=training_threads(),
        )

    def take(self, event: dict[str, Any]) -> None:
        """Takes the plan, and how many calls are done."""
        if event["event"] == "plan":
            rows = event["rows"]
            self._progress.tell(
                f"{rows['train']} training, {rows['development']} development, {rows['held_out']} held-out rows",
                kind="split",
            )
            self._progress.total = event["calls"]
        elif event["event"] == "progress":
            self._progress.step, self._progress.unit = event["step"], "calls"
            self._progress.done, self._progress.total = event["done"], event["total"]

    async def publish(self, told: dict[str, Any]) -> dict[str, Any]:
        """Adds the winner as a version of the prompt, and returns the report."""
        asked, report = self._payload.asked, told["report"]
        tried = {one["key"]: one for one in report.pop("candidates")}
        start, winner = tried[report.pop("start")], tried[report.pop("winner")]
        result: dict[str, Any] = {
            "prompt": asked["prompt"]["id"],
            **report,
            "start": start,
            "winner": winner | {"text": told["winner"]},
            "better": told["better"],
            "candidates": list(tried.values())[:_SHOWN],
            "version": None,
            "current": False,
        }
        if (held_out := report["held_out"]) is not None:
            made = await self._added(report, held_out, told)
            result |= {"version": str(made.number), "current": made.is_current}
        return result

    def clear(self) -> None:
        """Deletes nothing: a search has only the folder of its run."""

    async def _start(self) -> StoredPrompt:
        given = self._payload.asked["prompt"]
        return await self._context.state.prompts.get(self.tenant, given["id"], int(given["version"]))

    async def _added(
        self, report: dict[str, Any], held_out: dict[str, Any], told: dict[str, Any]
    ) -> StoredPrompt:
        asked = self._payload.asked
        content = decode_content((await self._start()).body)
        cost = report["search"]
        measured = PromptReport(
            model=asked["model"],
            metric=report["metric"],
            rows=held_out["paired"],
            start=round(held_out["first"], 4),
            score=round(held_out["second"], 4),
            low=round(held_out["low"], 4),
            high=round(held_out["high"], 4),
            calls=cost["calls"],
            tokens=cost["prompt_tokens"] + cost["answer_tokens"],
            seed=asked["seed"],
            data_sha256=report["data_sha256"],
        )
        text = msgspec.convert(told["winner"], PromptText)
        body = encode_content(replace(content, text=text, report=measured))
        use = bool(told["better"] and asked["current"])
        made = await self._context.state.prompts.add(self.tenant, asked["prompt"]["id"], body, current=use)
        fields = {
            "action": "add",
            "version": made.number,
            "sha256": made.sha256,
            "job": self._run.job.id,
            "key_id": self._payload.key_id,
        }
        record = AuditRecord("prompt", now_ms(), fields, named={"prompt": made.id})
        await self._context.audit.record(self.tenant, record, durable=True)
        return made
