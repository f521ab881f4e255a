"""`Embedders`: the embedding models that this process has open, each loaded when it is first needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.storage.knowledge.stores import StoredStore

if TYPE_CHECKING:
    from deepwell.knowledge.models import LLMEmbedder
    from deepwell.llm import AsyncLLM

__all__ = ["Embedders"]


class Embedders:
    """Embedders by the name of their model. They belong to one event loop."""

    def __init__(self, models_dir: Path | None = None, *, threads: int | None = None) -> None:
        """Opens models of the store `models_dir` with so many threads each; None: those of the settings."""
        self._models_dir = models_dir
        self._threads = threads
        self._open: dict[str, asyncio.Task[tuple[AsyncLLM, LLMEmbedder]]] = {}

    async def named(self, name: str) -> LLMEmbedder:
        """Returns the embedder of a model.

        Raises:
            ModelNotFound: it is not in the store. The fix names the command that pulls it.
            InvalidRequest: it generates text.
        """
        task = self._open.get(name)
        if task is None:
            task = self._open[name] = asyncio.create_task(self._load(name))
        try:
            return (await asyncio.shield(task))[1]
        except ModelNotFound as error:
            self._open.pop(name, None)
            key, values = error.texts
            if key != "model_not_pulled":
                raise
            raise ModelNotFound.of("embedder_not_pulled", name=values["name"], root=values["root"]) from None
        except Exception:
            self._open.pop(name, None)  # it may be there the next time
            raise

    async def of_store(self, store: StoredStore) -> LLMEmbedder:
        """Returns the embedder whose vectors a store holds.

        Raises:
            InvalidRequest: the model of that name has other vectors by now.
        """
        embedder = await self.named(store.embedder)
        if store.embedder_hash and embedder.hash != store.embedder_hash:
            raise InvalidRequest.of("embedder_differs", name=store.name or store.id, embedder=store.embedder)
        return embedder

    async def close(self) -> None:
        """Closes every model."""
        tasks, self._open = list(self._open.values()), {}
        for task in tasks:
            task.cancel()
            for found in await asyncio.gather(task, return_exceptions=True):
                if isinstance(found, tuple):
                    await found[0].close()

    async def _load(self, name: str) -> tuple[AsyncLLM, LLMEmbedder]:
        from deepwell.knowledge.models import LLMEmbedder
        from deepwell.llm import AsyncLLM
        from deepwell.llm.arguments import Options
        from deepwell.models.formats.checkpoint import open_checkpoint
        from deepwell.models.store.store import ModelStore
        from deepwell.settings import Settings

        def opened() -> AsyncLLM:
            # The settings `context`, `kv_tokens` and `precision` are about the model that answers. The first two may not fit an
            # encoder, and the third would change its vectors, so that stores made under another setting could not be read.
            store = ModelStore(self._models_dir or Settings.load().models_dir)
            positions = open_checkpoint(store.resolve(name).path).config.max_position_embeddings
            options: Options = {"context": positions, "kv_tokens": positions, "precision": "auto"}
            if self._models_dir is not None:
                options["models_dir"] = self._models_dir
            if self._threads is not None:
                options["threads"] = self._threads
            return AsyncLLM(name, **options)

        llm = await asyncio.to_thread(opened)
        try:
            return await llm.open(), LLMEmbedder(llm)
        except BaseException:
            await llm.close()
            raise
