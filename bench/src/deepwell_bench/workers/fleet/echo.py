"""A replica that says what reached it: `python -m deepwell_bench.workers.fleet.echo PORT NAME`.

It answers every request with its name and the headers that came, as JSON. `/readyz` answers as a server does.
"""

from __future__ import annotations

import asyncio
import json
import sys

__all__ = ["main"]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = [line.partition(": ")[::2] for line in head[1:] if line]
            headers = {key.lower(): value for key, value in pairs}
            await reader.readexactly(int(headers.get("content-length", 0)))
            body = json.dumps({"name": name, "headers": headers}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int, name: str) -> None:
    """Serves until a signal comes."""
    server = await asyncio.start_server(
        lambda reader, writer: _answer(reader, writer, name), "127.0.0.1", port
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
