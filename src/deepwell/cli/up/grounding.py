"""The knowledge base of `deepwell up --knowledge DIR`: named after the folder, filled from it, and followed by the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepwell.cli.up.machine import has_modules
from deepwell.errors import InvalidRequest, MissingDependency
from deepwell.paths import user_path

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["base_name", "fill_from"]

_PACKAGES = ("tantivy", "usearch", "watchfiles")


def base_name(folder: Path) -> str:
    """Returns the name of the knowledge base of a folder.

    Raises:
        InvalidRequest: there is no such folder.
        MissingDependency: a package of the extra `[knowledge]` is not installed.
    """
    if not folder.is_dir():
        raise InvalidRequest.of("knowledge_folder_missing", path=folder)
    if missing := next((one for one in _PACKAGES if not has_modules(one)), None):
        raise MissingDependency.of(
            "knowledge_extra_missing", feature="--knowledge", feature_zh="--knowledge ", package=missing
        )
    return user_path(folder).resolve().name or "documents"


def fill_from(settings: Settings, folder: Path, *, shown: bool) -> dict[str, Any]:
    """Makes the knowledge base if there is none, looks at the folder, and ingests what changed, with progress.

    The embedding model is pulled first where it is missing. The server follows the folder from then on.
    """
    from deepwell.cli.knowledge.fill import fill
    from deepwell.cli.knowledge.options import senses_of
    from deepwell.cli.up.models import ChosenModels, pull_models
    from deepwell.errors import ModelNotFound
    from deepwell.knowledge.local import LocalKnowledge
    from deepwell.models.store.store import ModelStore

    embedder = settings.knowledge_embedder
    try:
        ModelStore(settings.models_dir).resolve(embedder)
    except ModelNotFound:
        pull_models(settings, ChosenModels((), settings.models_dir, (embedder,)), shown=shown)

    name, source = base_name(folder), str(user_path(folder).resolve())

    async def work() -> dict[str, Any]:
        async with LocalKnowledge(settings, senses=senses_of(settings)) as knowledge:
            return await fill(knowledge, name, [source], create=True, shown=shown)

    return asyncio.run(work())
