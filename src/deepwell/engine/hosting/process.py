"""`ProcessEngine`: the `Engine` protocol for an engine in a process of its own, over a Unix socket.

`python -m deepwell.engine.hosting.process FD` runs that process (see `host`). The parent owns the listening socket, so
requests can wait on it for the next process when one ends.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from deepwell.engine.hosting.host import Kept, Launch, main
from deepwell.engine.hosting.wire import (
    MAX_ANSWER_BYTES,
    Abort,
    Adapters,
    Done,
    Embed,
    Generate,
    Hello,
    LoadAdapter,
    Prepare,
    Rows,
    Score,
    Step,
    UnloadAdapter,
    decode_answer,
    delta_of,
    encode_request,
)
from deepwell.engine.protocol import (
    AdapterInfo,
    Capabilities,
    Delta,
    EngineStats,
    GenerateRequest,
    Grammar,
    Window,
)
from deepwell.engine.streams import DeltaStream, Mailbox, deliver
from deepwell.errors import DeepwellError, EngineRestarted, EngineUnavailable, InvalidRequest
from deepwell.process.channel import FramedChannel
from deepwell.process.frames import Failure, Frames, encode, error_of
from deepwell.process.supervisor import STEP_S, Supervisor

__all__ = ["EngineProcess", "ProcessEngine", "private_folder"]

WAIT_S: Final = 30.0  # longest wait of a request for the next engine
MAX_SENDS: Final = 3  # sends per request, so that a request that crashes every engine is not retried for ever
_RETRY_S: Final = 0.1
_RECEIVE_BYTES: Final = 1 << 18
_FOLDER = "deepwell-engine-"


class EngineProcess:
    """The supervised engine process and the socket that it answers on.

    Args:
        factory: "module:function" that makes the engine in the process.
        arguments: keyword arguments of the factory, which msgpack must be able to encode.
        timeout_s: a process that has not answered its parent for this long is killed.
        step_timeout_s: a process whose engine has work and finishes no step for this long is killed.
        on_progress: called with parts loaded and total parts, on the supervisor's thread.

    Raises:
        EngineUnavailable: the socket cannot be made.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        *,
        factory: str = "deepwell.engine.hosting.host:open_hosted",
        timeout_s: float = 10.0,
        step_timeout_s: float = STEP_S,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._folder = private_folder()
        self.address = str(self._folder / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(self.address)
        except OSError as error:
            self._listener.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise EngineUnavailable(
                f"no socket can be made at {self.address}: {error}", fix="set TMPDIR to a short path"
            ) from None
        self._listener.listen(1024)
        self._factory = factory
        self._arguments = dict(arguments)
        self._adapters: list[Kept] = []
        self.supervisor = Supervisor(
            "engine",
            "deepwell.engine.hosting.process",
            self._launch,
            descriptors=(self._listener.fileno(),),
            timeout_s=timeout_s,
            step_timeout_s=step_timeout_s,
            on_report=self._keep,
            on_progress=on_progress,
        )
        self.supervisor.start()
        atexit.register(self.stop)

    def _launch(self, restarts: int) -> bytes:
        launch = Launch(self._factory, self._arguments, self._listener.fileno(), restarts, self._adapters)
        return msgspec.msgpack.encode(launch)

    def _keep(self, payload: bytes) -> None:
        self._adapters = msgspec.msgpack.decode(payload, type=list[Kept])

    def stop(self) -> None:
        """Ends the process and removes its socket. Stopping twice is harmless."""
        self.supervisor.stop()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.stop)


def private_folder() -> Path:
    """Makes a folder for the sockets of this process, which nobody else may enter. Its maker removes it.

    The folders of processes that were killed are removed here.
    """
    _sweep()
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))  # mode 0700


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True, eq=False)
class _Call:
    """An unanswered request: its frame, and the receiver of the answer."""

    frame: bytes  # dropped once an answer begins, because it is then never sent again
    sink: Mailbox | asyncio.Future[Any]
    request_id: str = ""
    begun: bool = False
    aborted: bool = False
    sends: int = 0

    def fail(self, error: DeepwellError) -> None:
        if isinstance(self.sink, Mailbox):
            self.sink.fail(error)
        elif not self.sink.done():
            self.sink.set_exception(error)


@dataclass(slots=True)
class _Known:
    """The last state that the engine reported."""

    pid: int
    capabilities: Capabilities
    stats: EngineStats
    version: int = 0
    adapters: tuple[AdapterInfo, ...] = ()

    def adapters_are(self, message: Adapters) -> None:
        if message.version >= self.version:
            self.version, self.adapters = message.version, message.adapters


class _Link:
    """The connection of one event loop. It is used only on that loop's thread."""

    def __init__(self, engine: ProcessEngine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._by_id: dict[str, int] = {}
        self._channel: FramedChannel | None = None
        self._given_up = False  # there was no engine for a long time, so requests fail at once
        self._giving_up: asyncio.TimerHandle | None = None
        self._closed = False
        self._ready = False  # an engine has sent its greeting
        self.available = False  # the engine that greeted has not been lost
        if (talk := engine.take_greeted()) is not None:
            self._listen(talk.socket, talk.frames)
            self._ready = self.available = True
        else:
            self._connect()

    def submit(self, call: _Call, message_of: Callable[[int], msgspec.Struct]) -> int:
        """Sends a request, or keeps it until there is an engine. Returns its number."""
        if call.request_id in self._by_id:
            raise InvalidRequest(
                f"request id {call.request_id!r} is in use",
                fix="give each request its own",
                param="request_id",
            )
        if self._given_up:
            raise self._unavailable()
        number = next(self._numbers)
        call.frame = encode_request(message_of(number))
        self._calls[number] = call
        if call.request_id:
            self._by_id[call.request_id] = number
        if self._ready:
            self._send_call(call)
        return number

    def abort(self, number: int) -> None:
        """Aborts a request. If no engine is connected, it ends at once."""
        call = self._calls.get(number)
        if call is None:
            return
        call.aborted = True
        if self._ready:
            self._write(encode(Abort(number)))
        if isinstance(call.sink, asyncio.Future):  # its caller no longer waits
            self._forget(number, call)
        elif not self._ready:
            self._end_aborted(number, call)

    def abort_id(self, request_id: str) -> None:
        """Aborts a request by its id."""
        number = self._by_id.get(request_id)
        if number is not None:
            self.abort(number)

    def close(self) -> None:
        """Ends every request."""
        self._closed = True
        self._disconnect()
        if self._giving_up is not None:
            self._giving_up.cancel()
        for number, call in list(self._calls.items()):
            if isinstance(call.sink, Mailbox):
                self._end_aborted(number, call, "the engine is closed")
            else:
                self._forget(number, call)
                call.fail(DeepwellError("the request was aborted: the engine is closed"))

    def drop_socket(self) -> None:
        """Closes the socket after the event loop was closed."""
        if self._channel is not None:
            self._channel.abandon()

    def _end_aborted(self, number: int, call: _Call, why: str = "") -> None:
        self._forget(number, call)
        assert isinstance(call.sink, Mailbox)
        deliver([(call.sink, Delta(call.request_id, (), finish_reason="abort", error=why))])

    def _forget(self, number: int, call: _Call) -> None:
        del self._calls[number]
        self._by_id.pop(call.request_id, None)

    def _unavailable(self) -> EngineUnavailable:
        return EngineUnavailable(
            f"there has been no engine for {self._engine.wait_s:g} seconds: it does not start again",
            fix="see the server's log, and try again later",
        )

    def _connect(self) -> None:
        if self._closed:
            return
        if self._giving_up is None:
            self._giving_up = self._loop.call_later(self._engine.wait_s, self._give_up)
        try:
            sock = _connected(self._engine.address)
        except OSError:
            self._loop.call_later(_RETRY_S, self._connect)
            return
        self._listen(sock, Frames(MAX_ANSWER_BYTES))

    def _listen(self, sock: socket.socket, frames: Frames) -> None:
        self._channel = FramedChannel(
            sock,
            self._loop,
            frames,
            on_body=lambda body: self._take(decode_answer(body)),
            on_end=lambda _why: self._lost(),
        )
        self._channel.listen()

    def _disconnect(self) -> None:
        self._ready = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _lost(self) -> None:
        """Handles the end of the engine. Requests that had begun fail; the others wait for its successor."""
        self._disconnect()
        self.available = False
        for number, call in list(self._calls.items()):
            if call.aborted:
                self._end_aborted(number, call)
            elif call.begun or call.sends >= MAX_SENDS:
                self._forget(number, call)
                what = "had begun" if call.begun else f"was sent {call.sends} times"
                call.fail(
                    EngineRestarted(
                        f"the engine ended while it worked on this request, which {what}; it is being restarted",
                        fix="send the request again",
                    )
                )
        self._connect()

    def _give_up(self) -> None:
        self._given_up = True
        for number, call in list(self._calls.items()):
            self._forget(number, call)
            call.fail(self._unavailable())

    def _send_call(self, call: _Call) -> None:
        call.sends += 1
        self._write(call.frame)

    def _write(self, frame: bytes) -> None:
        if self._channel is not None:
            self._channel.send(frame)

    def _take(self, message: Any) -> None:
        known = self._engine.known
        if isinstance(message, Step):
            mail: list[tuple[Mailbox, Delta]] = []
            for row in message.rows:
                call = self._calls.get(row[0])
                if call is not None and isinstance(call.sink, Mailbox):
                    delta = delta_of(row, call.request_id)
                    if delta.finish_reason is not None:
                        self._forget(row[0], call)
                    elif not call.begun:
                        call.begun, call.frame = True, b""
                    mail.append((call.sink, delta))
            deliver(mail)
            if message.stats is not None:
                known.stats = message.stats
        elif isinstance(message, Hello):
            known.pid, known.capabilities, known.stats = message.pid, message.capabilities, message.stats
            self._ready = self.available = True
            self._given_up = False
            if self._giving_up is not None:
                self._giving_up.cancel()
                self._giving_up = None
            for call in list(self._calls.values()):
                self._send_call(call)
        elif isinstance(message, Adapters):
            known.adapters_are(message)
        else:
            call = self._calls.get(message.number)
            if call is None:
                return
            self._forget(message.number, call)
            if isinstance(message, Failure):
                call.fail(error_of(message))
            elif isinstance(call.sink, asyncio.Future) and not call.sink.done():
                call.sink.set_result(message.data if isinstance(message, Rows) else None)


def _connected(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class ProcessEngine:
    """An engine in another process. Every method may be called from any thread.

    Requests without a token when that process ends are sent to its successor. Streams that have begun, and requests that
    were sent `MAX_SENDS` times, raise `EngineRestarted`. A request waits `wait_s` for a successor and then raises
    `EngineUnavailable`, as do all later requests until there is one.

    Args:
        address: path of the socket.
        process: the process, if this object owns it; `close` then ends it.
        wait_s: see above.

    Raises:
        DeepwellError: the engine cannot start; the error gives the reason.
    """

    def __init__(self, address: str, *, process: EngineProcess | None = None, wait_s: float = WAIT_S) -> None:
        self.address = address
        self.wait_s = wait_s
        self._process = process
        self._lock = threading.Lock()
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}
        self._closed = False
        if process is not None:
            process.supervisor.wait_ready()
        self._greeted: _Talk | None = _Talk(address)  # blocks until there is an engine
        self.known = self._greeted.known

    @classmethod
    def start(cls, process: EngineProcess, *, wait_s: float = WAIT_S) -> ProcessEngine:
        """Waits for a process that was just started and returns its engine. `close` ends both.

        Raises:
            DeepwellError: the reason why the engine did not start.
        """
        try:
            return cls(process.address, process=process, wait_s=wait_s)
        except BaseException:
            process.stop()
            raise

    def take_greeted(self) -> _Talk | None:
        """Hands the first connection to the engine over to the first event loop that asks; None afterwards."""
        with self._lock:
            talk, self._greeted = self._greeted, None
            return talk

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Continues `request.prompt`. Called on the event loop that iterates; the request is sent at once.

        The first step of the iteration raises the errors that the engine finds in the request.

        Raises:
            InvalidRequest: the request id is in use, or the request cannot be sent.
            EngineUnavailable: there has been no engine for `wait_s`.
        """
        loop = asyncio.get_running_loop()
        link = self._link(loop)
        mailbox = Mailbox(loop)
        number = link.submit(
            _Call(b"", mailbox, request.request_id), lambda number: Generate(number, request)
        )

        def drop() -> None:
            # Garbage collection may run this in any thread, and after the loop has gone.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(link.abort, number)

        return DeltaStream(mailbox, drop)

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        """Returns the log probability of each token from `start` on, given those before it; see `Engine.score`."""
        data: bytes = await self._ask(lambda number: Score(number, list(tokens), adapter, start, window))
        return np.frombuffer(data, np.float32).copy()

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the pooled hidden states, L2-normalised: [hidden_size]."""
        data: bytes = await self._ask(lambda number: Embed(number, list(tokens), adapter))
        return np.frombuffer(data, np.float32).copy()

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Compiles a grammar in the engine's process; see `Engine.prepare`."""
        await self._ask(lambda number: Prepare(number, grammar, tenant, cache_salt))

    async def _ask(self, message_of: Callable[[int], msgspec.Struct]) -> Any:
        loop = asyncio.get_running_loop()
        link = self._link(loop)
        answer: asyncio.Future[Any] = loop.create_future()
        number = link.submit(_Call(b"", answer), message_of)
        try:
            return await answer
        except asyncio.CancelledError:
            link.abort(number)
            raise

    def abort(self, request_id: str) -> None:
        """Aborts a request within one step. Unknown ids are ignored."""
        with self._lock:
            links = list(self._links.items())
        for loop, link in links:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(link.abort_id, request_id)

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Loads a peft directory under a name, for every user of the engine; see `Engine.load_adapter`."""
        self._change(LoadAdapter(0, name, path))
        found = next((one for one in self.known.adapters if one.name == name), None)
        if found is None:
            raise DeepwellError(f"the adapter {name!r} was unloaded while it was loaded", fix="load it again")
        return found

    def unload_adapter(self, name: str) -> None:
        """Unloads the adapter of a name; see `Engine.unload_adapter`."""
        self._change(UnloadAdapter(0, name))

    def _change(self, message: LoadAdapter | UnloadAdapter) -> None:
        if self._closed:
            raise _closed()
        with _Talk(self.address) as talk:
            talk.ask(message)
            self.known.adapters_are(Adapters(talk.known.version, talk.known.adapters))

    def adapters(self) -> tuple[AdapterInfo, ...]:
        """Returns the loaded adapters, in order of first load."""
        return self.known.adapters

    def stats(self) -> EngineStats:
        """Returns the counters as last received. They arrive when an answer ends, during long answers and with each ping."""
        if self._closed:
            return replace(self.known.stats, available=False)
        with contextlib.suppress(RuntimeError):  # this thread has no event loop
            self._link(asyncio.get_running_loop())
        with self._lock:
            available = all(link.available for loop, link in self._links.items() if not loop.is_closed())
        return self.known.stats if available else replace(self.known.stats, available=False)

    def capabilities(self) -> Capabilities:
        """Returns the model that the engine runs and its limits."""
        return self.known.capabilities

    @property
    def pid(self) -> int:
        """Process id of the engine, as of its last greeting."""
        return self.known.pid

    def close(self) -> None:
        """Aborts all requests made here, and ends the process if this object owns it. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            links = list(self._links.items())
            self._links.clear()
        if (talk := self.take_greeted()) is not None:
            talk.close()
        for loop, link in links:
            try:
                loop.call_soon_threadsafe(link.close)
            except RuntimeError:
                link.drop_socket()
        if self._process is not None:
            self._process.stop()

    def __enter__(self) -> ProcessEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _link(self, loop: asyncio.AbstractEventLoop) -> _Link:
        link = self._links.get(loop)
        if link is not None:
            return link
        with self._lock:
            if self._closed:
                raise _closed()
            for other in [other for other in self._links if other.is_closed()]:
                self._links.pop(other).drop_socket()
        link = _Link(self, loop)  # a loop runs in one thread, so no other thread makes its link
        with self._lock:
            self._links[loop] = link
        return link


def _closed() -> DeepwellError:
    return DeepwellError("the engine is closed", fix="start it again")


class _Talk:
    """A blocking exchange with the engine, on a connection of its own.

    Raises:
        EngineUnavailable: nobody listens, or the engine ends in the meantime.
    """

    def __init__(self, address: str) -> None:
        try:
            self.socket = _connected(address)
        except OSError as error:
            raise EngineUnavailable(
                f"nobody listens at {address}: {error}", fix="start the server again"
            ) from None
        self.frames = Frames(MAX_ANSWER_BYTES)
        self._waiting: list[Any] = []
        try:
            hello = self._next()
            self.known = _Known(hello.pid, hello.capabilities, hello.stats)
            self.known.adapters_are(self._next())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def _next(self) -> Any:
        while not self._waiting:
            try:
                data = self.socket.recv(_RECEIVE_BYTES)
            except OSError:
                data = b""
            if not data:
                raise EngineUnavailable("the engine has ended", fix="it is being restarted: try again")
            self._waiting += map(decode_answer, self.frames.feed(data))
        return self._waiting.pop(0)

    def ask(self, message: msgspec.Struct) -> None:
        """Sends a request and waits for its end.

        Raises:
            DeepwellError: the engine's error.
        """
        self.socket.sendall(encode_request(message))
        while True:
            answer = self._next()
            if isinstance(answer, Adapters):
                self.known.adapters_are(answer)
            elif isinstance(answer, Failure):
                raise error_of(answer)
            elif isinstance(answer, Done):
                return


if __name__ == "__main__":
    main(sys.argv[1])
