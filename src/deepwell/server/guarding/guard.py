"""`ServerGuard`: the guard of one HTTP process, through which every generated text passes.

`Answering` hands out no text but through it. A request is read first (`read`, `read_texts`), which gives the `Checked` that
`turns` and `updates` ask for; without one they fail, so that a route that forgets the guard answers nothing at all.

A blocked request is answered like any other, by a refusal in the language of the request with the finish reason
"content_filter".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from deepwell.dialogue.completion import Choice, Counts, Update
from deepwell.dialogue.dialogue import Dialogue, Plan, Turn
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.parsers.events import Content
from deepwell.messages import Language
from deepwell.safety.audit.trail import AuditTrail
from deepwell.safety.findings import Decision, Finding, Layer
from deepwell.safety.guard import Guard
from deepwell.safety.labels import AigcLabel, response_metadata
from deepwell.safety.policy import Policy
from deepwell.server.guarding.answers import AnswerReader, refusal_of
from deepwell.server.guarding.checked import Checked, NotChecked
from deepwell.server.guarding.decisions import Decisions
from deepwell.server.guarding.requests import WITHHELD, RequestReader, language_of, redacted_by
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.record import current
from deepwell.server.options import GuardOptions

if TYPE_CHECKING:
    from deepwell.knowledge.documents import Passage

__all__ = ["ServerGuard"]


class ServerGuard:
    """The guard of one HTTP process. It belongs to one event loop.

    Raises:
        InvalidRequest: there is no such policy, or it is not valid.
    """

    def __init__(self, options: GuardOptions, metrics: Metrics, guard: Guard | None = None) -> None:
        self.decisions = Decisions(options, metrics, guard)
        self._requests = RequestReader(self.decisions)
        self._answers = AnswerReader(self.decisions, options.timeout_s)

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.decisions.policy

    @property
    def audit(self) -> AuditTrail | None:
        """The audit trail that decisions are reported to."""
        return self.decisions.audit

    @audit.setter
    def audit(self, trail: AuditTrail | None) -> None:
        self.decisions.audit = trail

    async def close(self) -> None:
        """Closes the connections to services."""
        await self.decisions.close()

    @property
    def missing(self) -> list[str]:
        """Names of what the policy asks for and the guard lacks, such as a list of terms."""
        return sorted({name for names in self.decisions.guard.missing.values() for name in names})

    def sealed(self, plan: Plan, checked: Checked) -> Plan:
        """Returns a plan that the guard has seen; that of a refusal if it is blocked."""
        if not checked.blocked:
            checked.marked = self.policy.label and plan.grammar is None
            return replace(plan, checked=checked)

        async def refusals(choices: Sequence[Choice]) -> AsyncGenerator[Turn, None]:
            for choice in choices:
                counts = Counts(prompt=len(choice.request.prompt))
                yield refusal_of(self.policy, choice.index, checked, checked.refused_by, counts)

        return replace(plan, question=None, answers=refusals, checked=replace(checked, inner=True))

    def embedded_label(self, produce_id: str) -> dict[str, str]:
        """Returns the embedded label of a generated text as metadata; nothing unless the policy labels and names a producer."""
        policy = self.policy
        if not policy.label or not policy.producer:
            return {}
        return response_metadata(AigcLabel.first(policy.producer, produce_id))

    def file_label(self, produce_id: str) -> str:
        """Returns the label for the metadata of a generated file; empty unless the policy labels and names a producer."""
        policy = self.policy
        if not policy.label or not policy.producer:
            return ""
        return AigcLabel.first(policy.producer, produce_id).text()

    async def refused_image(self, layer: Layer, score: float, prompt: str, tenant: str) -> None:
        """Notes that the safety model of images refused one, in the metrics and the audit trail, as a text that is blocked.

        Args:
            layer: "input" for an image that was sent, "output" for one that was drawn.
            score: probability of being unsafe.
            prompt: text that the image was drawn from; empty: there is none.
        """
        finding = Finding("image.nsfw", "pornography", 0, 0, score, "image")
        decision = Decision("block", layer, ((finding, "block"),), self.decisions.guard.hash)
        await self.decisions.note(decision, prompt, tenant)

    async def read(
        self, dialogue: Dialogue, tenant: str, before: Checked | None = None
    ) -> tuple[Dialogue, Checked]:
        """Reads the messages of users and tools. What is blocked in a tool's result is withheld from the model.

        Args:
            before: the note of a part of the request that was read already: if that is blocked, the request is.

        Raises:
            InvalidRequest: there is more to read than the policy allows.
        """
        dialogue, checked = await self._requests.dialogue(dialogue, tenant)
        if before is not None:
            checked.refused_by = checked.refused_by or before.refused_by
        self._label(checked)
        return dialogue, checked

    async def read_texts(self, texts: Sequence[str], tenant: str) -> tuple[list[str], Checked]:
        """Reads prompts. Returns them as the model may see them. Raises as `read`."""
        treated, checked = await self._requests.texts(texts, tenant)
        self._label(checked)
        return treated, checked

    async def read_prompts(
        self, model: ServedModel, prompts: Sequence[Sequence[int]], tenant: str
    ) -> tuple[list[list[int]], Checked]:
        """Reads prompts that are tokens already. Those with something redacted are tokenised anew. Raises as `read`."""
        texts = [model.codec.decode(model.codec.unframed(list(prompt))) for prompt in prompts]
        treated, checked = await self.read_texts(texts, tenant)
        read: list[list[int]] = []
        for prompt, before, after in zip(prompts, texts, treated, strict=True):
            read.append(list(prompt) if before == after else (await model.encode_prompts(after, "prompt"))[0])
        return read, checked

    async def passages(self, passages: Sequence[Passage], checked: Checked) -> list[Passage]:
        """Returns the passages that the model may see for a request; what is to be redacted in them is."""
        allowed: list[Passage] = []
        tenant = checked.tenant
        for passage in passages:
            # Headings and the name stand in the prompt as well, and are as foreign as the text.
            told = [passage.text, passage.filename, *passage.place.headings]
            read: list[str] = []
            for text in told:
                decision = await self.decisions.decide(text, "context", tenant)
                if decision.action == "block":
                    break
                redacts = decision.action == "redact"
                read.append(redacted_by(decision, text, language_of(text)) if redacts else text)
            if len(read) < len(told):
                continue
            checked.said += read
            if read != told:
                text, filename, *headings = read
                place = replace(passage.place, headings=tuple(headings))
                passage = replace(passage, text=text, filename=filename, place=place)
            allowed.append(passage)
        return allowed

    async def foreign(self, text: str, tenant: str, language: Language) -> str:
        """Returns a stranger's text, such as the result of a tool on another server, as model and caller may see it."""
        decision = await self.decisions.decide(text, "context", tenant)
        if decision.action == "block":
            return WITHHELD[language]
        return redacted_by(decision, text, language) if decision.action == "redact" else text

    async def written(self, text: str, checked: Checked) -> str:
        """Returns a short text that the model wrote beside its answer, such as a query, as the caller may see it."""
        decision = await self.decisions.read(text, "output", checked.tenant)
        await self.decisions.note(decision, text, checked.tenant)
        if decision.action == "block":
            return WITHHELD[checked.language]
        return redacted_by(decision, text, checked.language) if decision.action == "redact" else text

    async def turns(
        self, checked: Checked | None, turns: AsyncGenerator[Turn, None]
    ) -> AsyncGenerator[Turn, None]:
        """Yields the turns of an answer as the caller may see them, each text with at most 64 characters held back.

        Raises:
            NotChecked: the guard was not asked about the request.
        """
        if checked is None:
            raise NotChecked("the request did not pass the guard")
        async with aclosing(turns if checked.inner else self._answers.turns(checked, turns)) as read:
            async for turn in read:
                yield turn

    async def updates(
        self, checked: Checked | None, choices: Sequence[Choice], updates: AsyncGenerator[Update, None]
    ) -> AsyncGenerator[Update, None]:
        """Yields the updates of plain completions as the caller may see them. Raises as `turns`."""
        if checked is None:
            raise NotChecked("the request did not pass the guard")
        scored: dict[int, Update] = {}  # the log probabilities of prompts, which come first

        async def turns() -> AsyncGenerator[Turn, None]:
            async with aclosing(updates):
                async for one in updates:
                    if one.prompt_logprobs is not None:
                        scored[one.index] = one
                    events = (Content(one.text),) if one.text else ()
                    yield Turn(one.index, events, one.entries, one.finish_reason, one.counts, one.stop)

        if checked.blocked:
            await updates.aclose()
            for choice in choices:
                counts = Counts(prompt=len(choice.request.prompt))
                yield _update(
                    refusal_of(self.policy, choice.index, checked, checked.refused_by, counts), None
                )
            return
        async with aclosing(self.turns(checked, turns())) as read:
            async for turn in read:
                yield _update(turn, scored.pop(turn.index, None))

    def _label(self, checked: Checked) -> None:
        """Puts the embedded label into the headers of the answer, unless that is a refusal, which nobody generated."""
        if (record := current()) is not None:
            label = next(iter(self.embedded_label(record.request_id).values()), "")
            record.label = "" if checked.blocked else label


def _update(turn: Turn, scored: Update | None) -> Update:
    reason = turn.finish_reason
    assert reason != "tool_calls"  # a continuation calls nothing
    text = "".join(one.text for one in turn.events if isinstance(one, Content))
    logprobs = None if scored is None else scored.prompt_logprobs
    return Update(turn.index, text, turn.entries, logprobs, reason, turn.counts, turn.stop)
