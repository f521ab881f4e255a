"""`deepwell bench image-generation`: pictures of held-out prompts, judged by networks that did not draw them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import DeepwellError
from deepwell.llm import LLM
from deepwell.media.images.flow import FlowModel
from deepwell.media.images.sample import SampleOptions, sample
from deepwell.media.images.training.pictures import PictureSet
from deepwell.media.images.training.shipped import HELD_OUT_SHA256, shipped_pictures
from deepwell.media.images.training.sources import fashion_arrays
from deepwell.media.space.features import ImageEncoder, prepared_image
from deepwell.media.space.heads import ImageHead, unit
from deepwell.media.space.weights import SpaceWeights
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.proportions import wilson
from deepwell_bench.workloads.media.clothes import ClothesClassifier
from deepwell_bench.workloads.media.prompts import clothes_prompts

__all__ = ["Judge", "bench_image_generation"]

Images = NDArray[np.uint8]

_TRAINED: Final = 20_000
_TESTED: Final = 3_000
_TIMED: Final = 10
_ROW: Final = 10
_BATCH: Final = 16
_STYLES: Final = {"emoji": "emoji", "clipart": "clip art"}
"""Styles of the held-out pictures, as a prompt names them."""

_COPY: Final = 0.985
"""Cosine of thumbnails above which two pictures are near-duplicates; see `families`."""


@dataclass(frozen=True, slots=True)
class _Drawer:
    """The network and the encoder of its prompts."""

    flow: FlowModel
    encoder: LLM

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(self.encoder.embed([self.flow.config.prefix + text for text in texts]), np.float32)

    def draw(self, texts: Sequence[str], seed: int) -> Images:
        """Returns a picture of each text, [N, 64, 64, 3]."""
        vectors, made = self.vectors(texts), []
        for begin in range(0, len(texts), _ROW):
            options = SampleOptions(seed=seed + begin)
            *_, drawn = sample(self.flow, vectors[begin : begin + _ROW], options)
            made.append(np.rint((drawn + 1) * 127.5).astype(np.uint8))
        return np.concatenate(made)


@dataclass(frozen=True, slots=True)
class Judge:
    """The space of text and image, which judges whether a drawing shows its caption.

    Attributes:
        weights: its heads.
        encoder: file of EfficientNet-Lite0.
        threads: compute threads.
    """

    weights: SpaceWeights
    encoder: Path
    threads: int

    def images(self, images: Images) -> NDArray[np.float32]:
        """Returns the vectors of images, [N, 384]."""
        encoder, head = ImageEncoder(self.encoder, self.threads), ImageHead(self.weights.part("image"))
        batches = [
            encoder.encode(np.stack([prepared_image(one) for one in images[begin : begin + _BATCH]]))
            for begin in range(0, len(images), _BATCH)
        ]
        return head(np.concatenate(batches))

    def texts(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the space's vectors of texts from those of e5-small, [N, 384]."""
        return unit(unit(vectors) - self.weights.tensors["centre"])


def bench_image_generation(
    report: Report, model: Path, encoder: Path, judge: Judge, *, picture: Path | None = None
) -> dict[str, Any]:
    """Returns shares of clothes and of captions that are recognised, seconds an image, and copies of training pictures.

    Args:
        model: folder of the network that draws.
        encoder: model that encodes the prompts.
        judge: the space in which a drawing's own caption is looked for.
        picture: PNG that gets the drawings, each with the nearest picture of the training above it.
    """
    cache = bench_cache()
    pictures = shipped_pictures(cache.parent / "media")
    if pictures.fingerprint("held-out") != HELD_OUT_SHA256:
        raise DeepwellError(
            "the held-out pictures are not those that were frozen",
            fix="delete the folder media/pictures beside the model store, and run it again",
        )
    with LLM(encoder) as llm:
        drawer = _Drawer(FlowModel.read(model), llm)
        figures = _clothes(report, drawer, cache.parent / "media" / "packages")
        figures |= _captions(report, drawer, pictures, judge, picture)
        figures |= _seconds(drawer)
    trained = model / "training.json"
    if trained.is_file():
        figures["training_minutes"] = rounded(json.loads(trained.read_text())["seconds"] / 60, 3)
    figures["parameters"] = drawer.flow.parameters
    figures["weights_mb"] = rounded((model / "model.safetensors").stat().st_size / 1e6, 3)
    return figures


def _clothes(report: Report, drawer: _Drawer, packages: Path) -> dict[str, Any]:
    images, labels = fashion_arrays(packages, "train")
    classifier = ClothesClassifier(images[:_TRAINED], labels[:_TRAINED])
    images, labels = fashion_arrays(packages, "t10k")
    real = float((classifier.predict(images[:_TESTED]) == labels[:_TESTED]).mean())
    prompts = clothes_prompts()
    wanted = np.array([label for _, label in prompts])
    drawn = drawer.draw([text for text, _ in prompts], seed=100)
    found = classifier.predict(_as_clothes(drawn))
    hits = int((found == wanted).sum())
    low, high = wilson(hits, len(prompts))
    report.table(
        "Clothes by class",
        ("class", "recognised", "taken for"),
        [
            (
                prompts[n * _ROW][0],
                f"{int((found[wanted == n] == n).sum())} of {int((wanted == n).sum())}",
                ", ".join(str(one) for one in sorted(set(found[wanted == n]) - {n})),
            )
            for n in range(10)
        ],
    )
    return {
        "clothes_recognised": rounded(hits / len(prompts)),
        "clothes_interval": [rounded(low), rounded(high)],
        "clothes_prompts": len(prompts),
        "classifier_on_real": rounded(real),
    }


def _as_clothes(drawn: Images) -> Images:
    """Returns drawings as Fashion-MNIST has its pictures: 28 x 28, light on dark."""
    from PIL import Image

    small = [Image.fromarray(one).convert("L").resize((28, 28), Image.Resampling.BOX) for one in drawn]
    return 255 - np.stack([np.asarray(one, np.uint8) for one in small])


def _captions(
    report: Report, drawer: _Drawer, pictures: PictureSet, judge: Judge, out: Path | None
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for source, count in (("emoji", 200), ("clipart", 200)):
        indices = pictures.where("held-out", sources=[source])[:count]
        titles = [pictures.rows[index].title for index in indices]
        vectors = judge.texts(drawer.vectors(titles))
        drawn = drawer.draw([f"{_STYLES[source]}: {title}" for title in titles], seed=500)
        real = np.stack([pictures.images[index] for index in indices])
        name = {"emoji": "caption", "clipart": "clipart_caption"}[source]
        hits = _within_ten(judge.images(drawn), vectors)
        low, high = wilson(hits, len(titles))
        figures |= {
            f"{name}_recall_at_10": rounded(hits / len(titles)),
            f"{name}_interval": [rounded(low), rounded(high)],
            f"{name}_recall_of_real": rounded(_within_ten(judge.images(real), vectors) / len(titles)),
        }
        if source == "emoji":
            nearest, likeness = _nearest(drawn, pictures)
            figures |= {
                "copies": int((likeness > _COPY).sum()),
                "nearest_likeness": rounded(float(np.median(likeness))),
            }
            if out is not None:
                _grid(drawn, pictures, nearest, out)
            shown = [(titles[n], pictures.rows[nearest[n]].title, rounded(likeness[n], 3)) for n in range(12)]
            report.table("Nearest pictures of the training", ("prompt", "nearest", "likeness"), shown)
    return figures


def _within_ten(images: NDArray[np.float32], texts: NDArray[np.float32]) -> int:
    """Returns for how many images the own text is among the ten nearest of all texts."""
    scores = images @ texts.T
    own = np.diag(scores)[:, None]
    return int(((scores > own).sum(1) < 10).sum())


def _nearest(drawn: Images, pictures: PictureSet) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns the nearest training picture of each drawing, and the cosine of their thumbnails."""
    indices = np.array(pictures.where("train"))
    known = _thumbs(np.asarray(pictures.images)[indices])
    cosines = _thumbs(drawn) @ known.T
    best = cosines.argmax(1)
    return indices[best], cosines[np.arange(len(drawn)), best]


def _thumbs(images: Images) -> NDArray[np.float32]:
    step = images.shape[1] // 16
    made = images.reshape(len(images), 16, step, 16, step, 3).mean((2, 4), dtype=np.float32)
    flat = made.reshape(len(images), -1)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _grid(drawn: Images, pictures: PictureSet, nearest: Sequence[int] | NDArray[np.int64], out: Path) -> None:
    from PIL import Image

    rows: list[Images] = []
    for begin in range(0, 60, 12):
        near = [pictures.images[index][::2, ::2] for index in nearest[begin : begin + 12]]
        rows += [np.concatenate(near, 1), np.concatenate(list(drawn[begin : begin + 12]), 1)]
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, 0)).save(out)


def _seconds(drawer: _Drawer) -> Mapping[str, float]:
    """Returns the seconds of one picture from its prompt to the pixels."""
    taken: list[float] = []
    for n in range(_TIMED + 1):
        begin = time.perf_counter()
        drawer.draw([f"a red apple number {n}"], seed=n)
        taken.append(time.perf_counter() - begin)
    return {"seconds_an_image": rounded(statistics.median(taken[1:]), 3)}
