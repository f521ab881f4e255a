"""The kit opens tools without holding up whoever else is served."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path

from deepwell.agents.kit import Kit, open_tools


async def test_tables_are_read_beside_the_event_loop(tmp_path: Path) -> None:
    """The database is locked until another task of the loop lets it go."""
    with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE orders (id INTEGER)")
        database.execute("BEGIN EXCLUSIVE")

        async def let_go() -> None:
            database.execute("COMMIT")

        async with AsyncExitStack() as stack:
            tools, _ = await asyncio.gather(open_tools(["sql"], Kit(tmp_path), stack), let_go())
        assert all("orders" in one.description for one in tools)
