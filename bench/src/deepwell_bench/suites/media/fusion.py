"""`deepwell bench media-dynamic-weights`: gated fusion of image and sound against a fixed average, with noise and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.media.space.fusion import Fusion, Modality, Sensed
from deepwell.media.space.heads import ImageHead, unit
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.training.noise import blurred
from deepwell.media.space.weights import SpaceWeights
from deepwell_bench.workloads.media.noise import in_noise
from deepwell_bench.workloads.media.space import SpaceWorkload

__all__ = ["bench_media_dynamic_weights"]

Array = NDArray[np.float32]
_DECIBELS: Final = 0.0
_SIGMA: Final = 8.0
"""Blur of pictures, in pixels of 128."""

_PLACES: Final = 10


def bench_media_dynamic_weights(
    report: Report, workload: SpaceWorkload, weights: SpaceWeights
) -> dict[str, Any]:
    """Returns recalls at 10 of captions by a picture and by speech together, each clean, in noise or missing.

    The captions of all held-out pictures are the candidates. The fixed average weighs all that is there alike.
    """
    image, sound = ImageHead(weights.part("image")), SoundHead(weights.part("sound"))
    fusion = Fusion(weights.part("fusion"))
    spoken = workload.captions()
    places = [one.picture for one in spoken]
    sounds = [one.sound for one in spoken]
    noisy = [
        in_noise(one, sounds[:place] + sounds[place + 1 :], _DECIBELS, place)
        for place, one in enumerate(sounds)
    ]
    texts = list(dict.fromkeys([*(row.title for row in workload.rows), *(one.text for one in spoken)]))
    candidates = workload.vectors(texts)
    wanted = np.array([texts.index(one.text) for one in spoken])
    seen = {
        "clean": list(map(Sensed, *image.sensed(workload.image_features()[places]))),
        "blurred": list(
            map(Sensed, *image.sensed(workload.image_features(lambda one: blurred(one, _SIGMA))[places]))
        ),
    }
    heard = {
        "clean": [Sensed(*sound.sensed(one.frames)) for one in spoken],
        "noise": [Sensed(*sound.sensed(workload.frames(one))) for one in noisy],
    }
    conditions: dict[str, dict[Modality, Sequence[Sensed]]] = {
        "both clean": {"image": seen["clean"], "sound": heard["clean"]},
        "sound in noise": {"image": seen["clean"], "sound": heard["noise"]},
        "image blurred": {"image": seen["blurred"], "sound": heard["clean"]},
        "sound missing": {"image": seen["clean"]},
        "image missing": {"sound": heard["clean"]},
    }
    found = {name: _measured(fusion, given, candidates, wanted) for name, given in conditions.items()}
    report.note(
        f"{len(spoken)} pictures with spoken captions, {len(texts)} candidates; {_DECIBELS:g} dB, blur {_SIGMA:g} of 128 pixels"
    )
    report.table(
        "Recall at 10",
        ("condition", "image alone", "sound alone", "fixed average", "gated", "gate of the image"),
        [(name, *one) for name, one in found.items()],
    )
    noised = [found[name] for name in ("sound in noise", "image blurred")]
    return {
        "spoken": len(spoken),
        "gated_over_average_in_noise": rounded(float(np.mean([one[3] - one[2] for one in noised]))),
        "gated_over_average_sound_in_noise": rounded(noised[0][3] - noised[0][2]),
        "gated_over_average_image_blurred": rounded(noised[1][3] - noised[1][2]),
        "least_over_best_single": rounded(min(one[3] - max(one[:2]) for one in found.values())),
        **{f"gated {name}".replace(" ", "_"): rounded(one[3]) for name, one in found.items()},
    }


def _measured(
    fusion: Fusion, given: dict[Modality, Sequence[Sensed]], candidates: Array, wanted: NDArray[np.int64]
) -> tuple[float, float, float, float, float]:
    """Returns recalls by image, sound, average and gates, and the mean gate of the image."""
    count = len(wanted)
    rows: list[dict[Modality, Sensed]] = [
        {name: senses[place] for name, senses in given.items()} for place in range(count)
    ]
    alone = [
        _recall(np.stack([row[name].vector for row in rows]), candidates, wanted) if name in given else 0.0
        for name in ("image", "sound")
    ]
    mean = unit(np.stack([np.mean([one.vector for one in row.values()], 0) for row in rows]))
    fused = [fusion(row) for row in rows]
    gate = float(np.mean([one.gates.get("image", 0.0) for one in fused]))
    gated = _recall(np.stack([one.vector for one in fused]), candidates, wanted)
    return alone[0], alone[1], _recall(mean, candidates, wanted), gated, gate


def _recall(queries: Array, items: Array, wanted: NDArray[np.int64]) -> float:
    scores = queries @ items.T
    own = scores[np.arange(len(queries)), wanted]
    return float(((scores > own[:, None]).sum(1) < _PLACES).mean())
