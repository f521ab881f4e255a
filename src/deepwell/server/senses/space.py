"""`ServerSpace`: the space of text, image and sound of one server, opened when something first needs it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import ModelNotFound
from deepwell.server.options import ImageServing

if TYPE_CHECKING:
    from deepwell.media.space.process import Seen, Sensing

__all__ = ["ServerSpace"]


class ServerSpace:
    """The space of one process. It belongs to one event loop."""

    def __init__(self, options: ImageServing) -> None:
        self._options = options
        self._open: Sensing | None = None
        self._bare: Sensing | None = None
        self._opening = asyncio.Lock()

    async def sensing(self) -> Sensing:
        """Returns what puts pictures and sounds into the space, with all models that are here now.

        Raises:
            ModelNotFound: there is no model at all, or the one that has to look at pictures is missing.
        """
        async with self._opening:
            before = self._open
            if before is None or None in (before.models.image, before.models.sound, before.models.safety):
                found = await asyncio.to_thread(self._found)
                if before is not None and before.models == found.models:
                    return before
                if before is not None:  # something was pulled meanwhile
                    await before.close()
                self._open = found
            assert self._open is not None
            return self._open

    async def bare(self) -> Sensing:
        """Returns the same, or where there is no encoder what reads pictures and has the safety model look at them.

        Raises:
            ModelNotFound: the model that has to look at pictures is missing.
        """
        try:
            return await self.sensing()
        except ModelNotFound as error:
            if error.texts[0] != "space_models_missing":
                raise
        async with self._opening:
            before = self._bare
            if before is None or before.models.safety is None:
                found = await asyncio.to_thread(self._without_encoders)
                if before is not None and before.models == found.models:
                    return before
                if before is not None:  # the safety model was pulled meanwhile
                    await before.close()
                self._bare = found
            assert self._bare is not None
            return self._bare

    async def look(self, tenant: str, data: bytes) -> Seen:
        """Returns what is seen in a picture.

        Raises:
            ImageRefused: the safety model takes it for unsafe.
            DeepwellError: as `sensing` and `Sensing.image`.
        """
        from deepwell.media.images.process import ImageRefused

        seen = await (await self.sensing()).image(tenant, data)
        if self._options.guard != "off" and seen.unsafe > self._options.guard_score:
            raise ImageRefused.scored("image_input_refused", "image", seen.unsafe)
        return seen

    async def close(self) -> None:
        """Ends the child and what it works on."""
        if self._open is not None:
            await self._open.close()
        if self._bare is not None:
            await self._bare.close()

    def _without_encoders(self) -> Sensing:
        from deepwell.media.space.options import SenseModels, SensingLimits
        from deepwell.media.space.process import Sensing

        return Sensing(SenseModels(safety=self._safety()), SensingLimits(self._options.threads))

    def _safety(self) -> Path | None:
        from deepwell.media.images.options import find_safety
        from deepwell.models.store.store import ModelStore

        options = self._options
        return find_safety(ModelStore(options.models_dir or Path(os.devnull)), options.guard)

    def _found(self) -> Sensing:
        from deepwell.media.space.options import SensingLimits
        from deepwell.media.space.process import open_sensing

        options = self._options
        models_dir = options.models_dir or Path(os.devnull)
        return open_sensing(models_dir, self._safety(), SensingLimits(options.threads))
