"""A small replica for tests, of the standard library alone: `replica.py PORT MODEL [FIRST_S] [HOW]`.

It answers what the supervisor and the front ask of one: readiness, the model of its alias, metrics, and chats, as streams of
three events. It listens on $REPLICA_HOST. HOW: `refuses` ends with an error as `deepwell serve --json` does,
`fails` answers 500 once it is warm, `refuses-all` answers 400 and `refuses-users` does so once it is warm,
`unsafe` counts a decision of its guard for each answer, `strange` knows no alias,
`unready` is never ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5)


class Replica:
    def __init__(self, model: str, first_s: float, how: str) -> None:
        self.model, self.first_s, self.how = model, first_s, how
        self.asked = 0

    def metrics(self) -> str:
        name, failed = "gen_ai_server_request_duration_seconds", self.how == "fails"
        error = "InternalError" if failed else ""
        lines = [f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{error_type="{error}",le="+Inf"}} {self.asked}']
        lines += [
            f'{name}_count{{error_type="{error}"}} {self.asked}',
            f'{name}_sum{{error_type="{error}"}} 0',
        ]
        status = {"fails": 500, "refuses-users": 400}.get(self.how, 200)
        labels = 'route="/v1/chat/completions",status='
        lines += ["# TYPE deepwell_requests counter"]
        lines += [f'deepwell_requests_total{{{labels}"200"}} {self.asked if status == 200 else 1}']
        lines += [f'deepwell_requests_total{{{labels}"{status}"}} {self.asked - 1}'] if status != 200 else []
        first = "gen_ai_server_time_to_first_token_seconds"
        lines += [f"# TYPE {first} histogram"]
        for bound in (*BOUNDS, float("inf")):
            count = self.asked if self.first_s <= bound else 0
            lines.append(f'{first}_bucket{{le="{bound if bound != float("inf") else "+Inf"}"}} {count}')
        lines += [f"{first}_count {self.asked}", f"{first}_sum 0"]
        guarded = self.asked if self.how == "unsafe" else 0
        lines += ["# TYPE deepwell_guard_decisions counter"]
        lines += [f'deepwell_guard_decisions_total{{layer="output",action="block"}} {guarded}']
        lines += [f'deepwell_guard_decisions_total{{layer="input",action="allow"}} {self.asked}']
        return "\n".join(lines) + "\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")
                headers = {line.split(": ")[0].lower(): line.partition(": ")[2] for line in lines if line}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path = first.split()[1]
                if path == "/metrics":
                    self.answer(writer, "200 OK", self.metrics())
                elif path == "/readyz" and self.how == "unready":
                    self.answer(writer, "503 Service Unavailable", "{}")
                elif path == "/v1/models":
                    self.answer(writer, "200 OK", '{"data": [{"id": "another"}]}')
                elif path.startswith("/v1/models/") and self.how == "strange":
                    self.answer(writer, "404 Not Found", "{}")
                elif not path.startswith("/v1/chat"):
                    self.answer(writer, "200 OK", '{"default_sampling": {}}')
                elif self.how == "refuses-all":
                    self.answer(writer, "400 Bad Request", '{"error": {"message": "the template fails"}}')
                elif b'"max_tokens":1' in body and not self.asked:
                    self.asked += 1  # as every server is asked before users come
                    self.answer(writer, "200 OK", '{"choices": [{}], "usage": {"completion_tokens": 1}}')
                elif self.how in ("fails", "refuses-users"):
                    self.asked += 1
                    status = "500 Internal Server Error" if self.how == "fails" else "400 Bad Request"
                    self.answer(writer, status, "{}")
                else:
                    await self.stream(writer)
                await writer.drain()
        writer.close()

    def answer(self, writer: asyncio.StreamWriter, status: str, text: str) -> None:
        body = text.encode()
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    async def stream(self, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        await asyncio.sleep(self.first_s)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in (f'data: {{"model": "{self.model}"}}\n\n', "data: {}\n\n", "data: [DONE]\n\n"):
            writer.write(f"{len(event):x}\r\n{event}\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(b"0\r\n\r\n")


async def main(port: str, model: str, first_s: str = "0.0005", how: str = "") -> None:
    if how == "refuses":
        print('{"error": {"message": "the model is not there", "fix": "pull it"}}')
        raise SystemExit(1)
    replica = Replica(model, float(first_s), how)
    # As the first process of a container it would be left alone by a signal that it does not handle
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    host = os.environ.get("REPLICA_HOST", "127.0.0.1")
    server = await asyncio.start_server(replica.serve, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
