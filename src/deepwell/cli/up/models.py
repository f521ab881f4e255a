"""The models of `deepwell up`: those that are here, in the store or below `--model-path`, and those to pull first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import DeepwellError, InvalidRequest, ModelNotFound
from deepwell.paths import user_path

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["ChosenModels", "choose_models", "pull_models"]


@dataclass(frozen=True, slots=True)
class ChosenModels:
    """The models to serve.

    Attributes:
        names: as `deepwell serve` takes them, names in the store or paths, the main one first.
        models_dir: the model store.
        missing: those that have to be pulled into it.
    """

    names: tuple[str, ...]
    models_dir: Path
    missing: tuple[str, ...] = ()


def choose_models(settings: Settings, given: Sequence[str], path: Path | None) -> ChosenModels:
    """Finds the models.

    Args:
        given: the names on the command line.
        path: a model, a folder with several, a model store, or an empty folder that becomes one if it can be written; None:
            the store of the settings is meant.

    Raises:
        InvalidRequest: the path is not there, or holds several models and none is named.
        ModelNotFound: a model is not here, and nothing says where to pull it from.
    """
    wanted = tuple(given) or (settings.model, *settings.additional_models)
    if path is None:
        return _stored(settings.models_dir, wanted)
    path = user_path(path).absolute()
    if not path.exists():
        raise InvalidRequest.of("model_path_absent", path=path)
    if path.is_file() or (path / "config.json").is_file():
        return ChosenModels((str(path), *given), settings.models_dir)
    stores = sorted(one.parent.name for one in path.glob("*/manifest.json"))
    plain = {one.stem if one.is_file() else one.name: one for one in sorted(path.iterdir()) if _is_model(one)}
    if stores:
        names = tuple(given) or (_only(stores, settings, path),)
        return _stored(path, names)
    if plain:
        names = tuple(given) or (_only(list(plain), settings, path),)
        found = _stored(settings.models_dir, [one for one in names if one not in plain])
        served = tuple(str(plain[one]) if one in plain else one for one in names)
        return ChosenModels(served, settings.models_dir, found.missing)
    here = _stored(settings.models_dir, wanted)
    if not here.missing or not os.access(path, os.W_OK):  # a mounted folder may belong to another user
        return here
    return ChosenModels(wanted, path, wanted)


def pull_models(settings: Settings, chosen: ChosenModels, *, shown: bool) -> ChosenModels:
    """Pulls the models that are missing, with progress, and returns the models with the names that they have in the store.

    Raises:
        DeepwellError: as `ModelStore.pull` says.
    """
    from deepwell.cli.output import console
    from deepwell.cli.progress import downloads
    from deepwell.dialogue.opening import check_servable
    from deepwell.messages import say
    from deepwell.models.store.store import ModelStore

    store = ModelStore(chosen.models_dir)
    pulled: dict[str, str] = {}
    for name in chosen.missing:
        if shown:
            console(stderr=True).print(say("up_pulling", name=name), soft_wrap=True)
        with downloads(shown=shown) as progress:
            stored = store.pull(name, offline=settings.offline, progress=progress, check=check_servable)
        pulled[name] = stored.name
    return ChosenModels(tuple(pulled.get(one, one) for one in chosen.names), chosen.models_dir)


def _stored(models_dir: Path, names: Sequence[str]) -> ChosenModels:
    """Returns the models of a store, with those that are not in it."""
    from deepwell.models.store.store import ModelStore

    store = ModelStore(models_dir)
    missing: list[str] = []
    for name in names:
        try:
            store.resolve(name)
        except ModelNotFound:
            if not _can_be_pulled(name):
                raise
            missing.append(name)
    return ChosenModels(tuple(names), models_dir, tuple(missing))


def _can_be_pulled(name: str) -> bool:
    """Returns whether a name is one of the catalog, or a source other than a path."""
    from deepwell.models.store.catalog import shipped_catalog
    from deepwell.models.store.sources import PathSource, hub_sources, parse_source

    if name in shipped_catalog() or hub_sources(name):
        return True
    try:
        return not isinstance(parse_source(name), PathSource)
    except DeepwellError:
        return False


def _is_model(path: Path) -> bool:
    """Returns whether a path is a model that can be opened: a GGUF file, or a folder that is one model."""
    if path.is_file():
        return path.suffix == ".gguf"
    return path.is_dir() and ((path / "config.json").is_file() or len(list(path.glob("*.gguf"))) == 1)


def _only(names: Sequence[str], settings: Settings, path: Path) -> str:
    """Returns the model of a folder: the only one, or that of the settings.

    Raises:
        InvalidRequest: there are several.
    """
    if len(names) == 1:
        return names[0]
    if settings.model in names:
        return settings.model
    raise InvalidRequest.of("model_path_several", path=path, names=", ".join(names), first=names[0])
