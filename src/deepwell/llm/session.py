"""`Session`: an open model and the private event loop on which its requests run."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.opening import OpenedModel, Planned, open_model, plan_model
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.llm.arguments import Options
from deepwell.llm.wording import in_python
from deepwell.messages import nearest
from deepwell.settings import Settings

if TYPE_CHECKING:
    from deepwell.engine.core.loop import InProcessEngine
    from deepwell.engine.encoder.loop import EncoderEngine

__all__ = ["Session", "plan"]

T = TypeVar("T")
_OWN = "deepwell"  # the names of Deepwell's threads begin with it


def plan(model: str | PathLike[str] | None, options: Options) -> Planned:
    """Finds a model and plans its memory, for the arguments of a constructor.

    Raises:
        InvalidRequest: an argument is unknown.
        InvalidSettings: an argument, or a setting of the file or the environment, cannot be used.
        ModelNotFound, InsufficientMemory, InvalidModelFile, UnsupportedModel: see `plan_model`.
    """
    try:
        for name in options:
            if name not in Options.__annotations__:
                right = nearest(name, Options.__annotations__)
                known = ", ".join(Options.__annotations__)
                fix = f"did you mean {right!r}?" if right else f"use some of {known}"
                raise InvalidRequest(f"there is no argument {name!r}", fix=fix, param=name)
        return plan_model(Settings.load(model=None if model is None else os.fspath(model), **options))
    except DeepwellError as error:
        raise in_python(error) from None


class Session:
    """A model that is being opened, or is open, with a thread for its event loop.

    It knows nothing of the object that users hold, so that the object can be collected while requests run.

    Attributes:
        name: name of the model.
        memory: the plan that the model was opened with.
        most_context: the largest context that the model can have.
    """

    def __init__(self, planned: Planned) -> None:
        self.name = planned.name
        self.memory = planned.memory
        self.most_context = planned.checkpoint.config.max_position_embeddings
        self._planned: Planned | None = planned  # until it is open: what is known of the file takes megabytes
        self._process = os.getpid()
        self._ids = itertools.count()
        self._opened: OpenedModel | None = None
        self._model: ServedModel | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        # asyncio's own pool cannot be shut down while the interpreter exits, because that takes another thread.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix=f"{_OWN}-llm")
        self._loop.set_default_executor(self._pool)
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=f"{_OWN}-llm", daemon=True)
        self._thread.start()

    def open(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Loads the model, on the calling thread.

        Raises:
            MissingDependency, InvalidModelFile, UnsupportedModel: as the loaders say.
        """
        planned, self._planned = self._planned, None
        assert planned is not None
        try:
            opened = open_model(planned, progress)
        except DeepwellError as error:
            raise in_python(error) from None
        with self._closing:
            self._opened = opened
            if not self._closed:
                self._model = ServedModel(opened.name, opened.engine, opened.codec, defaults=opened.defaults)
                return
        self._release()  # nobody waits for it any more

    @property
    def model(self) -> ServedModel:
        """The open model.

        Raises:
            DeepwellError: it is closed, or not open yet.
        """
        if self._model is None and not self._closed:
            raise DeepwellError(f"{self.name} is not open yet", fix="await open() first")
        if self._model is None or self._closed:
            raise self._is_closed()
        return self._model

    @property
    def engine(self) -> InProcessEngine | EncoderEngine:
        """The engine of the open model."""
        return cast("InProcessEngine | EncoderEngine", self.model.engine)

    def next_id(self) -> str:
        """Returns an id for a call that no other call of the model has."""
        return f"llm-{next(self._ids)}"

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts work on the private loop. Cancelling the future cancels the work.

        Raises:
            DeepwellError: the model is closed, or belongs to the process that this one was forked from.
        """
        if self._closed:
            work.close()
            raise self._is_closed()
        if os.getpid() != self._process:  # a fork has none of the threads, and would wait for ever
            work.close()
            raise DeepwellError(
                f"{self.name} was opened in another process, of which this one is a fork",
                fix="open it here, or start processes with multiprocessing's 'spawn'",
            )
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:  # Ctrl-C, which may come when the work has begun and nobody has its future yet
            self._loop.call_soon_threadsafe(_give_up, work)
            raise

    def run_in_pool(self, work: Callable[[], T]) -> Future[T]:
        """Starts blocking work on a thread of the session."""
        return self._pool.submit(work)

    def close(self) -> None:
        """Aborts all requests, and ends the threads and child processes of the model. Closing twice is harmless."""
        if os.getpid() != self._process:
            return  # a fork has none of the threads
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with suppress(RuntimeError):  # raised if the loop is closed
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=True)
        self._loop.close()
        self._release()

    def _release(self) -> None:
        """Ends the processes of texts and the engine, if there are any."""
        if self._model is not None:
            self._model.end_texts()
        if self._opened is not None:
            self._opened.close()
        self._model = self._opened = None

    def _is_closed(self) -> DeepwellError:
        return DeepwellError(f"{self.name} is closed", fix="open it again")

    def finalize(self) -> None:
        """Closes the session when its owner was collected, which may happen on any thread, or when the interpreter exits."""
        if threading.current_thread().name.startswith(_OWN) and not sys.is_finalizing():
            # A thread cannot wait for its own end.
            threading.Thread(target=self.close, name="closing-llm").start()
        else:
            self.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _give_up(work: Coroutine[Any, Any, Any]) -> None:
    """Cancels the task of work that nobody waits for. Called on the work's loop."""
    tasks = [task for task in asyncio.all_tasks() if task.get_coro() is work]
    for task in tasks:
        task.cancel()
    if not tasks:  # it was never begun, or has ended
        work.close()


async def _cancel_all() -> None:
    """Cancels all other work of the loop and waits for its end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
