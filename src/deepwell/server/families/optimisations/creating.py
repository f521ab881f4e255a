"""`create_optimisation`: the checks of a new search, and its job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.dialogue.prompts.content import decode_content
from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.server.access.auth import InsufficientScope
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.fine_tuning.creating import TuningUnavailable
from deepwell.server.families.fine_tuning.works.following import base_model
from deepwell.server.families.fine_tuning.works.optimising import search_config
from deepwell.server.families.optimisations.schema import OptimisationRequest
from deepwell.storage.files import StoredFile
from deepwell.storage.jobs import Job
from deepwell.storage.registry.prompts import StoredPrompt
from deepwell.storage.tuning.works import OPTIMISE_JOB, WorkPayload
from deepwell.tuning.prompts.worker import check_search

__all__ = ["create_optimisation"]

_FILES = ("data_file", "held_out_file")
_MOST_BYTES = (
    16 << 20
)  # of a file of rows: it is read as a whole before the job is made, and takes many times that


async def create_optimisation(
    context: ServerContext, principal: Principal, body: OptimisationRequest, checking: asyncio.Lock
) -> Job:
    """Checks a request and queues the search.

    Args:
        checking: held while rows are read, so that those of one request at a time are in memory.

    Raises:
        InsufficientScope: the key may not change prompts.
        TuningUnavailable: the server was started to train nothing.
        ModelNotFound, InvalidRequest: the model cannot be asked, or rows or grader cannot be used.
        NotFound: the tenant has no such prompt or file.
        TooManyWorks: it has too many searches that have not ended.
    """
    state, tenant = context.state, principal.tenant
    if principal.key_id and not principal.may("files"):
        raise InsufficientScope("a search changes a prompt", fix="use a key with the scopes tuning and files")
    if not context.options.tuning.jobs:
        raise TuningUnavailable.of("fine_tuning_off")
    _check_values(body.metric)
    number = None if body.prompt.version is None else int(body.prompt.version)
    start = await _prompt(context, principal, body.prompt.id, number)
    await base_model(context, tenant, body.model)
    asked = body.model_dump()
    asked["prompt"]["version"] = str(start.number)
    data = await _file(context, principal, body.data_file, "data_file")
    held_out = None
    if body.held_out_file is not None:
        held_out = await _file(context, principal, body.held_out_file, "held_out_file")
    paths = [await state.files.local(one.sha256) for one in (data, held_out) if one is not None]
    config = search_config(asked, decode_content(start.body).text, *map(str, (*paths, "")[:2]))
    try:
        async with checking:
            await asyncio.to_thread(check_search, config)
    except DeepwellError as error:
        raise _named(error, paths, body) from None
    names = tuple(one.id for one in (data, held_out) if one is not None)
    job = await state.works.create(tenant, OPTIMISE_JOB, WorkPayload(asked, names, principal.key_id))
    state.wake(OPTIMISE_JOB)
    return job


async def _prompt(context: ServerContext, principal: Principal, id: str, number: int | None) -> StoredPrompt:
    try:
        return await context.state.prompts.get(principal.tenant, id, number)
    except NotFound as error:
        error.param = "prompt.id" if number is None else "prompt.version"
        raise


async def _file(context: ServerContext, principal: Principal, id: str, param: str) -> StoredFile:
    try:
        file = await context.state.files.get(principal.tenant, id)
    except NotFound as error:
        error.param = param
        raise
    if file.bytes > _MOST_BYTES:
        raise InvalidRequest(
            f"the file {id!r} has {file.bytes} bytes, and rows may have {_MOST_BYTES}",
            fix="send fewer rows",
            param=param,
        )
    return file


def _check_values(metric: str | dict[str, Any]) -> None:
    """Checks that a metric can be kept: half of a surrogate pair is no text, and an infinite number no JSON.

    Raises:
        InvalidRequest: it cannot.
    """
    try:
        json.dumps(metric, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise InvalidRequest(
            "'metric' has half of a surrogate pair, or a number that is not finite",
            fix="send whole characters and finite numbers",
            param="metric",
        ) from None


def _named(error: DeepwellError, paths: Sequence[Path], body: OptimisationRequest) -> InvalidRequest:
    """Returns an error about rows with the ids of files in the places of their paths."""
    key, values = error.texts
    of_metric = (error.param or "").partition(".")[0] == "metric"
    param = error.param if of_metric else "data_file"
    for path, id, name in zip(paths, (body.data_file, body.held_out_file), _FILES, strict=False):
        if str(path) in error.message:
            param = name
        values = {one: str(id) if str(value) == str(path) else value for one, value in values.items()}
    told: dict[str, Any] = values
    made = InvalidRequest.of(key, **told) if key else InvalidRequest(error.message, fix=error.fix)
    made.code, made.param = "invalid_rows" if param in _FILES else None, param
    return made
