"""`media_cards`: the models of the store that this server can serve at `/v1/audio` and `/v1/images`."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, cast

from deepwell.errors import DeepwellError, ModelNotFound
from deepwell.media.images.options import find_safety, open_image_model, stored_image_models
from deepwell.media.recognition.process import NEEDED as RECOGNITION_NEEDS
from deepwell.media.speech.process import NEEDED as SPEECH_NEEDS
from deepwell.models.formats.kinds import ModelKind, kind_of
from deepwell.models.store.store import ModelStore
from deepwell.paths import user_path
from deepwell.server.families.models.bodies import MediaKind, ModelCard
from deepwell.server.options import ServerOptions

__all__ = ["media_cards"]

_IMAGE_NEEDS: Final = ("PIL",)
_MOST_CONFIG_BYTES: Final = 64 << 10


def media_cards(options: ServerOptions) -> dict[str, ModelCard]:
    """Returns the cards by name. It reads the store, so it belongs into a thread.

    A model is left out if an extra, the model that has to look at images, or the encoder of its prompts is missing: each
    request for it would be refused.
    """
    found: dict[str, ModelCard] = {}
    for kind, models in (
        ("speech", _stored(options.speech.models_dir, options.speech.model, "speech", SPEECH_NEEDS)),
        (
            "recognition",
            _stored(
                options.recognition.models_dir, options.recognition.model, "recognition", RECOGNITION_NEEDS
            ),
        ),
        ("image", _drawing(options)),
    ):
        for name, folder in models:
            found.setdefault(name, _card(name, folder, cast("MediaKind", kind)))
    own = options.recognition.model
    for name, card in found.items():
        if card.kind == "recognition" and name in (own, Path(own).name):
            card.default = True
    return found


def _stored(
    models_dir: Path | None, own: str, kind: ModelKind, needs: tuple[str, ...]
) -> Iterator[tuple[str, Path]]:
    """Yields the models of a kind: those of the store, and that of the setting if it is a path."""
    if not _installed(needs):
        return
    store = _store(models_dir)
    for name in store.names():
        if kind_of(store.root / name) == kind and _is_whole(store, name):
            yield name, store.root / name
    if not store.can_hold(own) and kind_of(path := user_path(own)) == kind:
        yield path.name, path


def _drawing(options: ServerOptions) -> Iterator[tuple[str, Path]]:
    images = options.images
    if not _installed(_IMAGE_NEEDS):
        return
    store = _store(images.models_dir)
    try:
        find_safety(store, images.guard)
    except ModelNotFound:
        return
    encoders = set(_store(options.knowledge.models_dir).names())
    own = [] if store.can_hold(images.model) else [images.model]
    for name in (*stored_image_models(store), *own):
        try:
            model = open_image_model(store, name)
        except DeepwellError:  # the setting names a path that is not here, or a manifest is damaged
            continue
        if (encoder := _encoder_of(model.folder)) is None or encoder in encoders:
            yield model.name, model.folder


def _is_whole(store: ModelStore, name: str) -> bool:
    """Returns whether a model can be opened, which a damaged manifest forbids."""
    try:
        store.get(name)
    except DeepwellError:
        return False
    return True


def _encoder_of(folder: Path) -> str | None:
    """Returns the name of the text encoder that a model that draws was trained with; None: it reads texts itself."""
    try:
        with (folder / "config.json").open("rb") as file:
            fields: object = json.loads(file.read(_MOST_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    found = cast("dict[str, object]", fields).get("text_encoder") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


def _store(models_dir: Path | None) -> ModelStore:
    return ModelStore(models_dir or Path(os.devnull))


def _installed(modules: tuple[str, ...], find: Callable[[str], object] = importlib.util.find_spec) -> bool:
    return all(find(name) is not None for name in modules)


def _card(name: str, folder: Path, kind: MediaKind) -> ModelCard:
    return ModelCard(name, int(folder.stat().st_mtime), "deepwell", kind=kind)
