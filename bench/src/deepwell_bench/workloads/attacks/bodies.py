"""Attacks by the bodies of requests that a key allows, and by clients that leave or stop in the middle of an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from deepwell_bench.workloads.attacks.ground import Attack, Ground

__all__ = ["ATTACKS"]

_KIND = "bodies"
_CHAT = "/v1/chat/completions"


def _with(ground: Ground, name: str, value: bytes) -> bytes:
    """Returns a chat request with one more member, whose value is given as JSON text."""
    return json.dumps(ground.chat()).encode()[:-1] + b', "' + name.encode() + b'": ' + value + b"}"


async def deep_json(ground: Ground) -> None:
    for opened in (b"[", b'{"a":', b'[{"a":'):
        await ground.refused("POST", _CHAT, opened * 400_000)
        await ground.refused("POST", _CHAT, _with(ground, "metadata", opened * 400_000))


async def long_numbers(ground: Ground) -> None:
    for number in (b"9" * 1_000_000, b"-" + b"1" * 400_000, b"1e" + b"9" * 300_000):
        for name in ("max_tokens", "temperature", "seed"):
            await ground.refused("POST", _CHAT, _with(ground, name, number))
    await ground.civil("POST", _CHAT, _with(ground, "temperature", b"0." + b"1" * 1_000_000))


async def odd_numbers(ground: Ground) -> None:
    for number in (b"NaN", b"Infinity", b"-1", b"1e400", b"true", b'"8"', b"1.5", b"9223372036854775808"):
        await ground.refused("POST", _CHAT, _with(ground, "max_tokens", number))
    for name, number in (
        ("n", b"129"),
        ("n", b"0"),
        ("top_logprobs", b"21"),
        ("seed", b"1e30"),
        ("top_p", b"2"),
    ):
        await ground.refused("POST", _CHAT, _with(ground, name, number))


async def repeated_members(ground: Ground) -> None:
    await ground.civil("POST", _CHAT, _with(ground, "seed", b'1, "seed": ' * 100_000 + b"1"))


async def many_members(ground: Ground) -> None:
    metadata: dict[str, Any] = {f"key{number}": "value" for number in range(100_000)}
    await ground.refused("POST", _CHAT, ground.chat(metadata=metadata))
    await ground.refused("POST", _CHAT, ground.chat(**metadata))


async def broken_text(ground: Ground) -> None:
    for text in (b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\u0000"', b'"\xc0\x80"'):
        await ground.civil("POST", _CHAT, _with(ground, "user", text))
        body = b'{"model": "%s", "messages": [{"role": "user", "content": %s}], "max_tokens": 4}'
        await ground.civil("POST", _CHAT, body % (ground.model.encode(), text))


async def long_bodies(ground: Ground) -> None:
    body = b" " * (9 << 20)
    await ground.refused("POST", _CHAT, body, 413)
    head = ground.head("POST", _CHAT, {"Transfer-Encoding": "chunked", "Content-Type": "application/json"})
    connection = await ground.connected()
    await connection.send(head + b"\r\n")
    for _ in range(160):
        if not await connection.send(b"10000\r\n" + b" " * 65_536 + b"\r\n"):
            break
    connection.close()


async def many_messages(ground: Ground) -> None:
    messages = [{"role": "user", "content": "x"}] * 100_000
    await ground.refused("POST", _CHAT, ground.chat(messages=messages))


async def many_parts(ground: Ground) -> None:
    parts = [{"type": "text", "text": "x"}] * 100_000
    await ground.refused("POST", _CHAT, ground.chat(messages=[{"role": "user", "content": parts}]))


async def many_stops(ground: Ground) -> None:
    await ground.refused("POST", _CHAT, ground.chat(stop=["x"] * 100_000))
    await ground.civil("POST", _CHAT, ground.chat(stop=["a" * 1_000_000] * 4, max_tokens=4))


async def biases(ground: Ground) -> None:
    await ground.refused("POST", _CHAT, ground.chat(logit_bias={str(token): 1 for token in range(300_000)}))
    await ground.refused("POST", _CHAT, ground.chat(logit_bias={"9" * 100_000: 1}))


async def images(ground: Ground) -> None:
    for url in (
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest",
        "data:image/png;base64," + "A" * 100_000,
    ):
        content = [{"type": "image_url", "image_url": {"url": url}}]
        await ground.refused("POST", _CHAT, ground.chat(messages=[{"role": "user", "content": content}]))


async def many_tools(ground: Ground) -> None:
    properties = {f"p{number}": {"type": "string", "description": "d" * 200} for number in range(100)}
    tool = {"name": "t", "parameters": {"type": "object", "properties": properties}}
    tools = [{"type": "function", "function": tool | {"name": f"tool{number}"}} for number in range(128)]
    await ground.civil("POST", _CHAT, ground.chat(tools=tools))


async def model_names(ground: Ground) -> None:
    for name in (
        "../../../etc/passwd",
        "a" * 1_000_000,
        "",
        "\0",
        "/etc/passwd",
        "http://127.0.0.1/",
        f"{ground.model}\n",
    ):
        await ground.refused("POST", _CHAT, ground.chat() | {"model": name})


async def many_choices(ground: Ground) -> None:
    body = ground.chat(
        "Write a long story.", n=64, max_tokens=24, logprobs=True, top_logprobs=20, temperature=1
    )
    await ground.civil("POST", _CHAT, body)


async def _leaving(ground: Ground, events: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = ground.head("POST", _CHAT, {"Content-Type": "application/json", "Content-Length": str(len(data))})
    connection = await ground.connected()
    await connection.send(head + b"\r\n" + data)
    for _ in range(events):
        await connection.first_bytes(4096, 20)
    connection.reset()


async def hang_ups(ground: Ground) -> None:
    while not ground.over():
        await ground.together(
            8, lambda number: _leaving(ground, number % 4, ground.chat(max_tokens=200, stream=True))
        )


async def half_bodies(ground: Ground) -> None:
    while not ground.over():
        connection = await ground.connected()
        await connection.send(ground.head("POST", _CHAT, {"Content-Length": "5000"}) + b'\r\n{"model": ')
        connection.half_close()
        connection.close()
        await asyncio.sleep(0.01)


async def slow_readers(ground: Ground) -> None:
    async def one(_number: int) -> None:
        data = json.dumps(
            ground.chat(max_tokens=2000, n=4, stream=True, logprobs=True, top_logprobs=20, ignore_eos=True)
        ).encode()
        head = ground.head(
            "POST", _CHAT, {"Content-Type": "application/json", "Content-Length": str(len(data))}
        )
        connection = await ground.connected()
        await connection.send(head + b"\r\n" + data)
        await ground.wait()
        connection.reset()

    await ground.together(4, one)


async def other_types(ground: Ground) -> None:
    for kind in (
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=b",
        "",
    ):
        await ground.civil("POST", _CHAT, b"<a/>", headers={"Content-Type": kind})


_NO_500 = "refused by name, or answered"
_SPECIFIED = (
    ("deep_json", "nests 400,000 arrays and objects", "400", deep_json),
    ("long_numbers", "sends numbers of a million digits", "400", long_numbers),
    ("odd_numbers", "sends NaN, infinities and numbers of the wrong type", "400", odd_numbers),
    ("repeated_members", "names a member 100,000 times", _NO_500, repeated_members),
    ("many_members", "sends 100,000 members", "400", many_members),
    ("broken_text", "sends lone surrogates, overlong forms and zero characters", _NO_500, broken_text),
    ("long_bodies", "sends 9 MB, announced and in chunks", "413", long_bodies),
    ("many_messages", "sends 100,000 messages", "400", many_messages),
    ("many_parts", "sends a message of 100,000 parts", "400", many_parts),
    ("many_stops", "sends 100,000 stop strings, and 4 of a megabyte", _NO_500, many_stops),
    ("biases", "biases 300,000 tokens", "400", biases),
    ("images", "names files and inner addresses as images", "refused and never fetched", images),
    ("many_tools", "sends 128 tools of 100 parameters", _NO_500, many_tools),
    ("model_names", "names files and addresses as models", "404 or 400", model_names),
    ("many_choices", "asks for 64 choices with 20 alternatives a token", "answered", many_choices),
    ("hang_ups", "resets streams after a few events", "work is aborted", hang_ups),
    ("half_bodies", "ends its direction within a body", "no 500, no traceback", half_bodies),
    ("slow_readers", "reads nothing of long streams", "memory does not grow", slow_readers),
    ("other_types", "sends bodies of other content types", _NO_500, other_types),
)
_HEAVY = ("many_choices", "hang_ups", "slow_readers")
ATTACKS = tuple(
    Attack(name, _KIND, what, holds, run, "heavy" if name in _HEAVY else "light")
    for name, what, holds, run in _SPECIFIED
)
