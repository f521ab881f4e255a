"""`deepwell bench media-space`: held-out pictures and sentences in the space of text, image and sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.cli.bench.report import Report, rounded
from deepwell.media.space.heads import ImageHead
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.weights import SpaceWeights
from deepwell_bench.workloads.media.space import SpaceWorkload, Spoken

__all__ = ["bench_media_space"]

Array = NDArray[np.float32]


def bench_media_space(
    report: Report, workload: SpaceWorkload, weights: SpaceWeights, *, cascade_every: int = 1
) -> dict[str, Any]:
    """Returns recalls of held-out pictures by text and by speech, and of held-out sentences by speech.

    Args:
        cascade_every: n-th sentences that Whisper transcribes for the comparison.
    """
    image, sound = ImageHead(weights.part("image")), SoundHead(weights.part("sound"))
    rows = workload.rows
    pictures = image(workload.image_features())
    sides = _by_text(workload, pictures)
    sentences, captions = workload.sentences(), workload.captions()
    heard = np.stack([sound(one.frames) for one in sentences])
    texts = workload.vectors([one.text for one in sentences])
    speech = _recalls(heard, texts, np.arange(len(texts)))
    spoken = np.stack([sound(one.frames) for one in captions])
    wanted = np.array([one.picture for one in captions])
    by_speech = _recalls(spoken, pictures, wanted)
    by_same_text = _recalls(workload.vectors([one.text for one in captions]), pictures, wanted)
    cascade = _cascade(workload, sentences[::cascade_every], texts, cascade_every)
    report.note(
        f"{len(rows)} pictures, {len(sentences)} sentences by {len({one.voice for one in sentences})} unseen voices, "
        f"{len(captions)} spoken captions"
    )
    table = [(side, found[1], found[10]) for side, found in sides.items()]
    table += [
        ("speech to text", speech[1], speech[10]),
        (f"transcribed, then text to text ({len(sentences[::cascade_every])})", cascade[1], cascade[10]),
        ("speech to image", by_speech[1], by_speech[10]),
        ("text of the same captions to image", by_same_text[1], by_same_text[10]),
    ]
    for language in ("en", "zh"):
        mine = [place for place, one in enumerate(sentences) if one.language == language]
        own = _recalls(heard[mine], texts, np.array(mine))
        table.append((f"speech to text, {language}", own[1], own[10]))
    report.table("Recall", ("from and to", "first", "first 10"), table)
    return {
        "pictures": len(rows),
        "text_to_image_en": rounded(sides["title (en) to image"][10]),
        "text_to_image_en_described": rounded(sides["title and keywords (en) to image"][10]),
        "emoji_to_image_zh": rounded(sides["name of an emoji (zh) to image"][10]),
        "sentences": len(sentences),
        "speech_to_text_1": rounded(speech[1]),
        "speech_to_text_10": rounded(speech[10]),
        "cascade_1": rounded(cascade[1]),
        "cascade_10": rounded(cascade[10]),
        "speech_to_image": rounded(by_speech[10]),
        "speech_to_image_of_text": rounded(by_speech[10] / max(by_same_text[10], 1e-9)),
        "training_clips": workload.training_clips,
    }


def _by_text(workload: SpaceWorkload, pictures: Array) -> dict[str, dict[int, float]]:
    rows = workload.rows
    described = [next((text for text in row.captions() if ": " in text), row.title) for row in rows]
    asked = {
        "title (en) to image": [row.title for row in rows],
        "title and keywords (en) to image": described,
        "name of an emoji (zh) to image": [
            row.titles_zh[0] if row.source == "emoji" and row.titles_zh else "" for row in rows
        ],
    }
    found: dict[str, dict[int, float]] = {}
    for name, texts in asked.items():
        wanted = np.array([place for place, text in enumerate(texts) if text])
        found[name] = _recalls(workload.vectors([texts[place] for place in wanted]), pictures, wanted)
    return found


def _cascade(
    workload: SpaceWorkload, sentences: Sequence[Spoken], texts: Array, every: int
) -> dict[int, float]:
    """Returns recalls where Whisper writes down what is said, and e5 compares it."""
    written = [text or "-" for text in workload.transcribed(sentences)]
    return _recalls(workload.vectors(written), texts, np.arange(len(sentences)) * every)


def _recalls(queries: Array, items: Array, wanted: NDArray[np.int64]) -> dict[int, float]:
    scores = queries @ items.T
    own = scores[np.arange(len(queries)), wanted]
    ranks = (scores > own[:, None]).sum(1)
    return {place: float((ranks < place).mean()) for place in (1, 10)}
