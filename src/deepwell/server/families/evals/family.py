"""The family of evaluations."""

from __future__ import annotations

from deepwell.server.families.evals.bodies import (
    Eval,
    EvalDeleted,
    EvalItem,
    EvalItemList,
    EvalList,
    EvalRun,
    EvalRunDeleted,
    EvalRunList,
)
from deepwell.server.families.evals.routes import EVAL, EVALS, ITEMS, RUN, RUNS, router
from deepwell.server.families.evals.schema import EvalRequest, EvalRunRequest, EvalUpdateRequest
from deepwell.server.families.evals.worker import eval_worker
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


FAMILY = Family(
    Declaration(
        (
            Operation("post", EVALS, Eval, request=EvalRequest),
            Operation("get", EVALS, EvalList),
            Operation("get", EVAL, Eval),
            Operation("post", EVAL, Eval, request=EvalUpdateRequest),
            Operation("delete", EVAL, EvalDeleted),
            Operation("post", RUNS, EvalRun, request=EvalRunRequest),
            Operation("get", RUNS, EvalRunList),
            Operation("get", RUN, EvalRun),
            Operation("post", RUN, EvalRun),
            Operation("post", f"{RUN}/cancel", EvalRun),
            Operation("delete", RUN, EvalRunDeleted),
            Operation("get", ITEMS, EvalItemList),
            Operation("get", f"{ITEMS}/{{output_item_id}}", EvalItem),
        ),
        scope="tuning",
    ),
    router,
    worker=eval_worker,
)
