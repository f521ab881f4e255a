"""An erasure whose process is killed is finished by the next one."""

import json
import os
import subprocess
import sys

import sqlalchemy as sa

from deepwell.storage.completions import StoredCompletion
from deepwell.storage.database import Database
from deepwell.storage.tables import completion_metadata, completions, jobs

ROWS = 4000


def test_a_killed_erasure_is_finished_by_the_next_and_counts_every_row(tmp_path):
    env = {**os.environ, "DEEPWELL_HOME": str(tmp_path), "DEEPWELL_DATA_DIR": str(tmp_path / "data")}
    path = tmp_path / "data" / "deepwell.db"
    command = [sys.executable, "-m", "deepwell", "privacy", "erase", "--tenant", "gone", "--yes", "--json"]
    subprocess.run(
        [*command[:-3], "nobody", "--yes"], env=env, check=True, capture_output=True
    )  # makes the database
    database = Database.open(path)
    try:
        row = StoredCompletion("", 1, "m", "[]", json.dumps({"text": "a secret " * 100}))
        values = {
            "tenant": "gone",
            "created_at": 1,
            "model": "m",
            "metadata": "{}",
            "messages": "[]",
            "body": row.body,
        }
        rows = [{**values, "id": f"chatcmpl-{number}"} for number in range(ROWS)]
        database.write_now(lambda connection: connection.execute(sa.insert(completions), rows).rowcount)
        labels = [{"seq": seq, "key": "k", "value": "secret"} for seq in range(1, ROWS + 1)]
        database.write_now(
            lambda connection: connection.execute(sa.insert(completion_metadata), labels).rowcount
        )
        left = sa.select(sa.func.count()).select_from(completions)
        running = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while database.read_now(lambda connection: connection.execute(left).scalar_one()) == ROWS:
            assert running.poll() is None
        running.kill()
        running.wait()
        count = database.read_now(lambda connection: connection.execute(left).scalar_one())
        assert 0 < count < ROWS
        assert database.read_now(
            lambda connection: connection.execute(sa.select(jobs.c.status)).scalars().all()
        ) == ["running"]
    finally:
        database.close()
    done = json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    assert done["counts"] == {"completions": ROWS, "audit_chains": 1}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"a secret" in path.read_bytes()]
