"""The checks of new evaluations and runs."""

from __future__ import annotations

from typing import Any

import msgspec

from deepwell.errors import InvalidRequest, NotFound
from deepwell.server.access.principal import Principal
from deepwell.server.context import ServerContext
from deepwell.server.families.batches.owner import payload_of
from deepwell.server.families.evals.rows import MAX_FILE_BYTES, check_row, check_rows, required_of
from deepwell.server.families.evals.sampling import check_messages
from deepwell.server.families.evals.schema import (
    EvalRequest,
    EvalRunRequest,
    FileContent,
    FileId,
    RowsSource,
    SampledSource,
)
from deepwell.server.families.graders.routes import check_models
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.evals import EVAL_JOB, StoredEval, StoredRun, new_id
from deepwell.tuning.evaluate.graders import Multi, TextSimilarity, parse_grader

__all__ = ["create_eval", "create_run"]

_encode = msgspec.json.encode
_SAMPLE_SCHEMA = {
    "type": "object",
    "properties": {"output_text": {"type": "string"}, "choices": {"type": "array"}},
    "required": ["output_text"],
}


async def create_eval(context: ServerContext, tenant: Tenant, body: EvalRequest) -> StoredEval:
    """Checks graders and makes an evaluation.

    Raises:
        InvalidRequest: a grader cannot be used; python graders never are. The parameter names it.
        ModelNotFound: a grader asks a model that is not served.
    """
    names: set[str] = set()
    for number, given in enumerate(body.testing_criteria):
        param = f"testing_criteria[{number}]"
        grader = parse_grader(given, param=param)
        if isinstance(grader, Multi):
            raise InvalidRequest(
                "multi graders belong to reinforcement tuning",
                fix="give each of its graders as a criterion",
                param=f"{param}.type",
            )
        if isinstance(grader, TextSimilarity) and grader.pass_threshold is None:
            raise InvalidRequest(
                f"{param} has no pass_threshold",
                fix="say which similarity passes",
                param=f"{param}.pass_threshold",
            )
        if grader.name in names:
            raise InvalidRequest(
                f"two criteria are called {grader.name!r}",
                fix="give each a name of its own",
                param=f"{param}.name",
            )
        names.add(grader.name)
        await check_models(context, grader, tenant)
    config = body.data_source_config
    properties: dict[str, Any] = {"item": config.item_schema}
    if config.include_sample_schema:
        properties["sample"] = _SAMPLE_SCHEMA
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    id = new_id("eval")
    made = StoredEval(
        id=id,
        name=body.name or id,
        data_source_config=_encode({"type": "custom", "schema": schema}).decode(),
        testing_criteria=_encode(body.testing_criteria).decode(),
        metadata=None if body.metadata is None else _encode(body.metadata).decode(),
        created_at=int(shared_time()),
    )
    return await context.state.evals.create(tenant, made)


async def create_run(
    context: ServerContext, principal: Principal, eval_id: str, body: EvalRunRequest
) -> StoredRun:
    """Checks data and model, and makes a run.

    Raises:
        NotFound: the tenant has no such evaluation or file.
        InvalidRequest: a row is not as the evaluation says, or a template cannot be read.
        ModelNotFound: the model is not served.
        TooManyRuns: the tenant has too many that have not ended.
    """
    state, tenant = context.state, principal.tenant
    stored = await state.evals.get(tenant, eval_id)
    schema: dict[str, Any] = msgspec.json.decode(stored.data_source_config)["schema"]
    required = required_of(schema["properties"]["item"])
    source = body.data_source
    if isinstance(source, SampledSource):
        await context.generator(source.model, tenant)
        check_messages(source)
    file_id = await _check_rows(context, tenant, source.source, required)
    id = new_id("evalrun")
    run = StoredRun(
        id=id,
        eval_id=eval_id,
        name=body.name or id,
        status="queued",
        model=source.model if isinstance(source, SampledSource) else "",
        data_source=_encode(source.model_dump(exclude_none=True)).decode(),
        source_sha256=None,
        metadata=None if body.metadata is None else _encode(body.metadata).decode(),
        created_at=int(shared_time()),
    )
    run = await state.evals.create_run(tenant, run, file_id=file_id, payload=payload_of(principal))
    state.wake(EVAL_JOB)
    return run


async def _check_rows(
    context: ServerContext, tenant: Tenant, source: RowsSource, required: tuple[str, ...]
) -> str | None:
    """Checks the rows of a source. Returns the id of its file, if it has one."""
    param = "data_source.source"
    if isinstance(source, FileContent):
        for number, row in enumerate(source.content):
            place = f"{param}.content[{number}]"
            check_row({"item": row.item, "sample": row.sample}, required, place, place)
        return None
    assert isinstance(source, FileId)
    try:
        file = await context.state.files.get(tenant, source.id)
    except NotFound as error:
        error.param = f"{param}.id"
        raise
    if file.bytes > MAX_FILE_BYTES:
        raise InvalidRequest(
            f"the file {file.id!r} has {file.bytes} bytes",
            fix=f"split it into files of at most {MAX_FILE_BYTES}",
            param=f"{param}.id",
        )
    path = await context.state.files.local(file.sha256)
    await context.readers.call(tenant, check_rows, path, required, f"{param}.id")
    return file.id
