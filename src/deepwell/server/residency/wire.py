"""The messages between the HTTP processes and the process that loads models for them."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from deepwell.dialogue.model import Task
from deepwell.engine.protocol import Capabilities
from deepwell.models.store.sampling import SamplingDefaults
from deepwell.process.frames import Failure, WireError, encode
from deepwell.server.residency.policy import State

__all__ = [
    "LIMIT_BYTES",
    "Acquire",
    "Done",
    "Granted",
    "HostState",
    "List",
    "Look",
    "Offer",
    "Offered",
    "Release",
    "ResidentModel",
    "Unload",
    "decode_answer",
    "decode_request",
    "encode",
]

LIMIT_BYTES: Final = 4 << 20  # of a message


class Offer(msgspec.Struct, array_like=True, frozen=True):
    """A model of the store that may be loaded. `version` changes when the store has other files under its name."""

    name: str
    path: str
    tasks: tuple[Task, ...]
    defaults: SamplingDefaults
    capabilities: Capabilities
    size_bytes: int
    version: str


class List(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Asks for every model that may be loaded."""

    number: int


class Look(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """Asks for one model that may be loaded."""

    number: int
    name: str


class Acquire(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Asks for a lease on a model that was looked up, which is loaded if it is not there.

    Attributes:
        wait_s: 0 for no deadline.
        version: of the files that must be loaded; empty: any.
    """

    number: int
    name: str
    tenant: str
    wait_s: float
    version: str = ""


class Release(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """Gives the lease on a model back, or stops waiting for it. It is not answered."""

    name: str


class Unload(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Asks to unload a model that nobody uses."""

    number: int
    name: str


class Offered(msgspec.Struct, tag=11, array_like=True, frozen=True):
    """The answer to `List` and `Look`."""

    number: int
    offers: tuple[Offer, ...]


class Granted(msgspec.Struct, tag=12, array_like=True, frozen=True):
    """The answer to `Acquire`: the engine's address, the number of its load, and the version of the files that it runs."""

    number: int
    address: str
    load: int
    version: str


class Done(msgspec.Struct, tag=13, array_like=True, frozen=True):
    """The answer to `Unload`. `was_loaded` is False if there was nothing to unload."""

    number: int
    was_loaded: bool


class ResidentModel(msgspec.Struct, array_like=True, frozen=True):
    """A model that takes memory.

    Attributes:
        version: of the files that were loaded; empty until they are.
        expires_in_s: seconds until it is unloaded if nobody asks; None: it is in use, or stays.
        gives_way: a process that has the lease lets no new requests use it, so that another model gets its turn.
    """

    name: str
    state: State
    size_bytes: int
    load: int
    version: str
    expires_in_s: float | None
    gives_way: bool = False


class HostState(msgspec.Struct, tag=14, array_like=True, frozen=True):
    """The state of all models on demand, sent whenever it changes."""

    residents: tuple[ResidentModel, ...] = ()
    budget_bytes: int = 0
    used_bytes: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    unloads: int = 0
    failures: int = 0


Request = List | Look | Acquire | Release | Unload
Answer = Offered | Granted | Done | HostState | Failure

_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(Answer)


def _decoded(decoder: msgspec.msgpack.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise WireError(str(error)) from None


def decode_request(body: bytes) -> Request:
    """Decodes a message to the host.

    Raises:
        WireError: it is none.
    """
    return _decoded(_requests, body)


def decode_answer(body: bytes) -> Answer:
    """Decodes a message of the host.

    Raises:
        WireError: it is none.
    """
    return _decoded(_answers, body)
