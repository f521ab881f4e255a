"""`ModelPlans`: the memory that models need: by their files, or by what the catalog knows of those that are not here yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from deepwell.errors import DeepwellError, InsufficientMemory, ModelNotFound
from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.catalog import CatalogEntry
from deepwell.models.store.shapes import ModelShape, parameters_of, shipped_shapes
from deepwell.models.store.store import ModelStore
from deepwell.server.options import CatalogOptions
from deepwell.settings import Settings

if TYPE_CHECKING:
    from deepwell.engine.layouts import Precision
    from deepwell.engine.plan import MemoryPlan

__all__ = ["Facts", "ModelPlans"]

_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of a model. None: its files are not here, and nothing else tells."""

    embeds: bool
    parameters: int | None
    download_bytes: int | None
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Described:
    """The facts of a stored model, and the state of its manifest that they were read from."""

    state: tuple[int, int]
    facts: Facts


class ModelPlans:
    """Plans as the server would load a model. Methods read files: they are called in threads."""

    def __init__(self, options: CatalogOptions) -> None:
        self._options = options
        self._settings = options.settings
        self._store = ModelStore(options.settings.models_dir)
        self._stored: dict[str, _Described] = {}
        self._shapes: dict[str, Facts] = {}

    @property
    def entries(self) -> Mapping[str, CatalogEntry]:
        """The catalog."""
        return self._options.entries

    def downloaded(self) -> frozenset[str]:
        """Returns the names of all models in the store."""
        return frozenset(self._store.names())

    def facts(self, name: str) -> Facts:
        """Returns what is known of a model."""
        try:
            found = (self._store.root / name / "manifest.json").stat()
        except OSError:
            self._stored.pop(name, None)
            if name not in self._shapes:
                self._shapes[name] = self._facts_of_shape(name)
            return self._shapes[name]
        state = (found.st_mtime_ns, found.st_ino)
        known = self._stored.get(name)
        if known is None or known.state != state:
            known = self._stored[name] = _Described(state, self._facts_of_files(name))
        return known.facts

    def plan(
        self, name: str, settings: Settings, available_bytes: int
    ) -> tuple[MemoryPlan, InsufficientMemory | None]:
        """Returns the plan of a model, and the error if it does not fit into `available_bytes`.

        Raises:
            ModelNotFound: neither the catalog nor the store has it, or nothing tells its sizes.
            InvalidRequest: the model cannot hold the context, or has no such precision.
            InvalidModelFile, UnsupportedModel: its files cannot be served.
        """
        made = self._planned(name, settings, _NO_LIMIT)
        try:
            self._planned(name, settings, available_bytes)
        except InsufficientMemory as error:
            return made, error
        return made, None

    def _planned(self, name: str, settings: Settings, available_bytes: int) -> MemoryPlan:
        from deepwell.dialogue.opening import for_encoder, plan_model
        from deepwell.engine.options import EngineOptions
        from deepwell.engine.planning import plan_config

        settings = settings.with_model(name)
        if name in self.downloaded():
            return plan_model(settings, is_additional=True, available_bytes=available_bytes).memory
        shape = self._shape(name)
        if shape is None:
            raise ModelNotFound(
                f"the sizes of {name!r} are not known here",
                fix="GET /v1/catalog lists the models that are; one that is downloaded is known, too",
                param="model",
            )
        if shape.config.is_encoder:
            settings = for_encoder(settings)
        asked = settings.precision
        precision = cast("Precision", shape.precision) if asked == "auto" else asked
        options = EngineOptions.of(settings, name=name)
        return plan_config(shape.config, precision, options, available_bytes, joins=True)

    def _facts_of_files(self, name: str) -> Facts:
        from deepwell.models.formats.checkpoint import open_checkpoint

        size_bytes: int | None = None
        try:
            stored = self._store.get(name)
            size_bytes = stored.manifest.size_bytes if stored.manifest is not None else None
            config = open_checkpoint(stored.path).config
        except DeepwellError:  # one that is damaged hides no other
            return Facts(self._embeds(name), None, size_bytes, None)
        return self._facts(name, config, size_bytes)

    def _facts_of_shape(self, name: str) -> Facts:
        shape = self._shape(name)
        if shape is None:
            return Facts(self._embeds(name), None, None, None)
        return self._facts(name, shape.config, shape.download_bytes)

    def _facts(self, name: str, config: ModelConfig, download_bytes: int | None) -> Facts:
        try:
            memory_bytes = self._planned(name, self._settings, _NO_LIMIT).total_bytes
        except DeepwellError:  # such as a context of the settings that it cannot hold
            memory_bytes = None
        return Facts(config.is_encoder, parameters_of(config), download_bytes, memory_bytes)

    def _shape(self, name: str) -> ModelShape | None:
        return shipped_shapes().get(name) if self._options.catalog is None else None

    def _embeds(self, name: str) -> bool:
        entry = self.entries.get(name)
        return entry is not None and bool(entry.prompts)
