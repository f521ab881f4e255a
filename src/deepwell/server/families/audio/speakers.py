"""`Speakers`: the speech models of a server, opened when a request first names them, and kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.media.speech.options import SpeechModel, stored_speech_models
from deepwell.media.speech.process import SpeakerLimits
from deepwell.media.speech.programs.backends import ESPEAK
from deepwell.media.speech.programs.process import AnySpeaker, speaker_of
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.catalog import shipped_catalog
from deepwell.models.store.store import ModelStore
from deepwell.server.options import SpeechServing

__all__ = ["Speakers"]

_ALIASES: Final = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")
"""OpenAI's names, which stand for the model of the setting."""


class Speakers:
    """The speech models of one server. It belongs to one event loop."""

    def __init__(self, options: SpeechServing) -> None:
        self._options = options
        self._open: dict[tuple[Path, str], AnySpeaker] = {}

    async def find(self, name: str) -> AnySpeaker:
        """Returns the model of a name. It is loaded by its first text.

        Raises:
            ModelNotFound: there is none; the fix is the command that fetches it, or names those that are here.
            InvalidRequest: the model is none for speech.
            MissingDependency: it is a program that is not here.
        """
        model = await asyncio.to_thread(self._model, name)
        key = model.folder, model.backend
        speaker = self._open.get(key)
        if speaker is None:
            speaker = self._open[key] = speaker_of(model, SpeakerLimits(self._options.threads))
        return speaker

    async def close(self) -> None:
        """Ends all models and what they work on."""
        for speaker in self._open.values():
            await speaker.close()
        self._open.clear()

    def _model(self, name: str) -> SpeechModel:
        own = self._options.model
        asked = own if name in _ALIASES else name
        store = ModelStore(self._options.models_dir or Path(os.devnull))
        if asked == ESPEAK and asked not in store.names():
            model = SpeechModel(asked, store.root, "espeak")
            _ = model.voices  # asks the program, here in a thread; the answer is kept
            return model
        # A request names no path: the setting alone may.
        if not store.can_hold(own) and asked in (own, Path(own).name):
            stored = store.resolve(Path(own))
        elif store.can_hold(asked) and asked in store.names():
            stored = store.get(asked)
        else:
            raise self._missing(asked, store)
        if kind_of(stored.path) != "speech":
            raise InvalidRequest.of("speech_model_kind", name=asked, fit=_listed(store), param="model")
        return SpeechModel.at(stored.name, stored.path)

    def _missing(self, name: str, store: ModelStore) -> ModelNotFound:
        entry = shipped_catalog().get(name)
        if entry is not None and entry.kind == "speech":
            return ModelNotFound.of("speech_model_missing", name=name, param="model")
        return ModelNotFound.of("speech_model_unknown", name=name[:96], known=_listed(store), param="model")


def _listed(store: ModelStore) -> str:
    catalog = [name for name, one in shipped_catalog().items() if one.kind == "speech"]
    return ", ".join(stored_speech_models(store) or catalog)
