"""`OnDemandModels`: the models on demand as the routes of one HTTP process find them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.server.access.ticket import current_ticket
from deepwell.server.answering import Answering
from deepwell.server.residency.client import ModelHostClient
from deepwell.server.residency.engine import OnDemandEngine
from deepwell.server.residency.lease import ModelLease
from deepwell.server.residency.wire import HostState, Offer

__all__ = ["OnDemandModels"]

_MOST_UNLOADED = (
    4  # models whose tokenizers stay in memory although they are not loaded, as `/tokenize` needs them
)


@dataclass(slots=True, eq=False)
class _Known:
    """A model that a request has named. `was_loaded`: its engine has been seen in memory."""

    offer: Offer
    engine: OnDemandEngine
    answering: Answering
    was_loaded: bool = False


class OnDemandModels:
    """Finds models by their names in the store, with a tokenizer each while they are in use.

    Args:
        answer: makes the answering side of a model that is used for the first time.
        forget: called with the name of a model that has been unloaded.
        wait_s: longest wait for a model; 0: no limit.
        engine_wait_s: longest wait for an engine that is being restarted.
    """

    def __init__(
        self,
        address: str,
        answer: Callable[[ServedModel], Answering],
        forget: Callable[[str], None],
        *,
        wait_s: float,
        engine_wait_s: float,
    ) -> None:
        self.client = ModelHostClient(address)
        self.client.on_state = self._told
        self._answer = answer
        self._forget = forget
        self._wait_s = wait_s
        self._engine_wait_s = engine_wait_s
        self._known: dict[str, _Known] = {}
        self._opening: dict[tuple[str, str], asyncio.Task[_Known]] = {}
        self._leases: dict[str, ModelLease] = {}

    @property
    def state(self) -> HostState:
        """The state of the models, as last told by the process that loads them."""
        return self.client.state

    async def find(self, name: str) -> Answering:
        """Returns a model by its name in the store. It need not be loaded yet.

        The answer to the current request is not replayed by its bytes: the store may have other files under the name later.

        Raises:
            ModelNotFound: it may not be loaded, or is not in the store.
            InvalidModelFile, UnsupportedModel: it cannot be served.
        """
        if (ticket := current_ticket()) is not None:
            ticket.replayable = False
        known = self._known.get(name)
        if known is not None and self._is_resident(known.offer):
            return known.answering
        offer = await self.client.look(name)
        known = self._known.get(name)
        if known is not None and known.offer.version == offer.version:
            self._known[name] = self._known.pop(name)  # the one that was asked for last
            return known.answering
        key = (name, offer.version)  # another request may still open the files that these have replaced
        opening = self._opening.get(key)
        if opening is None:
            opening = self._opening[key] = asyncio.create_task(self._open(offer))
            opening.add_done_callback(lambda _: self._opening.pop(key, None))
        return (await asyncio.shield(opening)).answering

    async def offers(self) -> Sequence[Offer]:
        """Returns every model that may be loaded."""
        return await self.client.offers()

    def forget_texts(self) -> None:
        """Ends what remembers texts: somebody's data were erased."""
        for known in self._known.values():
            known.answering.model.forget_texts()

    def close(self) -> None:
        """Closes the connections. Called on the event loop."""
        for known in self._known.values():
            known.answering.model.close_texts()
        for lease in self._leases.values():
            lease.close()
        self.client.close()

    async def _open(self, offer: Offer) -> _Known:
        codec = await asyncio.to_thread(Codec.load, Path(offer.path))
        lease = self._leases.get(offer.name)
        if lease is None:
            lease = self._leases[offer.name] = ModelLease(
                offer.name, self.client, wait_s=self._wait_s, engine_wait_s=self._engine_wait_s
            )
        engine = OnDemandEngine(offer, lease)
        model = ServedModel(offer.name, engine, codec, tasks=offer.tasks, defaults=offer.defaults)
        known = _Known(offer, engine, self._answer(model))
        if (before := self._known.get(offer.name)) is not None:  # the store has other files now
            before.answering.model.close_texts()
        self._known[offer.name] = known
        self._forget_some()
        return known

    def _is_resident(self, offer: Offer) -> bool:
        """Returns whether these very files are loaded. A model that is being loaded may have other files by now."""
        return any(
            one.name == offer.name and one.state == "ready" and one.version == offer.version
            for one in self.state.residents
        )

    def _forget_some(self) -> None:
        """Forgets the models asked for longest ago, of those that are not loaded: each has a tokenizer in memory."""
        resident = {one.name for one in self.state.residents}
        idle = [
            name
            for name, known in self._known.items()
            if name not in resident and not known.engine.lease.in_use
        ]
        for name in idle[: max(len(idle) - _MOST_UNLOADED, 0)]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        known = self._known.pop(name)
        known.answering.model.close_texts()
        self._forget(name)

    def _told(self, state: HostState) -> None:
        """Lets go of what belongs to models that have been unloaded."""
        loads = {one.name: one.load for one in state.residents if one.state == "ready"}
        gone = {known.offer.name for known in self._known.values()} - {one.name for one in state.residents}
        for name, lease in self._leases.items():
            lease.loaded(loads.get(name, 0))
        for name, known in list(self._known.items()):
            if name in loads:
                known.was_loaded = True
            elif name in gone and known.was_loaded:
                self._drop(name)
