"""Speed of candidates on Deepwell's own engine: measured on random weights of a shape, and predicted by parts from a few.

A token of a decode step at batch 1 takes the time of its layers' parts and of the rest, so five shapes give a table by which
any candidate's time is predicted. What ends on the front is measured, in rounds interleaved with the donor's shape.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.layouts import Precision
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.engine.weights.load import weights_nbytes
from deepwell.engine.weights.synth import synthesize
from deepwell.models.formats.config import Block, ModelConfig
from deepwell.models.store.export import config_json
from deepwell.process.energy import EnergyMeter, measured_cost
from deepwell.tuning.compress.search.journal import is_number
from deepwell.tuning.compress.search.space import Population, Space
from deepwell.tuning.compress.shapes import Shape, shape_of

__all__ = ["DecodeTimer", "SpeedTable", "Timing", "bytes_per_token", "table_shapes"]

_PROMPT: Final = 16
_TOKENS: Final = 48
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """Measured costs of a token at batch 1, medians over the rounds.

    Attributes:
        seconds: of a token.
        donor_seconds: of a token of the donor's shape in the same rounds.
        share: median of the ratios of both in each round; drift of a busy machine cancels in it.
        cpu_seconds: processor time, of all threads.
        joules: energy of all packages; None: it cannot be read.
    """

    seconds: float
    donor_seconds: float
    share: float
    cpu_seconds: float
    joules: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as plain JSON values."""
        return asdict(self)

    @staticmethod
    def is_json(values: Any) -> bool:
        """Returns whether values are what `to_json` returns."""
        if not isinstance(values, dict):
            return False
        given = cast("dict[str, Any]", values)
        rest = {"cpu_seconds", "joules"}
        return given.keys() == {"seconds", "donor_seconds", "share", *rest} and all(
            (is_number(value) and (name in rest or value > 0)) or (name == "joules" and value is None)
            for name, value in given.items()
        )


class DecodeTimer(AbstractContextManager["DecodeTimer"]):
    """Times shapes of a donor, each beside the donor's own. All weights are random, packed in one precision.

    Args:
        precision: "int8", "int4" or "int4-full", as `synthesize` writes.
        threads: of the engine; None: all processors that the process may use.
    """

    def __init__(self, config: ModelConfig, precision: Precision, threads: int | None) -> None:
        self._config, self._threads = config, threads
        self._precision: Precision = precision
        self._stack, self._meter = ExitStack(), EnergyMeter()
        self._ids = itertools.count()
        self._donor: Any = None

    @property
    def unknown(self) -> str | None:
        """Reason why energy cannot be read, or None."""
        return self._meter.reason

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def timed(self, shape: Shape) -> Timing:
        """Measures a shape."""
        if self._donor is None:
            self._donor = self._opened(self._config, self._stack)
        with ExitStack() as stack:
            engine = self._opened(shape.applied(self._config), stack)
            for one in (self._donor, engine):
                self._run(one)
            rounds: list[tuple[float, ...]] = []
            joules: list[float] = []
            for number in range(_ROUNDS):
                sides = [self._donor, engine] if number % 2 else [engine, self._donor]
                found = {id(side): self._run(side) for side in sides}
                seconds, cpu, energy = found[id(engine)]
                rounds.append((seconds, found[id(self._donor)][0], cpu))
                if energy is not None:
                    joules.append(energy)
        ours, donors, cpus = zip(*rounds, strict=True)
        return Timing(
            statistics.median(ours),
            statistics.median(donors),
            statistics.median(a / b for a, b in zip(ours, donors, strict=True)),
            statistics.median(cpus),
            statistics.median(joules) if len(joules) == _ROUNDS else None,
        )

    def _opened(self, config: ModelConfig, stack: ExitStack) -> Any:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepwell-search-")))
        synthesize(folder, config_json(config, "float32"), self._precision)
        options = EngineOptions(
            precision=self._precision,
            kv_tokens=2 * (_PROMPT + _TOKENS),
            context=_PROMPT + _TOKENS,
            threads=self._threads,
            speculation="off",
        )
        engine = open_engine(folder, options, quiet=True)
        stack.callback(engine.close)
        return engine

    def _run(self, engine: Any) -> tuple[float, float, float | None]:
        """Returns seconds, processor seconds and joules of a token behind the first."""
        name = f"search-{next(self._ids)}"
        params = SamplingParams(max_tokens=_TOKENS, temperature=0.0, ignore_eos=True)
        prompt = [one % self._config.vocab_size for one in range(1, _PROMPT + 1)]
        stream: Iterator[Any] = iter(
            engine.generate_sync(GenerateRequest(name, prompt, params, cache_salt=name))
        )
        for delta in stream:
            if delta.tokens:
                break
        with measured_cost(self._meter) as cost:
            count = sum(len(delta.tokens) for delta in stream)
        joules = None if cost.joules is None else cost.joules / count
        return cost.seconds / count, cost.cpu_seconds / count, joules


def bytes_per_token(config: ModelConfig, precision: Precision) -> int:
    """Returns the bytes of weights and cache that a step at batch 1 reads, at half of the timed length."""
    # Of an untied embedding a step reads one row, not the matrix.
    weights = weights_nbytes(replace(config, tie_word_embeddings=True), precision)
    return weights + kv_token_bytes(config, "bf16") * (_PROMPT + _TOKENS // 2)


def table_shapes(space: Space) -> dict[str, Shape]:
    """Returns the shapes whose times give the table, by name."""
    whole = shape_of(space.config)
    half = max(1, whole.layers // 2)
    found = {
        "depth": replace(whole, layers=half),
        "width": replace(whole, channels=space.levels[len(space.levels) // 2]),
    }
    if not space.uniform:
        blocks = tuple(Block(number < half, whole.channels) for number in range(whole.layers))
        found["attention"] = replace(whole, blocks=blocks)
    if len(space.kv_heads) > 1:
        found["heads"] = replace(whole, kv_heads=space.kv_heads[0])
    return found


@dataclass(frozen=True)
class SpeedTable:
    """Seconds of the parts of a decode step at batch 1.

    Attributes:
        fixed: of all but the layers.
        attention: of one attention, by level of the key heads.
        mlp: of one MLP, whatever its width.
        channel: of a channel of an MLP.
    """

    fixed: float
    attention: NDArray[np.float64]
    mlp: float
    channel: float

    @classmethod
    def of(cls, space: Space, measured: Callable[[str], Mapping[str, float]]) -> SpeedTable:
        """Solves for the parts from the shapes of `table_shapes`.

        Args:
            measured: returns the `Timing` of a shape by its name, as JSON values.
        """
        shapes = table_shapes(space)
        timings = {name: measured(name) for name in shapes}
        donor = statistics.median(one["donor_seconds"] for one in timings.values())
        saved = {name: max(0.0, 1 - one["share"]) * donor for name, one in timings.items()}
        layers, widest = space.layers, space.levels[-1]
        channel = saved["width"] / (layers * max(1, widest - shapes["width"].channels))
        layer = saved["depth"] / max(1, layers - shapes["depth"].layers)
        if "attention" in saved:
            attention = min(layer, saved["attention"] / max(1, layers - shapes["depth"].layers))
        else:
            # Where every layer has both parts, their split between attention and MLP makes no difference.
            attention = max(0.0, layer - channel * widest)
        by_heads = np.full(len(space.kv_heads), attention)
        if "heads" in saved:
            less = np.array(space.kv_heads[-1]) - np.array(space.kv_heads)
            by_heads = np.maximum(0.0, attention - saved["heads"] / layers * less / less[0])
        mlp = max(0.0, layer - attention - channel * widest)
        return cls(max(0.0, donor - layers * layer), by_heads, mlp, channel)

    def seconds(self, space: Space, population: Population) -> NDArray[np.float64]:
        """Returns the predicted seconds of a token: [candidates]."""
        attention = population.attention.sum(1) * self.attention[population.heads]
        mlp = (population.width > 0).sum(1) * self.mlp + space.widths(population).sum(1) * self.channel
        return self.fixed + attention + mlp
