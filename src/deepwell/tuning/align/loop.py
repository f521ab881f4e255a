"""The loops of DPO and KTO: the steps, validations and checkpoints of supervised fine-tuning with other losses.

The log-probabilities of the reference do not change in a run, so each answer's is computed once, before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from deepwell.tuning.align.config import DpoConfig, KtoConfig
from deepwell.tuning.align.dataset import JudgedExample, PairExample
from deepwell.tuning.align.losses import (
    answer_sums,
    class_weights,
    dpo_loss,
    kto_loss,
    kto_shift,
    replay_loss,
)
from deepwell.tuning.train.batches import collate
from deepwell.tuning.train.dataset import micro_batches, step_order
from deepwell.tuning.train.examples import Example
from deepwell.tuning.train.forward.loss import logprobs, reference_logprobs
from deepwell.tuning.train.loop import Loop

__all__ = ["DpoLoop", "KtoLoop", "PreferenceLoop"]

Rows = Sequence[Sequence[Example]]


class PreferenceLoop(Loop):
    """A loop whose losses are functions of log-ratios. Sums are counted by examples: pairs, or judged answers."""

    ACCURACY: ClassVar[str] = "accuracy"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reference: dict[
            int, float
        ] = {}  # by the id of an example, all of which live as long as the run

    def run(
        self,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        *,
        save: Callable[[], None],
        keep_best: Callable[[], None],
        stop: Callable[[], bool],
    ) -> bool:
        """Runs as `Loop.run`, behind the pass of the reference."""
        used = {
            index for step in islice(step_order(examples, self.settings), self.course.steps) for index in step
        }
        # In the order of the data, whatever step the run continues at: the same rows give the same bits.
        wanted = [*(examples[index] for index in sorted(used)), *held_out]
        if not self._remember([part for one in wanted for part in self.answers(one)], stop):
            save()
            return False
        return super().run(examples, held_out, save=save, keep_best=keep_best, stop=stop)

    def answers(self, example: Example) -> tuple[Example, ...]:
        """Returns the conversations of an example whose reference is needed."""
        raise NotImplementedError

    def count(self, examples: Sequence[Example]) -> int:
        """Returns the number of examples."""
        return len(examples)

    def log_ratios(self, rows: Rows) -> Tensor:
        """Returns the log-ratio of every conversation of a batch, in the order of its rows."""
        return self.ratios_and_logprobs(rows)[0]

    def ratios_and_logprobs(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Returns `log_ratios`, and the log-probability of every labelled token."""
        batch = collate(rows).to(self.strategy.device)
        with self.precision.context(self.strategy.device):
            values = logprobs(self.model, batch, checkpointing=self.settings.checkpointing)
        known = [self._reference[id(one)] for row in rows for one in row]
        return answer_sums(batch, values) - torch.tensor(known, device=values.device), values

    def backward(self, pieces: Sequence[Rows], count: int) -> Tensor:
        """Adds the gradients of all pieces, and returns the sums."""
        return self._sums(pieces, lambda loss: self.descend(loss / count))

    def evaluate(self, pieces: Sequence[Rows]) -> Tensor:
        """Returns the sums of all pieces."""
        return self._sums(pieces, lambda loss: None)

    def remember_tokens(self, examples: Sequence[Example], values: Tensor) -> None:
        """Receives the reference's log-probability of every labelled token of some examples."""

    def _sums(self, pieces: Sequence[Rows], descend: Callable[[Tensor], None]) -> Tensor:
        raise NotImplementedError

    def _remember(self, answers: Sequence[Example], stop: Callable[[], bool]) -> bool:
        """Computes the reference of answers; returns whether it came to the end."""
        self.model.eval()
        pieces = micro_batches(answers, range(len(answers)), self.course.micro_tokens)
        for number, rows in enumerate(pieces):
            if stop():
                return False
            batch = collate(rows).to(self.strategy.device)
            with self.precision.context(self.strategy.device):
                values = reference_logprobs(self.model, batch)
            flat = [one for row in rows for one in row]
            sums = answer_sums(batch, values).tolist()
            self._reference |= {id(one): value for one, value in zip(flat, sums, strict=True)}
            self.remember_tokens(flat, values)
            self.journal.event("reference", done=number + 1, total=len(pieces))
        return True


class DpoLoop(PreferenceLoop):
    """DPO: right is a pair whose preferred answer has the higher reward."""

    EXTRA: ClassVar[tuple[str, ...]] = ("margin",)

    def answers(self, example: Example) -> tuple[Example, ...]:
        """Returns both answers of a pair."""
        assert isinstance(example, PairExample)
        return example.preferred, example.rejected

    def _sums(self, pieces: Sequence[Rows], descend: Callable[[Tensor], None]) -> Tensor:
        settings = cast("DpoConfig", self.config).dpo
        sums = torch.zeros(3, dtype=torch.float64)
        for rows in pieces:
            ratios = self.log_ratios([[part for pair in row for part in self.answers(pair)] for row in rows])
            preferred, rejected = ratios[0::2], ratios[1::2]
            loss = dpo_loss(preferred, rejected, settings.beta, settings.label_smoothing).sum()
            descend(loss)
            margins = (preferred - rejected).detach()
            found = (loss.detach(), (margins > 0).sum(), settings.beta * margins.sum())
            sums += torch.tensor([float(one) for one in found], dtype=torch.float64)
        return sums


class KtoLoop(PreferenceLoop):
    """KTO: right is a good answer above the reference point, or a bad one below it.

    Replayed conversations come between the answers, and hold the model where it was: see `replay_loss`. Sums are counted by
    answers.
    """

    EXTRA: ClassVar[tuple[str, ...]] = ("shift", "replay")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._weights = 1.0, 1.0
        self._unit = (
            1.0  # mean weight of the answers: they weigh against each other, not against what is replayed
        )
        self._tokens: dict[int, Tensor] = {}  # of replayed conversations, by the id of the example

    def run(self, examples: Sequence[Example], held_out: Sequence[Example], **options: Any) -> bool:
        """Runs as `PreferenceLoop.run`, with weights by how many good and bad answers there are to train on."""
        settings = cast("KtoConfig", self.config).kto
        judged = _judged(examples)
        good = sum(one.weight for one in judged if one.desirable)
        whole = sum(one.weight for one in judged)
        self._unit = whole / max(len(judged), 1)
        desirable, undesirable = class_weights(good / self._unit, (whole - good) / self._unit)
        if settings.desirable_weight != "auto":
            desirable = settings.desirable_weight
        if settings.undesirable_weight != "auto":
            undesirable = settings.undesirable_weight
        self._weights = desirable, undesirable
        return super().run(examples, held_out, **options)

    def answers(self, example: Example) -> tuple[Example, ...]:
        """Returns the answer and the one to another prompt; of a replayed conversation, itself."""
        return (example, example.mismatched) if isinstance(example, JudgedExample) else (example,)

    def count(self, examples: Sequence[Example]) -> int:
        """Returns the number of answers, at least 1."""
        return max(len(_judged(examples)), 1)

    def remember_tokens(self, examples: Sequence[Example], values: Tensor) -> None:
        """Keeps those of replayed conversations. Mismatched answers are kept as well, for want of a mark: they are short."""
        parts = values.split([one.labelled for one in examples])
        pairs = zip(examples, parts, strict=True)
        self._tokens |= {id(one): part for one, part in pairs if not isinstance(one, JudgedExample)}

    def _sums(self, pieces: Sequence[Rows], descend: Callable[[Tensor], None]) -> Tensor:
        settings = cast("KtoConfig", self.config).kto
        everything = [one for rows in pieces for row in rows for one in row]
        judged = _judged(everything)
        shift = self._shift(judged)
        # The mean of the replayed conversations beside the mean of the answers, however many of each a step has.
        share = self.count(everything) / max(len(everything) - len(judged), 1)
        sums = torch.zeros(4, dtype=torch.float64)
        for rows in pieces:
            flat = [one for row in rows for one in row]
            places = [place for place, one in enumerate(flat) if isinstance(one, JudgedExample)]
            ratios, values = self.ratios_and_logprobs(rows)
            ratios = ratios[places]
            labels = [one.desirable for one in _judged(flat)]
            desirable = torch.tensor(labels, dtype=torch.bool, device=ratios.device)
            own = torch.tensor([one.weight / self._unit for one in _judged(flat)], device=ratios.device)
            loss = (own * kto_loss(ratios, desirable, shift, settings.beta, self._weights)).sum()
            replay = share * self._replay(flat, values)
            imitation = (own * desirable * self._surprise(flat, values)).sum()
            descend(loss + settings.nll_weight * imitation + settings.replay_weight * replay)
            right = ((ratios.detach() > shift) == desirable).sum()
            found = (loss.detach(), right, shift * len(places), replay.detach())
            sums += torch.tensor([float(one) for one in found], dtype=torch.float64)
        return sums

    def _replay(self, examples: Sequence[Example], values: Tensor) -> Tensor:
        """Returns the sum of the losses of the replayed conversations, each a mean over its tokens."""
        total = values.new_zeros(())
        for one, part in zip(examples, values.split([one.labelled for one in examples]), strict=True):
            if not isinstance(one, JudgedExample):
                total = total + replay_loss(part - self._tokens[id(one)]).mean()
        return total

    def _surprise(self, examples: Sequence[Example], values: Tensor) -> Tensor:
        """Returns the mean negative log-likelihood of a token of every judged answer, [answers]."""
        parts = zip(examples, values.split([one.labelled for one in examples]), strict=True)
        means = [-part.mean() for one, part in parts if isinstance(one, JudgedExample)]
        return torch.stack(means) if means else values.new_zeros(0)

    @torch.no_grad()
    def _shift(self, judged: Sequence[JudgedExample]) -> Tensor:
        """Returns the reference point of all answers of a step: it is one number, whatever pieces they come in."""
        if not judged:
            return torch.zeros((), device=self.strategy.device)
        others = [one.mismatched for one in judged]
        training = self.model.training
        self.model.eval()
        parts = [
            self.log_ratios(rows)
            for rows in micro_batches(others, range(len(others)), self.course.micro_tokens)
        ]
        self.model.train(training)
        return kto_shift(torch.cat(parts))


def _judged(examples: Sequence[Example]) -> list[JudgedExample]:
    return [one for one in examples if isinstance(one, JudgedExample)]
