"""The leases of background responses whose processes have ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.server.background import Background, LeaseKeeper, to_its_end
from deepwell.storage.database import Tenant
from deepwell.storage.responses import StoredResponse

A = Tenant("a")


async def test_a_row_that_cannot_be_ended_does_not_keep_the_others(engine: FakeEngine, codec: Codec) -> None:
    service = make_service(engine, codec, model="toy")
    state = service.state
    for id in ("r1", "bad", "r2"):
        await state.responses.begin(A, StoredResponse(id, 1, "queued", "[]", "{}"), "a dead process", 0)

    def end(response: StoredResponse) -> StoredResponse:
        if response.id == "bad":
            raise ValueError("its body cannot be read")
        return replace(response, status="failed")

    await LeaseKeeper(Background(), 600, end).look(state)
    assert [(await state.responses.get(A, id)).status for id in ("r1", "bad", "r2")] == [
        "failed",
        "queued",
        "failed",
    ]
    await service.close_state()


async def test_what_is_being_stored_is_stored_although_its_run_is_cancelled() -> None:
    may_go_on = asyncio.Event()

    async def storing() -> str:
        await may_go_on.wait()
        return "stored"

    run = asyncio.create_task(to_its_end(storing()))
    for _ in range(2):
        await asyncio.sleep(0)
        run.cancel()
    await asyncio.sleep(0)
    may_go_on.set()
    assert await run == "stored"
