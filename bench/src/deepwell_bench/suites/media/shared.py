"""`deepwell bench media-shared-encoder`: one encoder that images and sounds share, against one for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.training.shared import Paired, train_encoders
from deepwell.media.space.weights import SpaceWeights
from deepwell_bench.workloads.media.space import SpaceWorkload, Spoken

__all__ = ["bench_media_shared_encoder"]

Array = NDArray[np.float32]


def bench_media_shared_encoder(
    report: Report, workload: SpaceWorkload, weights: SpaceWeights, steps: int
) -> dict[str, Any]:
    """Returns the parameters and the recalls at 10 of both, trained on the same pictures and clips for as many steps.

    Sounds enter as what the attention of the shipped head pools of their units.
    """
    sound = SoundHead(weights.part("sound"))

    def pooled(some: Sequence[Spoken]) -> Array:
        return np.stack([sound.pooled(*sound.units(one.frames)) for one in some])

    features, choices = workload.training_pictures()
    clips = workload.training_sounds()
    names = sorted({text for texts in choices for text in texts} | {clip.text for clip in clips})
    numbers = {text: number for number, text in enumerate(names)}
    texts = workload.vectors(names)
    pairs = [
        Paired(features, [[numbers[text] for text in one] for one in choices]),
        Paired(pooled(clips), [[numbers[clip.text]] for clip in clips]),
    ]
    sentences = workload.sentences()
    asked = [workload.image_features(), pooled(sentences)]
    titles = workload.vectors([row.title for row in workload.rows])
    said = workload.vectors([one.text for one in sentences])
    value: dict[str, Any] = {}
    rows: list[tuple[Any, ...]] = []
    for name, encoders in (("shared", 1), ("separate", len(pairs))):
        with report.console.status(name):
            (images, sounds), parameters = train_encoders(pairs, asked, texts, encoders, steps)
        found = _recall(titles, images), _recall(sounds, said)
        rows.append((name, parameters, *found))
        value |= {
            f"{name}_parameters": parameters,
            f"{name}_text_to_image": rounded(found[0]),
            f"{name}_speech_to_text": rounded(found[1]),
        }
    report.note(f"{len(features)} pictures, {len(clips)} clips, {steps} steps")
    report.table(
        "Encoders behind the first layer of each modality",
        ("encoder", "parameters", "text (en) to image, first 10", "speech to text, first 10"),
        rows,
    )
    return value | {
        "parameters_saved": rounded(1 - value["shared_parameters"] / value["separate_parameters"])
    }


def _recall(queries: Array, items: Array) -> float:
    """Returns the share of queries whose item, of the same number, is among the first 10."""
    scores = queries @ items.T
    return float(((scores > scores.diagonal()[:, None]).sum(1) < 10).mean())
