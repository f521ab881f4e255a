"""`Replica`: the server's ASGI application as a replica of Ray Serve runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from deepwell.storage.clock import shared_time

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["Replica"]


class Replica:
    """The application with its models, in this process. What works beside requests starts and ends with ASGI's lifespan.

    Args:
        given: settings beside those of this machine's environment and file.

    Raises:
        DeepwellError: a model is missing or does not fit, an open address has no keys, or this machine lacks the confinement
            that is required.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        from deepwell.dialogue.model import ServedModel
        from deepwell.dialogue.opening import open_model, plan_models
        from deepwell.fleet.desk import attach_desk
        from deepwell.process.confinement.launch import walls
        from deepwell.server.app import create_app
        from deepwell.server.build import context_of
        from deepwell.settings import Settings

        settings = Settings.load(**given)
        settings.require_safe_address(stored_keys=lambda: _stored_key(settings))
        if settings.confinement == "required":
            walls().require()
        with ExitStack() as stack:
            models: list[ServedModel] = []
            for planned in plan_models(settings):
                opened = open_model(planned)
                stack.callback(opened.close)
                models.append(
                    ServedModel(
                        opened.name,
                        opened.engine,
                        opened.codec,
                        tasks=planned.tasks,
                        defaults=opened.defaults,
                    )
                )
            self._context = attach_desk(context_of(settings, models), settings)
            self._app = create_app(self._context)
            self._close = stack.pop_all().close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or follows the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        workers = self._app.state.workers
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                for answering in self._context.served:
                    answering.model.engine.stats()  # binds an engine to this event loop
                for worker in workers:
                    worker.start()
                await send({"type": "lifespan.startup.complete"})
                continue
            self._context.draining = True
            self._context.stop()
            for worker in workers:
                await worker.stop()
            await self._context.close_state()
            self._context.observer.close()
            self._close()
            await send({"type": "lifespan.shutdown.complete"})
            return


def _stored_key(settings: Settings) -> bool:
    """Tells whether the database holds a key that can be used now. Ray Serve makes replicas on a running event loop."""

    async def look() -> bool:
        from deepwell.storage.database import Database
        from deepwell.storage.keys import KeyStore

        database = Database.of(settings)
        try:
            return any(key.usable(shared_time()) for key in await KeyStore(database).list())
        finally:
            database.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(look())).result()
