"""The classifier of the router: a log-linear model over sets of intents. Its weights ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile
from deepwell.media.router.features import BUCKETS, Features, wording_count
from deepwell.models.formats.safetensors import read_safetensors_header

__all__ = ["HEADS", "INTENTS", "SETS", "SHIPPED", "Intent", "RouterFile", "RouterWeights", "heads_of_sets"]

Intent = Literal["chat", "image", "speech", "transcription"]
INTENTS: Final[tuple[Intent, ...]] = get_args(Intent)

SETS: Final[tuple[tuple[Intent, ...], ...]] = (
    ("chat",),
    ("image",),
    ("speech",),
    ("transcription",),
    ("chat", "image"),
    ("chat", "speech"),
    ("chat", "transcription"),
    ("image", "speech"),
    ("image", "transcription"),
    ("speech", "transcription"),
    ("chat", "image", "speech"),
)
"""Things that a request can ask for."""

HEADS: Final = len(INTENTS) + 1
"""A score for each intent, and one for several at once."""

SHIPPED: Final = Path(__file__).with_name("router.safetensors")

_MOST_BYTES: Final = 1 << 24

Float = NDArray[np.float32]


def heads_of_sets() -> Float:
    """Returns which heads count for each set, [sets, heads]."""
    rows = [[intent in one for intent in INTENTS] + [len(one) > 1] for one in SETS]
    return np.array(rows, np.float32)


@dataclass(frozen=True, slots=True)
class RouterWeights:
    """Weights of the classifier.

    Attributes:
        centre: mean of e5-small's vectors of requests, [D]; empty where the classifier reads none.
        vector: weights of the vector, [heads, D].
        wordings: weights of the wordings, alone and by what is attached, [heads, 4 x wordings].
        runs: weights of the buckets of runs, [heads, BUCKETS].
        letters: weights of the buckets of letters, [heads, BUCKETS].
        clauses: weights of the buckets of a clause, [heads, BUCKETS].
        clause_bias: [heads].
        bias: [sets].
    """

    centre: Float
    vector: Float
    wordings: Float
    runs: Float
    letters: Float
    clauses: Float
    clause_bias: Float
    bias: Float

    def probabilities(self, features: Features, vector: Float | None) -> Float:
        """Returns how likely a request asks for each set of intents, [sets].

        Args:
            vector: that of e5-small, [D]; None where the weights read none.
        """
        heads = self.wordings[:, features.wordings].sum(1)
        heads = heads + _told(self.runs, features.runs) + _told(self.letters, features.letters)
        clauses = [_told(self.clauses, clause) + self.clause_bias for clause in features.clauses]
        heads = heads + np.logaddexp.reduce([np.zeros(HEADS, np.float32), *clauses])
        if vector is not None:
            heads = heads + self.vector @ (vector - self.centre)
        scores = heads_of_sets() @ heads + self.bias
        powers = np.exp(scores - scores.max())
        return (powers / powers.sum()).astype(np.float32)


def _told(weights: Float, buckets: NDArray[np.int32]) -> Float:
    return weights[:, buckets].sum(1) * np.float32(max(1, len(buckets)) ** -0.5)


@dataclass(frozen=True, slots=True)
class RouterFile:
    """Both classifiers of a file: the one that reads e5-small's vector, and the one for machines without it."""

    full: RouterWeights
    alone: RouterWeights

    def write(self, path: Path) -> None:
        """Writes the weights, in 16 bits but for the centre and the biases."""
        from safetensors.numpy import save_file

        tensors: dict[str, NDArray[np.float16] | Float] = {"centre": self.full.centre}
        for part, weights in (("full", self.full), ("alone", self.alone)):
            tensors[f"{part}.wordings"] = weights.wordings.astype(np.float16)
            for name in ("runs", "letters", "clauses"):
                tensors[f"{part}.{name}"] = getattr(weights, name).astype(np.float16)
            tensors[f"{part}.bias"] = weights.bias
            tensors[f"{part}.clause_bias"] = weights.clause_bias
        tensors["full.vector"] = self.full.vector.astype(np.float16)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)

    @staticmethod
    def read(path: Path = SHIPPED) -> RouterFile:
        """Returns the weights of a file.

        Raises:
            InvalidModelFile: it is broken, or was trained for other wordings.
        """
        centre = _tensor(path, "centre", 1)
        nothing = np.zeros(0, np.float32)
        alone = _part(path, "alone", nothing, np.zeros((HEADS, 0), np.float32))
        full = _part(path, "full", centre, _tensor(path, "full.vector", 2))
        if full.vector.shape != (HEADS, len(centre)):
            raise _error(path, "full.vector does not fit")
        return RouterFile(full, alone)


def _part(path: Path, part: str, centre: Float, vector: Float) -> RouterWeights:
    wanted: dict[str, tuple[int, ...]] = {"wordings": (HEADS, 4 * wording_count())}
    wanted |= dict.fromkeys(("runs", "letters", "clauses"), (HEADS, BUCKETS))
    wanted |= {"clause_bias": (HEADS,), "bias": (len(SETS),)}
    tensors: dict[str, Float] = {}
    for name, shape in wanted.items():
        tensors[name] = _tensor(path, f"{part}.{name}", len(shape))
        if tensors[name].shape != shape:
            raise _error(path, f"{part}.{name} does not fit")
    return RouterWeights(centre, vector, **tensors)


def _tensor(path: Path, name: str, dimensions: int) -> Float:
    info = read_safetensors_header(path).get(name)
    if info is None or info.dtype not in ("F16", "F32") or info.nbytes > _MOST_BYTES:
        raise _error(path, f"it has no tensor {name} in 16 or 32 bits")
    kind = np.float16 if info.dtype == "F16" else np.float32
    values = np.fromfile(path, kind, int(np.prod(info.shape)), offset=info.offset)
    tensor = values.reshape(info.shape).astype(np.float32)
    if tensor.ndim != dimensions or not np.isfinite(tensor).all():
        raise _error(path, f"{name} is no finite tensor of {dimensions} dimensions")
    return tensor


def _error(path: Path, reason: str) -> InvalidModelFile:
    return InvalidModelFile.of("router_weights", path=path, reason=reason)
