"""`Search`: evolution of candidates of a donor against loss and speed, resumable, and the models of its front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidRequest
from deepwell.models.formats.config import ModelConfig
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.cut import write_cut
from deepwell.tuning.compress.search.evolution import Measure, evenly, evolved, shallow
from deepwell.tuning.compress.search.front import Point, draw_front, front_of
from deepwell.tuning.compress.search.journal import Journal, is_number
from deepwell.tuning.compress.search.options import SearchOptions
from deepwell.tuning.compress.search.padding import padded
from deepwell.tuning.compress.search.proxy import LossProxy, LossTable
from deepwell.tuning.compress.search.space import Candidate, Population, Space
from deepwell.tuning.compress.search.speed import (
    DecodeTimer,
    SpeedTable,
    Timing,
    bytes_per_token,
    table_shapes,
)
from deepwell.tuning.compress.shapes import check_prunable
from deepwell.tuning.compress.target import check_target
from deepwell.tuning.compress.training.candidates import Trials, built
from deepwell.tuning.compress.training.layers import predictions
from deepwell.tuning.compress.training.outcome import calibration_fields, recovered_fields, tokens_sha256
from deepwell.tuning.compress.training.recover import Recovery
from deepwell.tuning.compress.training.run import Donor, Say, windows_of
from deepwell.tuning.train.artefact import base_hashes, library_versions
from deepwell.tuning.train.bases import Base, open_base

__all__ = ["STEPS", "Search"]

STEPS: Final = ("activations", "table", "speed", "evolution", "finals", "recovery")
_LEAST_WINDOWS: Final = 16
_MOST_HELD: Final = 8  # windows of the search, and of the final evaluation
_PLAIN: Final = ("deepwell", "transformers", "llama.cpp")


class Search:
    """A search in a folder, which goes on where it stopped.

    Text is split into three parts: the search's own, by which candidates are compared; the final one, which no step of the
    search sees; and the rest, which gives the activations and teaches a model that is taken.

    Args:
        out: folder with the journal, `front.json` and `front.png`.
        say: takes the step that is under way and its share that is done.

    Attributes:
        joules_unknown: why points have no joules; None: they have, or nothing is measured yet.

    Raises:
        InvalidRequest: the text is too short, an option is none, or the folder is of another search or the donor's own.
        ModelNotFound, UnsupportedModel, InvalidModelFile: the donor cannot be searched.
    """

    def __init__(
        self,
        model: str | Path,
        out: Path,
        texts: Sequence[str],
        options: SearchOptions,
        say: Say = lambda step, share: None,
    ) -> None:
        self.base: Base = open_base(str(model))
        check_prunable(self.base.config)
        if out.exists() and self.base.path.is_dir() and out.samefile(self.base.path):
            raise InvalidRequest.of("compress_out_taken", param="out", folder=out)
        self.space = Space(self.base.config, uniform=options.uniform)
        self.options, self.out, self._say = options, out, say
        windows = windows_of(self.base.codec, texts, least=_LEAST_WINDOWS)
        held = min(_MOST_HELD, len(windows) // 8)
        self.rest, self.searched, self.final = (
            windows[: -2 * held],
            windows[-2 * held : -held],
            windows[-held:],
        )
        self._about = {
            "model": base_hashes(self.base.checkpoint, self.base.codec),
            "text": tokens_sha256(windows),
            "options": options.to_json(),
        }
        self._journal = Journal(out / "journal.jsonl", self._about)
        self.joules_unknown: str | None = None

    def close(self) -> None:
        """Closes the journal."""
        self._journal.close()

    @cached_property
    def donor(self) -> Donor:
        """The donor in memory. A search whose figures are all there needs it for models that are taken alone."""
        return Donor(self.base, self.rest, self._say)

    @cached_property
    def trials(self) -> Trials:
        """Trials of candidates on the text of the search."""
        return Trials(self.donor, self.space, self.searched)

    def points(self) -> list[Point]:
        """Searches, and returns the donor and the points of the front by rising speed; writes table and picture."""
        proxy = LossProxy(self.space, self._table())
        with DecodeTimer(self.base.config, self.options.precision, self.options.threads) as timer:
            speeds = self._speeds(timer)
            tried = self._evolved(proxy, speeds)
            finalists = self._finalists(tried, speeds)
            points = self._measured(finalists, tried, speeds, timer)
            self.joules_unknown = timer.unknown
        self.out.mkdir(parents=True, exist_ok=True)
        report = {
            "donor": self.base.name,
            "search": self._about,
            "candidates_run": len(tried),
            "proxy_error": round(proxy.error(tried), 4),
            "joules_unknown": self.joules_unknown,
            "front": [one.to_json() for one in points],
        }
        (self.out / "front.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw_front(self.out / "front.png", points, self.base.name)
        return points

    def _table(self) -> LossTable:
        """Measures every single change."""
        space, donor = self.space, self.space.donor
        changes: dict[str, Candidate] = {}
        for layer in range(space.layers):
            changes[f"layer {layer}"] = _changed(donor, layer, attention=False, channels=0)
            # Half of the levels, most of them where the loss bends; those between are interpolated.
            for level in {0, 1, *range(0, len(space.levels) - 1, 2)}:
                changes[f"width {layer} {level}"] = _changed(donor, layer, channels=space.levels[level])
            if not space.uniform:
                changes[f"attention {layer}"] = _changed(donor, layer, attention=False)
        for level, count in enumerate(space.kv_heads[:-1]):
            changes[f"heads {level}"] = Candidate(count, donor.attention, donor.channels)
        # Half of the search's text is enough: what a change does shows against the donor on the same tokens.
        half = max(1, len(self.searched) // 2)
        few = self._loss("table donor", donor, half)
        rises: dict[str, float] = {}
        for number, (name, one) in enumerate(changes.items()):
            rises[name] = self._loss(f"table {name}", one, half) - few
            self._say("table", (number + 1) / len(changes))
        return LossTable.of(space, self._loss("donor", donor), rises)

    def _loss(self, name: str, candidate: Candidate, windows: int | None = None) -> float:
        return self._journal.measured(name, lambda: self.trials.loss(candidate, windows), is_number)

    def _speeds(self, timer: DecodeTimer) -> SpeedTable:
        shapes = table_shapes(self.space)

        def measured(name: str) -> Mapping[str, float]:
            found = self._journal.measured(
                f"speed {name}", lambda: timer.timed(shapes[name]).to_json(), Timing.is_json
            )
            self._say("speed", (list(shapes).index(name) + 1) / len(shapes))
            return found

        return SpeedTable.of(self.space, measured)

    def _budgets(self, speeds: SpeedTable) -> list[tuple[Measure, float]]:
        """Returns figures and their bounds: the shares of the donor's weights, then those of its time."""

        def seconds(population: Population) -> NDArray[np.float64]:
            return speeds.seconds(self.space, population)

        whole = float(seconds(self.space.population([self.space.donor]))[0])
        figures: list[tuple[Measure, float]] = [
            (self.space.sizes, float(self.space.size)),
            (seconds, whole),
        ]
        return [(figure, (1 - share) * full) for figure, full in figures for share in self.options.shares]

    def _evolved(self, proxy: LossProxy, speeds: SpeedTable) -> dict[Candidate, float]:
        """Runs even and shallow cuts of each budget, then in each round the most promising candidate of every budget.

        The proxy learns from each, so that it knows in which way rises of narrower MLPs and of lost layers fail to add up.
        """
        tried: dict[Candidate, float] = {}
        budgets = self._budgets(speeds)
        steps = (self.options.rounds + 1) * len(budgets)

        def run(candidate: Candidate | None, step: int) -> None:
            if candidate is not None:
                tried[candidate] = self._loss(f"loss {candidate.key}", candidate)
                proxy.learn(tried)
            self._say("evolution", (step + 1) / steps)

        for step, (cost, budget) in enumerate(budgets):
            # Each budget of weights has a share of time of its own, so both kinds of cut are tried at every share.
            kind = evenly if cost == self.space.sizes else shallow
            run(kind(self.space, proxy.table.added, cost, budget), step)
        for step in range(len(budgets), steps):
            number, place = divmod(step, len(budgets))
            cost, budget = budgets[place]

            def promising(cost: Measure = cost, budget: float = budget, seed: Any = (number, place)) -> Any:
                found = evolved(
                    self.space,
                    proxy.predict,
                    cost,
                    budget,
                    list(tried),
                    (self.options.seed, *seed),
                    known=tried,
                )
                return None if found is None else found.to_json()

            values = self._journal.measured(
                f"candidate {number} {place}", promising, lambda one: one is None or self.space.holds(one)
            )
            run(None if values is None else Candidate.from_json(values), step)
        return tried

    def _finalists(self, tried: Mapping[Candidate, float], speeds: SpeedTable) -> list[Candidate]:
        """Returns the best candidate of every budget."""
        found: dict[Candidate, None] = {}
        for cost, budget in self._budgets(speeds):
            costs = dict(zip(tried, cost(self.space.population(list(tried))), strict=True))
            within = [one for one in tried if costs[one] <= budget]
            if within:
                found[min(within, key=tried.__getitem__)] = None
        return list(found)

    def _measured(
        self,
        finalists: Sequence[Candidate],
        tried: Mapping[Candidate, float],
        speeds: SpeedTable,
        timer: DecodeTimer,
    ) -> list[Point]:
        """Evaluates finalists on text of their own and on the engine, and returns the front of them with the donor."""
        donor = self.space.donor
        timings: dict[Candidate, Mapping[str, Any]] = {}
        losses: dict[Candidate, float] = {}
        for number, one in enumerate((donor, *finalists)):
            timings[one] = self._journal.measured(
                f"timing {one.key}", lambda one=one: timer.timed(one.shape()).to_json(), Timing.is_json
            )
            if one == donor:  # beside itself it differs by noise alone
                timings[one] = {**timings[one], "share": 1.0}
            losses[one] = self._journal.measured(
                f"final {one.key}", lambda one=one: self._final_loss(one), is_number
            )
            self._say("finals", (number + 1) / (len(finalists) + 1))
        sizes = dict(zip(timings, self.space.sizes(self.space.population(list(timings))), strict=True))
        front = front_of({one: (float(sizes[one]), timings[one]["share"], losses[one]) for one in finalists})
        ordered = [donor, *sorted(front, key=lambda one: -timings[one]["share"])]
        predicted = speeds.seconds(self.space, self.space.population(ordered))
        typical = float(np.median([one["donor_seconds"] for one in timings.values()]))
        return [
            Point(
                number=number,
                candidate=one,
                parameters=int(sizes[one]),
                share=round(1 - int(sizes[one]) / self.space.size, 4),
                proxy_loss=round(tried.get(one, self._loss("donor", donor)), 4),
                final_loss=round(losses[one], 4),
                loss_rise=round(losses[one] / losses[donor] - 1, 4),
                predicted_tokens_s=round(1 / float(predicted[number]), 1),
                tokens_s=round(1 / (typical * timings[one]["share"]), 1),
                speedup=round(1 / timings[one]["share"], 3),
                cpu_seconds_per_token=round(timings[one]["cpu_seconds"], 9),
                bytes_per_token=bytes_per_token(
                    one.shape().applied(self.base.config), self.options.precision
                ),
                joules_per_token=timings[one]["joules"],
                loads_in=_PLAIN if one.is_plain else _PLAIN[:1],
            )
            for number, one in enumerate(ordered)
        ]

    def _final_loss(self, candidate: Candidate) -> float:
        return predictions(self.model(candidate), self.final).loss

    def model(self, candidate: Candidate) -> Any:
        """Returns the model of a candidate in float32, not recovered."""
        if candidate == self.space.donor:
            return self.donor.model
        return built(self.donor, self.trials.cut(candidate), self.donor.tensor)

    def take(
        self, point: Point, target: Path, recovery: Recovery | None, *, as_padded: bool = False
    ) -> Mapping[str, Any]:
        """Writes a point of the front as a folder, recovered or not, and returns its card; see `taken`."""
        return self.taken(point, target, recovery, as_padded=as_padded)[0]

    def taken(
        self, point: Point, target: Path, recovery: Recovery | None, *, as_padded: bool = False
    ) -> tuple[Mapping[str, Any], Any]:
        """Writes a point of the front as a folder, and returns its card and the model in memory.

        Args:
            recovery: how it learns from the donor; None: not at all.
            as_padded: fill parts that went with zeros, so that programs which want layers of one shape load it.

        Raises:
            InvalidRequest: the point is the donor, or the folder cannot be written.
        """
        if not point.number:
            raise InvalidRequest("point 0 is the donor", fix="take another point of the front", param="take")
        check_target(target, 4 * self.space.size if as_padded else 4 * point.parameters)
        model, donor = self.model(point.candidate), self.donor
        outcome = recovered_fields(model, donor.model, self.final, donor.learning, recovery, self._say)
        card = self._card(point, as_padded) | outcome
        config, weights = self._stored(point, model)
        if as_padded:
            config, weights = padded(config, weights)
        write_cut(target, config, weights, Tokenizer.load(self.base.path), card)
        return card, model

    def _stored(self, point: Point, model: Any) -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
        """Returns the configuration of a point, and the weights of its model by their names in a folder."""
        config = point.candidate.shape().applied(self.base.config)
        state = model.state_dict()
        names = [name for name in state if not name.endswith("o_proj.bias")]
        if config.tie_word_embeddings:
            names.remove("lm_head.weight")
        return config, {name: state[name].detach().float().numpy() for name in names}

    def _card(self, point: Point, as_padded: bool) -> dict[str, Any]:
        shape, base = point.candidate.shape(), self.base
        return {
            "method": "searched",
            "base": base.name,
            "license": base.licence,
            **base_hashes(base.checkpoint, base.codec),
            "point": point.to_json(),
            "search": self._about,
            "share": point.share,
            "shape": {"layers": shape.layers, "channels": shape.channels, "kv_heads": shape.kv_heads},
            "blocks": [[one.attention, one.intermediate_size] for one in shape.blocks],
            "padded": as_padded,
            "loads_in": list(_PLAIN if as_padded else point.loads_in),
            "layers": point.candidate.layers,
            "base_parameters": self.space.size,
            "parameters": point.parameters,
            "cut": point.share,
            **calibration_fields(self.rest),
            "versions": library_versions(),
        }


def _changed(
    donor: Candidate, layer: int, *, attention: bool = True, channels: int | None = None
) -> Candidate:
    """Returns the donor with one layer changed."""
    widths, kept = list(donor.channels), list(donor.attention)
    widths[layer] = widths[layer] if channels is None else channels
    kept[layer] = attention
    return Candidate(donor.kv_heads, tuple(kept), tuple(widths))
