"""`SpaceTraining`: the whole training in stages. Each keeps its result in the run's folder, where a stopped run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from deepwell.media.images.training.pictures import PictureSet
from deepwell.media.recognition.whisper import load_model
from deepwell.media.space.features import ImageEncoder, SoundEncoder, prepared_image
from deepwell.media.space.fusion import Modality, Sensed
from deepwell.media.space.heads import ImageHead, unit
from deepwell.media.space.sound import SoundHead
from deepwell.media.space.training.clips import Clip, make_clips, shipped_clips, spoken_captions
from deepwell.media.space.training.contrast import centred, recalls
from deepwell.media.space.training.efficientnet import SHA256
from deepwell.media.space.training.fusing import FusionOptions, Shown, train_fusion
from deepwell.media.space.training.images import (
    ImageOptions,
    caption_choices,
    train_image_head,
)
from deepwell.media.space.training.naming import learnt_limits, names_of, vocabulary_of
from deepwell.media.space.training.noise import blurred, noised
from deepwell.media.space.training.pictures import features_of_pictures
from deepwell.media.space.training.sentences import Language
from deepwell.media.space.training.sounds import (
    Heard,
    SoundOptions,
    Spelled,
    train_frames,
    train_units,
    unheard_rows,
)
from deepwell.media.space.training.spoken import Pronunciations, features_of_sounds, spelled_texts
from deepwell.media.space.training.texts import Embed, TextVectors
from deepwell.media.space.weights import SpaceConfig, SpaceWeights

__all__ = ["SpaceTraining", "TrainingInputs"]

_FASHION: Final = 600
"""Pictures of Fashion-MNIST that are used: they have ten captions, and would outnumber the others."""

_WITHOUT_TEXT: Final = 2
_DECIBELS: Final = (0.0, -4.0, 6.0)
_SIGMAS: Final = (4.0, 8.0)  # pixels of 128


@dataclass(frozen=True, slots=True)
class TrainingInputs:
    """Inputs of a training.

    Attributes:
        pictures: the set of captioned pictures.
        embed: returns e5's unit vectors of texts.
        image_encoder: file of the image encoder.
        speech: folder of Kokoro.
        recognition: folder of the recognition model.
        packages: folder where packages of Debian are kept.
        threads: processor threads.
    """

    pictures: PictureSet
    embed: Embed
    image_encoder: Path
    speech: Path
    recognition: Path
    packages: Path
    threads: int


class SpaceTraining:
    """A training.

    Args:
        folder: folder of the run: intermediate results, and `weights/` at the end of each stage.
        on_event: receives every event.
    """

    def __init__(
        self, inputs: TrainingInputs, folder: Path, on_event: Callable[[dict[str, Any]], None]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(inputs.threads)
        self._inputs, self._folder, self._on_event = inputs, folder, on_event
        self._texts = TextVectors(folder, inputs.embed)
        weights = folder / "weights"
        self.weights = (
            SpaceWeights.read(weights)
            if (weights / "config.json").is_file()
            else SpaceWeights(SpaceConfig(image_encoder=SHA256), {})
        )

    def images(self, options: ImageOptions | None = None) -> dict[str, float]:
        """Trains the head of images if it is not there. Returns recalls of the development pictures."""
        pictures = self._inputs.pictures
        train, development, features = self._image_features()
        rows = [pictures.rows[index] for index in (*train, *development)]
        self._texts.add(
            (text for row in rows for text in (*row.captions(), *row.tags, *row.tags_zh)),
            self._progress("texts"),
        )
        if not self.weights.part("image"):
            begin = time.perf_counter()
            texts = centred(self._texts.vectors, self._centre())
            found = train_image_head(
                features[: len(train)],
                caption_choices(rows[: len(train)], self._texts.numbers),
                texts,
                options or ImageOptions(),
                self._on_event,
            )
            self._keep("image", found, begin)
        head = ImageHead(self.weights.part("image"))
        return self._image_recalls(head(features[len(train) :]), development)

    def names(self) -> dict[str, float]:
        """Makes the vocabulary of names for images. Returns the limits that the development pictures teach."""
        pictures = self._inputs.pictures
        train, development, features = self._image_features()
        images = ImageHead(self.weights.part("image"))(features)
        emoji = [pictures.rows[index] for index in pictures.where("train", sources=["emoji"])]

        def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
            self._texts.add(texts, self._progress("names"))
            return unit(self._texts.of(texts) - self._centre())

        vocabulary = vocabulary_of(names_of(emoji, vectors), vectors, images[: len(train)])
        rows = [pictures.rows[index] for index in development]
        vocabulary.limits = learnt_limits(vocabulary, images[len(train) :], rows)
        vocabulary.write(self._folder / "weights")
        found = asdict(vocabulary.limits)
        self._on_event({"event": "trained", "part": "names", "names": len(vocabulary.names), **found})
        return found

    def _image_features(self) -> tuple[list[int], list[int], NDArray[np.float32]]:
        """Returns the numbers of the training and of the development pictures, and the features of both."""
        pictures = self._inputs.pictures
        train = [
            *pictures.where("train", sources=_sources(pictures, "fashion")),
            *pictures.where("train", sources=["fashion"])[:_FASHION],
        ]
        development = pictures.where("development")
        encoder = ImageEncoder(self._inputs.image_encoder, self._inputs.threads)
        features = features_of_pictures(
            pictures, [*train, *development], encoder, self._folder / "images.npz", self._progress("pictures")
        )
        return train, development, features

    def _image_recalls(self, vectors: NDArray[np.float32], indices: Sequence[int]) -> dict[str, float]:
        rows = [self._inputs.pictures.rows[index] for index in indices]
        found: dict[str, float] = {}
        for name, texts in (
            ("en", [row.title for row in rows]),
            ("zh", [row.titles_zh[0] if row.titles_zh else "" for row in rows]),
        ):
            wanted = np.array([place for place, text in enumerate(texts) if text])
            queries = unit(self._texts.of([texts[place] for place in wanted]) - self._centre())
            # As many are asked for of each thousand as 10 are of the 500 held-out pictures.
            places = max(1, len(rows) // 50)
            found[f"text_to_image_{name}"] = recalls(queries, vectors, wanted, (places,))[places]
        self._on_event({"event": "development", "part": "image", "pictures": len(rows), **found})
        return found

    def sounds(self, options: SoundOptions | None = None) -> dict[str, float]:
        """Trains the head of sounds if it is not there. Returns recalls of the development clips among their texts."""
        options = options or SoundOptions()
        train = [clip for clips in shipped_clips(self._inputs.pictures, "train") for clip in clips]
        sentences, captions = shipped_clips(self._inputs.pictures, "development")
        spelled = spelled_texts(self._inputs.pictures, self._inputs.packages)
        unsaid = [text for kind in spelled for text in kind]
        clips = [*train, *sentences, *captions]
        self._texts.add((*unsaid, *(clip.text for clip in clips)), self._progress("texts"))
        frames = self._frames(clips)
        texts = centred(self._texts.vectors, self._centre())
        if "sound.second.weight" not in self.weights.tensors:
            begin = time.perf_counter()
            known = Pronunciations.read((*unsaid, *(clip.text for clip in train)), self._inputs.speech)
            heard = [
                Heard(one, known.said(clip), self._texts.numbers[clip.text], clip.voice)
                for clip, one in zip(train, frames[: len(train)], strict=True)
                if clip.text in known.of
            ]
            free = [
                [Spelled(known.of[text], self._texts.numbers[text]) for text in texts_of if known.short(text)]
                for texts_of in spelled
            ]
            if "sound.frames.last.weight" not in self.weights.tensors:
                found = train_frames(heard, len(known.units), options, self._on_event)
                self._keep("sound", found, begin)
            rows = unheard_rows(heard, len(known.units), options, self._on_event)
            checkpoint = self._folder / "units.pt"
            found = train_units(
                heard, rows, free, len(known.units), texts, options, self._on_event, checkpoint
            )
            self._keep("sound", found, begin)
        head = SoundHead(self.weights.part("sound"))
        vectors = np.stack([head(one) for one in frames[len(train) :]])
        found_recalls: dict[str, float] = {}
        for name, begin_at, some in (("sentences", 0, sentences), ("captions", len(sentences), captions)):
            numbers = [self._texts.numbers[clip.text] for clip in some]
            shares = recalls(
                vectors[begin_at : begin_at + len(some)], texts.numpy()[numbers], np.arange(len(some))
            )
            found_recalls |= {f"{name}_at_{place}": share for place, share in shares.items()}
        self._on_event({"event": "development", "part": "sound", **found_recalls})
        return found_recalls

    def fusion(self, options: FusionOptions | None = None) -> None:
        """Trains the fusion if it is not there, on development pictures and their spoken captions, clean and in noise.

        The heads have not seen those. Of what a head was trained on it is too sure, and so would the gates be.
        """
        if self.weights.part("fusion"):
            return
        pictures = self._inputs.pictures
        languages: tuple[Language, ...] = ("en", "zh")
        of = {
            text: index
            for language in languages
            for text, index in spoken_captions(pictures, language, "development").items()
        }
        clips = shipped_clips(pictures, "development")[1]
        titles = [pictures.rows[index].title for index in pictures.where("development")]
        self._texts.add((*titles, *(clip.text for clip in clips)))
        texts = list(dict.fromkeys((*titles, *(clip.text for clip in clips))))
        vectors = unit(self._texts.of(texts) - self._centre())
        begin = time.perf_counter()
        heard = self._heard(clips)
        seen = self._seen([of[clip.text] for clip in clips])
        nothing = np.zeros(4, np.float32)
        things = []
        for clip, sounds, images in zip(clips, heard, seen, strict=True):
            own = Sensed(vectors[texts.index(clip.text)], nothing)
            senses: dict[Modality, tuple[Sensed, ...]] = {"image": images, "sound": sounds}
            things += [Shown(senses, texts.index(clip.text))] * _WITHOUT_TEXT
            things.append(Shown({"text": (own,), **senses}, texts.index(clip.text)))
        found = train_fusion(things, torch.from_numpy(vectors), options or FusionOptions(), self._on_event)
        self._keep("fusion", found, begin)

    def _heard(self, clips: Sequence[Clip]) -> list[tuple[Sensed, ...]]:
        """Returns what the head of sounds says of clips, clean and in noise."""
        inputs = self._inputs
        sounds = make_clips(clips, inputs.speech, self._folder / "clips", inputs.threads)
        encoder = SoundEncoder(load_model(inputs.recognition, inputs.threads))
        head = SoundHead(self.weights.part("sound"))
        draw = np.random.default_rng(0)
        tell = self._progress("sounds in noise")
        found: list[tuple[Sensed, ...]] = []
        for done, sound in enumerate(sounds):
            tell(done, len(sounds))
            noisy = [
                noised(sound, [sounds[other] for other in draw.choice(len(sounds), 6)], decibels, draw)
                for decibels in _DECIBELS
            ]
            found.append(tuple(Sensed(*head.sensed(encoder.encode(one))) for one in (sound, *noisy)))
        return found

    def _seen(self, indices: Sequence[int]) -> list[tuple[Sensed, ...]]:
        """Returns what the head of images says of pictures, sharp and blurred."""
        encoder = ImageEncoder(self._inputs.image_encoder, self._inputs.threads)
        head = ImageHead(self.weights.part("image"))
        tell = self._progress("blurred pictures")
        found: list[tuple[Sensed, ...]] = []
        for done, index in enumerate(indices):
            tell(done, len(indices))
            image = self._inputs.pictures.images[index]
            shown = [image, *(blurred(image, sigma) for sigma in _SIGMAS)]
            vectors, signs = head.sensed(encoder.encode(np.stack([prepared_image(one) for one in shown])))
            found.append(tuple(map(Sensed, vectors, signs)))
        return found

    def _frames(self, clips: Sequence[Clip]) -> list[NDArray[np.float32]]:
        inputs, folder = self._inputs, self._folder
        sounds = make_clips(clips, inputs.speech, folder / "clips", inputs.threads, self._progress("clips"))
        return features_of_sounds(
            clips, sounds, inputs.recognition, folder / "sounds", inputs.threads, self._progress("sounds")
        )

    def _centre(self) -> NDArray[np.float32]:
        """Returns what the vectors of texts share: their mean over the captions of the training pictures."""
        if "centre" not in self.weights.tensors:
            pictures = self._inputs.pictures
            captions = [text for index in pictures.where("train") for text in pictures.rows[index].captions()]
            captions = list(dict.fromkeys(captions))
            self._texts.add(captions)
            self.weights.tensors["centre"] = self._texts.of(captions).mean(0)
        return self.weights.tensors["centre"]

    def _keep(self, part: str, found: dict[str, NDArray[np.float32]], begin: float) -> None:
        self.weights.tensors |= {f"{part}.{name}": value for name, value in found.items()}
        self.weights.write(self._folder / "weights")
        count = sum(value.size for value in found.values())
        seconds = round(time.perf_counter() - begin, 1)
        self._on_event({"event": "trained", "part": part, "parameters": count, "seconds": seconds})

    def _progress(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self._on_event(
            {"event": "progress", "what": what, "done": done, "of": total}
        )


def _sources(pictures: PictureSet, *others: str) -> list[str]:
    return sorted({row.source for row in pictures.rows} - set(others))
