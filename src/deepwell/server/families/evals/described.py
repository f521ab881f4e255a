"""Evaluations, runs and items as the API shows them."""

from __future__ import annotations

import msgspec

from deepwell.server.families.evals.bodies import Eval, EvalError, EvalItem, EvalRun, ResultCounts
from deepwell.server.families.evals.summary import ItemBody, RunSummary, summed
from deepwell.server.state import State
from deepwell.storage.database import Tenant
from deepwell.storage.tuning.evals import OutputItem, RunCounts, StoredEval, StoredRun, metadata_of

__all__ = ["eval_body", "item_body", "run_body"]

_decode = msgspec.json.decode


def eval_body(stored: StoredEval) -> Eval:
    """Returns an evaluation."""
    return Eval(
        id=stored.id,
        name=stored.name,
        created_at=stored.created_at,
        data_source_config=_decode(stored.data_source_config),
        testing_criteria=_decode(stored.testing_criteria),
        metadata=metadata_of(stored.metadata),
    )


async def run_body(state: State, tenant: Tenant, run: StoredRun, url: str) -> EvalRun:
    """Returns a run. `url`: address of the server's pages."""
    counts: RunCounts = (await state.evals.counts(tenant, [run.id]))[run.id]
    if run.summary is not None:
        summary = _decode(run.summary, type=RunSummary)
    else:
        summary = await summed(state.evals.bodies(tenant, run.id))
    return EvalRun(
        id=run.id,
        eval_id=run.eval_id,
        name=run.name,
        created_at=run.created_at,
        status=run.status,
        model=run.model,
        data_source=_decode(run.data_source),
        metadata=metadata_of(run.metadata),
        error=EvalError() if run.error is None else _decode(run.error, type=EvalError),
        report_url=f"{url}#/jobs/{run.id}",
        result_counts=ResultCounts(counts.errored, counts.failed, counts.passed, counts.total),
        per_model_usage=summary.per_model_usage,
        per_testing_criteria_results=summary.per_testing_criteria_results,
    )


def item_body(run: StoredRun, item: OutputItem) -> EvalItem:
    """Returns an item of a run."""
    body = _decode(item.body, type=ItemBody)
    return EvalItem(
        id=item.id,
        created_at=item.created_at,
        datasource_item=body.item,
        datasource_item_id=item.number,
        eval_id=run.eval_id,
        run_id=run.id,
        results=body.results,
        sample=body.sample,
        status=item.status,
    )
