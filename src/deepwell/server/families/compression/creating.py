"""`create_compression`: the checks of a new compression, and its job."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.catalog import shipped_catalog
from deepwell.models.store.store import ModelStore
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.compression.schema import CompressionRequest
from deepwell.server.families.fine_tuning.creating import TuningUnavailable, missing_packages
from deepwell.server.families.fine_tuning.works.compressing import StoreUnavailable, options_of
from deepwell.server.families.fine_tuning.works.following import base_model
from deepwell.storage.jobs import Job
from deepwell.storage.tuning.works import COMPRESS_JOB, WorkPayload
from deepwell.tuning.compress.worker import check_compressible

__all__ = ["create_compression"]

_MOST_TEXT_BYTES = 64 << 20
_MOST_HELD_OUT_BYTES = 4 << 20


async def create_compression(context: ServerContext, principal: Principal, body: CompressionRequest) -> Job:
    """Checks a request and queues the compression.

    Raises:
        TuningUnavailable: the packages are not installed, or the server was started to train nothing.
        StoreUnavailable: the server has no model store.
        ModelNotFound, UnsupportedModel, InvalidRequest: the donor cannot be compressed so, or the name is taken.
        NotFound: the tenant has no such file.
        TooManyWorks: it has too many compressions that have not ended.
    """
    options, state, tenant = context.options.tuning, context.state, principal.tenant
    if not options.jobs:
        raise TuningUnavailable.of("fine_tuning_off")
    if options.command is None and (missing := missing_packages()):
        raise TuningUnavailable.of("fine_tuning_no_torch", packages=", ".join(missing))
    catalog = context.options.catalog
    if catalog is None:
        raise StoreUnavailable.of("compression_no_store")
    model = await base_model(context, tenant, body.model)
    asked: dict[str, Any] = body.model_dump()
    if model.codec.path is not None:
        await asyncio.to_thread(_check_donor, model.codec.path, asked)
    if body.name is not None:
        taken = {one.model.name for one in context.served} | {*shipped_catalog(), *catalog.entries}
        store = ModelStore(catalog.settings.models_dir)
        if body.name in taken or await asyncio.to_thread(store.is_taken, body.name):
            raise InvalidRequest.of("compression_name", name=body.name, param="name")
        if any(one["name"] == body.name for one in await state.works.open_requests(COMPRESS_JOB)):
            raise InvalidRequest.of("compression_name_waiting", name=body.name, param="name")
    for id, param, most in (
        (body.text_file, "text_file", _MOST_TEXT_BYTES),
        (body.held_out_file, "held_out_file", _MOST_HELD_OUT_BYTES),
    ):
        if id is not None:
            await _check_file(context, principal, id, param, most)
    names = tuple(id for id in (body.text_file, body.held_out_file) if id is not None)
    job = await state.works.create(tenant, COMPRESS_JOB, WorkPayload(asked, names, principal.key_id))
    state.wake(COMPRESS_JOB)
    return job


def _check_donor(path: Path, asked: dict[str, Any]) -> None:
    """Checks by the headers of a donor that it can be compressed so. Blocks."""
    try:
        check_compressible(open_checkpoint(path).config, options_of(asked))
    except DeepwellError as error:
        error.param = "model" if error.param in (None, "model") else f"{asked['method']}.{error.param}"
        raise


async def _check_file(context: ServerContext, principal: Principal, id: str, param: str, most: int) -> None:
    try:
        file = await context.state.files.get(principal.tenant, id)
    except NotFound as error:
        error.param = param
        raise
    if not 0 < file.bytes <= most:
        raise InvalidRequest(
            f"the file {id!r} has {file.bytes} bytes, and text may have {most}",
            fix="send text in UTF-8, and less of it" if file.bytes else "send text in UTF-8",
            param=param,
        )
