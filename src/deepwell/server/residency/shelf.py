"""`ModelShelf`: the models of the store that may be loaded on demand, with what they will need."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection

from deepwell.dialogue.opening import Planned, plan_model
from deepwell.engine.load import expected_capabilities
from deepwell.errors import DeepwellError, ModelNotFound
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.catalog import shipped_catalog
from deepwell.models.store.store import ModelStore, StoredModel
from deepwell.server.residency.wire import Offer
from deepwell.settings import Settings

__all__ = ["ModelShelf"]

_log = logging.getLogger("deepwell.models")


class ModelShelf:
    """Reads headers of the store's models, each once as long as its files stay. Nothing is fetched, and no path is taken.

    Args:
        settings: name the store and the models that may be loaded, and how.
        served: names of the models that are loaded already, and stay.
    """

    def __init__(self, settings: Settings, served: Collection[str]) -> None:
        self._settings = settings
        self._served = frozenset(served)
        self._store = ModelStore(settings.models_dir)
        self._offers: dict[str, Offer] = {}
        self._unusable: dict[str, str] = {}  # the version of files that cannot be served

    def look(self, name: str) -> Offer:
        """Returns a model by its name in the store.

        Raises:
            ModelNotFound: it may not be loaded, or is not in the store; the fix says how to get it.
            InvalidModelFile, UnsupportedModel: it cannot be served.
        """
        if not self._may_load(name):
            raise ModelNotFound(
                f"the model {name!r} may not be loaded here",
                fix="use one that GET /v1/models lists, or add it to DEEPWELL_ALLOWED_MODELS",
                param="model",
            )
        try:
            return self._offer(self._store.get(name))
        except ModelNotFound:
            if name not in shipped_catalog():
                raise ModelNotFound(f"there is no model {name!r} here", param="model") from None
            raise ModelNotFound.of("model_not_on_server", name=name, param="model") from None

    def list(self) -> list[Offer]:
        """Returns every model that may be loaded, generators first. Those that cannot be served are left out."""
        found: list[Offer] = []
        for name in filter(self._may_load, self._store.names()):
            version = "unreadable"
            try:
                stored = self._store.get(name)
                version = _version(stored)
                if kind_of(stored.path) != "text":  # another family of the API serves it
                    continue
                if self._unusable.get(name) != version:
                    found.append(self._offer(stored))
            except DeepwellError as error:
                if self._unusable.get(name) != version:
                    _log.warning("the model %r cannot be served: %s", name, error)
                self._unusable[name] = version
        return sorted(
            found, key=lambda one: (not one.capabilities.generates, one.name != self._settings.model)
        )

    def known_bytes(self, name: str) -> int:
        """Returns the memory that a model was last planned for, or 0 if it was never looked at."""
        offer = self._offers.get(name)
        return offer.size_bytes if offer is not None else 0

    def plan(self, name: str) -> tuple[Planned, str]:
        """Plans a model in order to load it. Returns the version of its files, too.

        Raises:
            ModelNotFound, InvalidModelFile, UnsupportedModel, InsufficientMemory: as `plan_model` says.
        """
        stored = self._store.get(name)
        return plan_model(self._settings.with_model(stored.name), is_additional=True), _version(stored)

    def _may_load(self, name: str) -> bool:
        allowed = self._settings.allowed_models
        return name not in self._served and (not allowed or name in allowed)

    def _offer(self, stored: StoredModel) -> Offer:
        version = _version(stored)
        known = self._offers.get(stored.name)
        if known is not None and known.version == version:
            return known
        settings = self._settings.with_model(stored.name)
        # A model that is too large for the budget is offered as well: the request for it says what it needs.
        planned = plan_model(settings, is_additional=True, available_bytes=1 << 62)
        offer = Offer(
            stored.name,
            str(planned.path),
            planned.tasks,
            planned.defaults,
            expected_capabilities(planned.checkpoint, planned.options, planned.memory),
            planned.memory.total_bytes,
            version,
        )
        self._offers[stored.name] = offer
        return offer


def _version(stored: StoredModel) -> str:
    files = stored.manifest.files if stored.manifest else ()
    text = " ".join(f"{file.name}:{file.sha256}" for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
