"""Erasure of a file takes the jobs, models and runs that were made from it, on SQLite and PostgreSQL."""

import sqlalchemy as sa
from tests.storage.conftest import database, kind, opened, postgres  # noqa: F401
from tests.storage.test_fine_tuning import Stores

from deepwell.safety.privacy.trained import drop_runs, erase_trained
from deepwell.storage.database import Tenant
from deepwell.storage.tables import eval_runs, fine_tuned_models, fine_tuning_jobs, jobs
from deepwell.storage.tuning.evals import EvalStore, StoredEval, StoredRun
from deepwell.storage.tuning.training import NewModel

A = Tenant("a")


async def test_what_was_made_from_a_file_goes_with_it(database, tmp_path):  # noqa: F811
    stores = Stores(database, tmp_path / "files")
    file, other = await stores.upload(), await stores.upload()
    job = await stores.create(A, file)
    claimed = await stores.claim()
    await stores.training.begin(claimed)
    draft = stores.draft(b"step\n")
    await stores.training.succeed(
        claimed, [NewModel("ft:toy:s:1", "adapter")], trained_tokens=1, results=draft
    )
    draft.discard()
    kept = await stores.create(A, other)
    evals = EvalStore(database, stores.files)
    await evals.create(A, StoredEval("eval_1", "e", "{}", "[]", None, 1))
    for number, one in enumerate((file, other)):
        source = f'{{"source": {{"type": "file_id", "id": "{one.id}"}}}}'
        run = StoredRun(f"evalrun_{number}", "eval_1", "r", "queued", "", source, None, None, 1)
        await evals.create_run(A, run, file_id=one.id)
    counts, hashes = await database.write(lambda connection: erase_trained(connection, A, file.id))
    assert (counts["fine_tuning_jobs"], counts["fine_tuned_models"], counts["eval_runs"]) == (1, 1, 1)
    assert file.sha256 in hashes

    def left(connection):
        tables = (fine_tuning_jobs, fine_tuned_models, eval_runs, jobs)
        return [sorted(connection.scalars(sa.select(table.c[_name(table)]))) for table in tables]

    assert await database.read(left) == [[kept.id], [], ["evalrun_1"], sorted([kept.id, "evalrun_1"])]
    for name in (job.id, kept.id):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert drop_runs(tmp_path / "runs", {kept.id}) == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [kept.id]


def _name(table):
    return "name" if table is fine_tuned_models else "id"
