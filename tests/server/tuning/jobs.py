"""A server that fine-tunes with the stand-in program, for tests."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from tests.server.conftest import Live, start
from tests.server.fakes import TEMPLATE, FakeEngine, make_service
from tests.waiting import until

from deepwell.dialogue.text import Codec
from deepwell.server.options import FileOptions, TuningOptions
from deepwell.storage.database import Database

COMMAND = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
TEMPLATE_HASH = hashlib.sha256(TEMPLATE.encode()).hexdigest()
LINES = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}]


@contextmanager
def tuning_server(codec: Codec, folder: Path, **options: Any) -> Iterator[Live]:
    """A server whose database, files and runs lie in `folder`, so that another one can go on with them."""
    engine = FakeEngine()
    service = make_service(
        engine,
        codec,
        model="toy",
        database=Database.open(folder / "deepwell.db"),
        files=FileOptions(folder=folder / "files", job_lease_s=2.0),
        tuning=TuningOptions(folder=folder / "runs", command=COMMAND),
        **options,
    )
    live = start(service, engine)
    try:
        yield live
    finally:
        live.stop()


def client_of(live: Live, key: str = "none") -> OpenAI:
    """The real SDK, which refuses a response that is not what OpenAI documents."""
    return OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0, _strict_response_validation=True)


def upload(client: OpenAI, *words: str, purpose: Any = "fine-tune") -> str:
    """Uploads conversations; `words` are what the user says in further ones."""
    said = [
        {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "ok"}]}
        for word in words
    ]
    data = "".join(json.dumps(line) + "\n" for line in [*LINES, *said])
    return client.files.create(file=("train.jsonl", data.encode()), purpose=purpose).id


def ended(client: OpenAI, id: str) -> FineTuningJob:
    """Returns a job once it has ended."""
    return job_once(client, id, lambda job: job.status in ("succeeded", "failed", "cancelled"))


def job_once(client: OpenAI, id: str, holds: Callable[[FineTuningJob], bool]) -> FineTuningJob:
    """Returns a job once something holds for it."""
    return until(lambda: client.fine_tuning.jobs.retrieve(id), holds)
