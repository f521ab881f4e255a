"""The stores that the server keeps between requests, over one database."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from deepwell.storage.agents import AgentStore
from deepwell.storage.aliases import AliasStore
from deepwell.storage.batches import BatchStore
from deepwell.storage.blobs import BlobPlace, open_blobs
from deepwell.storage.completions import CompletionStore
from deepwell.storage.conversations import ConversationStore
from deepwell.storage.database import Database
from deepwell.storage.files import FileStore
from deepwell.storage.jobs import JobStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.registry.prompts import PromptStore
from deepwell.storage.responses import ResponseStore
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.tuning.evals import EvalStore
from deepwell.storage.tuning.fine_tuning import FineTuningStore
from deepwell.storage.tuning.training import TrainingStore
from deepwell.storage.tuning.works import WorkStore
from deepwell.storage.uploads import UploadStore

__all__ = ["State"]


class State:
    """The stores.

    Attributes:
        folder: directory of the files.
        owner: name of this process in leases, which no other process ever has.
        wakes: by kind of job, tells what claims such jobs in this process that one was queued.
    """

    def __init__(
        self,
        database: Database,
        folder: Path | None = None,
        anchors: Anchors | None = None,
        blobs: BlobPlace | None = None,
    ) -> None:
        """Opens the stores over `database`.

        Args:
            folder: directory of the files; None: they are temporary and gone with the state.
            blobs: bucket of the files, of which the folder then has copies.
        """
        self.database = database
        self.owner = f"{os.uname().nodename[:40]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._folder = None
        if folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="deepwell-files-", ignore_cleanup_errors=True)
            folder = Path(self._folder.name)
        self.folder = folder
        self.jobs = JobStore(database)
        self.files = FileStore(database, open_blobs(folder, blobs))
        self.uploads = UploadStore(database, self.files)
        self.batches = BatchStore(database, self.files)
        self.responses = ResponseStore(database)
        self.conversations = ConversationStore(database)
        self.completions = CompletionStore(database)
        self.knowledge = KnowledgeStorage(database)
        self.aliases = AliasStore(database, anchors)
        self.tunings = FineTuningStore(database, self.files)
        self.training = TrainingStore(database, self.files)
        self.works = WorkStore(database)
        self.evals = EvalStore(database, self.files)
        self.agents = AgentStore(database)
        self.prompts = PromptStore(database)
        self.wakes: dict[str, Callable[[], None]] = {}

    def wake(self, kind: str) -> None:
        """Tells this process that a job was queued, which it would find by itself within a second."""
        if kind in self.wakes:
            self.wakes[kind]()

    def close(self) -> None:
        """Closes the database, and removes the files if they are temporary."""
        self.database.close()
        if self._folder is not None:
            self._folder.cleanup()
