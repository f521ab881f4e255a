"""Attacks by what a server keeps for its users: files, uploads, batches, stored answers, and the names of all of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from deepwell_bench.workloads.attacks.ground import Answer, Attack, Broken, Ground

__all__ = ["ATTACKS", "FOREIGN"]

_KIND = "objects"
_CHAT = "/v1/chat/completions"
_B = "deepwell-form"
_FORM = {"Content-Type": f"multipart/form-data; boundary={_B}"}


def form(fields: dict[str, str], file_field: str, data: bytes, filename: str = "a.jsonl") -> bytes:
    """Returns a form with one file."""
    plain = "".join(
        f'--{_B}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head = f'--{_B}\r\nContent-Disposition: form-data; name="{file_field}"; filename="{filename}"\r\n\r\n'
    return plain.encode() + head.encode() + data + f"\r\n--{_B}--\r\n".encode()


async def _file(ground: Ground, data: bytes, purpose: str = "user_data", filename: str = "a.jsonl") -> Answer:
    body = form({"purpose": purpose}, "file", data, filename)
    return await ground.civil("POST", "/v1/files", body, headers=_FORM)


def _id(answer: Answer) -> str:
    if answer.status != 200:
        raise Broken(f"what is allowed was refused: {answer.status} {answer.body[:120]!r}")
    return str(answer.json()["id"])


async def file_flood(ground: Ground) -> None:
    ids: list[str] = []
    while not ground.over():
        ids.append(_id(await _file(ground, b"%d" % len(ids) * 100_000)))
    for id in ids:
        await ground.civil("DELETE", f"/v1/files/{id}")


async def file_names(ground: Ground) -> None:
    for name in (
        "../../../etc/cron.d/x",
        "/etc/passwd",
        "a" * 5000,
        "..",
        "\\\\host\\share",
        "nul",
        "a\u202egpj.exe",
    ):
        answer = await _file(ground, b"x", filename=name)
        if answer.status == 200:
            await ground.civil("DELETE", f"/v1/files/{answer.json()['id']}")


async def _upload(ground: Ground, size: int) -> str:
    body = {"filename": "a.txt", "purpose": "user_data", "bytes": size, "mime_type": "text/plain"}
    return _id(await ground.civil("POST", "/v1/uploads", body))


async def small_parts(ground: Ground) -> None:
    id = await _upload(ground, 10_000)
    while not ground.over():
        await ground.civil("POST", f"/v1/uploads/{id}/parts", form({}, "data", b"x"), headers=_FORM)
    await ground.civil("POST", f"/v1/uploads/{id}/cancel")


async def large_parts(ground: Ground) -> None:
    id = await _upload(ground, 10)
    await ground.refused("POST", f"/v1/uploads/{id}/parts", form({}, "data", b"x" * 2_000_000), headers=_FORM)
    await ground.refused(
        "POST", "/v1/uploads", {"filename": "a", "purpose": "user_data", "bytes": 10**18, "mime_type": "a/b"}
    )
    await ground.refused("POST", f"/v1/uploads/{id}/complete", {"part_ids": ["part_0"] * 100_000})
    await ground.civil("POST", f"/v1/uploads/{id}/cancel")


async def racing_uploads(ground: Ground) -> None:
    """Parts that together exceed what was announced are sent at the same moment; so is the end, twice."""
    id = await _upload(ground, 1000)
    found: list[Answer] = []

    async def part(number: int) -> None:
        body = form({}, "data", b"%d" % number * 400)
        found.append(await ground.civil("POST", f"/v1/uploads/{id}/parts", body, headers=_FORM))

    await ground.together(8, part)
    if sum(answer.status == 200 for answer in found) > 2:
        raise Broken("an upload of 1,000 bytes took more than 1,000")
    await ground.together(4, lambda _: ground.civil("POST", f"/v1/uploads/{id}/cancel"))


def _line(url: str, body: object, number: int = 0) -> bytes:
    return json.dumps({"custom_id": str(number), "method": "POST", "url": url, "body": body}).encode() + b"\n"


async def _batch(ground: Ground, data: bytes, endpoint: str = _CHAT) -> Answer:
    id = _id(await _file(ground, data, "batch"))
    return await ground.civil(
        "POST", "/v1/batches", {"input_file_id": id, "endpoint": endpoint, "completion_window": "24h"}
    )


async def bad_batches(ground: Ground) -> None:
    for data in (
        b"not json\n" * 20_000,
        _line("/v1/batches", {}) * 50,
        _line("http://127.0.0.1:1/", {}) * 50,
        _line("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/"}) * 50,
        b"[" * 500_000,
        b"\xff\xfe" * 1000,
        _line(_CHAT, ground.chat()) * 50,  # one custom_id for all
    ):
        answer = await _batch(ground, data)
        if answer.status == 200:
            await ground.civil("POST", f"/v1/batches/{answer.json()['id']}/cancel")
    await ground.refused(
        "POST",
        "/v1/batches",
        {"input_file_id": "file-0", "endpoint": "/v1/files", "completion_window": "24h"},
    )


async def long_batches(ground: Ground) -> None:
    data = b"".join(
        _line(_CHAT, ground.chat(f"Number {number}", max_tokens=40), number) for number in range(2000)
    )
    answer = await _batch(ground, data)
    await ground.wait()
    if answer.status == 200:
        await ground.civil("POST", f"/v1/batches/{answer.json()['id']}/cancel")


async def stored_flood(ground: Ground) -> None:
    while not ground.over():
        metadata = {f"k{number}": "v" * 500 for number in range(16)}
        answer = await ground.civil("POST", _CHAT, ground.chat(store=True, metadata=metadata, max_tokens=1))
        await ground.civil("DELETE", f"{_CHAT}/{_id(answer)}")


async def conversation_flood(ground: Ground) -> None:
    id = _id(await ground.civil("POST", "/v1/conversations", {}))
    items = [{"type": "message", "role": "user", "content": "x" * 5000}] * 20
    while not ground.over():
        await ground.civil("POST", f"/v1/conversations/{id}/items", {"items": items})
    too_many = [{"type": "message", "role": "user", "content": "x"}] * 50_000
    await ground.refused("POST", f"/v1/conversations/{id}/items", {"items": too_many})
    await ground.civil("DELETE", f"/v1/conversations/{id}")


async def background_flood(ground: Ground) -> None:
    ids: list[str] = []
    body: dict[str, Any] = {
        "model": ground.model,
        "input": "Write a story.",
        "max_output_tokens": 400,
        "background": True,
    }
    for _ in range(40):
        answer = await ground.civil("POST", "/v1/responses", body)
        if answer.status == 200:
            ids.append(_id(answer))
    for id in ids:
        done = await ground.civil("POST", f"/v1/responses/{id}/cancel")
        if done.status == 200 and done.json()["status"] in ("queued", "in_progress"):
            raise Broken(f"a response is {done.json()['status']} after it was cancelled")


async def long_chains(ground: Ground) -> None:
    before: dict[str, str] = {}
    while not ground.over():
        body = {"model": ground.model, "input": "On.", "max_output_tokens": 1} | before
        answer = await ground.civil("POST", "/v1/responses", body)
        if answer.status != 200:
            return
        before = {"previous_response_id": answer.json()["id"]}


FOREIGN: tuple[tuple[str, str, object], ...] = (
    ("GET", "/v1/files/{file}", None),
    ("GET", "/v1/files/{file}/content", None),
    ("DELETE", "/v1/files/{file}", None),
    ("GET", "/v1/chat/completions/{completion}", None),
    ("GET", "/v1/chat/completions/{completion}/messages", None),
    ("POST", "/v1/chat/completions/{completion}", {"metadata": {"a": "b"}}),
    ("DELETE", "/v1/chat/completions/{completion}", None),
    ("GET", "/v1/responses/{response}", None),
    ("GET", "/v1/responses/{response}/input_items", None),
    ("POST", "/v1/responses/{response}/cancel", {}),
    ("DELETE", "/v1/responses/{response}", None),
    ("GET", "/v1/conversations/{conversation}", None),
    ("GET", "/v1/conversations/{conversation}/items", None),
    ("POST", "/v1/conversations/{conversation}", {"metadata": {"a": "b"}}),
    ("DELETE", "/v1/conversations/{conversation}", None),
    ("POST", "/v1/uploads/{upload}/cancel", {}),
    ("POST", "/v1/uploads/{upload}/complete", {"part_ids": ["part_1"]}),
    ("GET", "/v1/batches/{batch}", None),
    ("POST", "/v1/batches/{batch}/cancel", {}),
)
"""Every route that names an object in its path, with a body."""


async def foreign_objects(ground: Ground) -> None:
    for method, path, body in FOREIGN:
        await ground.refused(method, path.format(**ground.theirs), body, 404)
    said: dict[str, object] = {"model": ground.model, "input": "x", "max_output_tokens": 1}
    for more in (
        {"previous_response_id": ground.theirs["response"]},
        {"conversation": ground.theirs["conversation"]},
    ):
        await ground.refused("POST", "/v1/responses", said | more, 400, 404)
    batch = {"input_file_id": ground.theirs["file"], "endpoint": _CHAT, "completion_window": "24h"}
    await ground.refused("POST", "/v1/batches", batch, 400, 404)


async def pages(ground: Ground) -> None:
    for path in ("/v1/files", "/v1/batches", _CHAT):
        for query in (
            "limit=0",
            "limit=100000",
            f"after={ground.theirs['file']}",
            "after=%00",
            "order=random",
        ):
            answer = await ground.civil("GET", f"{path}?{query}")
            if answer.status == 200 and any(
                id in answer.body.decode("utf-8", "replace") for id in ground.theirs.values()
            ):
                raise Broken(f"{path}?{query} lists another tenant's object")


async def _load(ground: Ground, name: str, path: str) -> Answer:
    return await ground.civil("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})


async def adapter_names(ground: Ground) -> None:
    """A name that is served already must not be taken, in whatever spelling."""
    folder = ground.adapters[0]
    listed = await ground.civil("GET", "/v1/models")
    for name in {ground.model, "minilm", *(one["id"] for one in listed.json()["data"])}:
        if name == "siege-own":
            continue
        answer = await _load(ground, name, folder)
        if answer.status == 200:
            await ground.civil("POST", "/v1/unload_lora_adapter", {"lora_name": name})
            if name in {one["id"] for one in listed.json()["data"]}:
                raise Broken(f"an adapter took the name {name!r}")
    for name in ("", "a" * 100_000, "../x", "a\0b", "a\nb"):
        await ground.refused("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})


async def adapter_paths(ground: Ground) -> None:
    for path in ("/etc", "../../..", "/proc/self/root", "a\0b", "x" * 100_000, ".", "~"):
        await ground.refused("POST", "/v1/load_lora_adapter", {"lora_name": "siege", "lora_path": path})


async def adapter_churn(ground: Ground) -> None:
    while not ground.over():
        answer = await _load(ground, "siege-own", ground.adapters[0])
        if answer.status == 200:
            await ground.civil("POST", _CHAT, ground.chat() | {"model": "siege-own"})
            await ground.civil("POST", "/v1/unload_lora_adapter", {"lora_name": "siege-own"})


async def foreign_adapters(ground: Ground) -> None:
    name = ground.theirs.get("adapter")
    if name is None:
        return
    await ground.refused("POST", "/v1/unload_lora_adapter", {"lora_name": name}, 400, 403, 404)
    await ground.refused("POST", _CHAT, ground.chat() | {"model": name}, 400, 404)


async def queue_flood(ground: Ground) -> None:
    async def one(number: int) -> None:
        await ground.civil("POST", _CHAT, ground.chat(f"Question {number}", max_tokens=40, ignore_eos=True))

    await ground.together(150, one)


async def embedding_flood(ground: Ground) -> None:
    async def one(number: int) -> None:
        texts = [f"text {number} {place} and more of it" for place in range(32)]
        await ground.civil("POST", "/v1/embeddings", {"model": "minilm", "input": texts})

    while not ground.over():
        await ground.together(8, one)
        await asyncio.sleep(0)


_404 = "404, as if it were not there"
_OWN = "bounded, and gone afterwards"
_SPECIFIED = (
    ("file_flood", "keeps files as fast as it can", _OWN, file_flood),
    ("file_names", "sends names that climb and mislead", "no path leaves the store", file_names),
    ("small_parts", "sends an upload byte by byte", _OWN, small_parts),
    ("large_parts", "sends more than it announced", "400 or 413", large_parts),
    ("racing_uploads", "sends more than it announced at the same moment", "the sum is kept", racing_uploads),
    ("bad_batches", "sends batches of noise, circles and inner addresses", "each fails by name", bad_batches),
    ("long_batches", "runs a batch of 2,000 lines", "it stands behind everybody who waits", long_batches),
    ("stored_flood", "stores answers with full metadata", _OWN, stored_flood),
    ("conversation_flood", "fills a conversation, 100 KB at a time", _OWN, conversation_flood),
    (
        "background_flood",
        "starts 40 background responses and cancels them",
        "cancelled ones are",
        background_flood,
    ),
    ("long_chains", "chains responses without end", _OWN, long_chains),
    ("foreign_objects", "asks every route for the other tenant's objects", _404, foreign_objects),
    ("pages", "asks for odd pages, and from the other tenant's objects on", "none is listed", pages),
    ("foreign_adapters", "unloads and uses the other tenant's adapter", _404, foreign_adapters),
    ("adapter_names", "gives adapters the names of what is served", "refused", adapter_names),
    ("adapter_paths", "loads adapters from elsewhere", "400", adapter_paths),
    ("adapter_churn", "loads, uses and unloads an adapter", _OWN, adapter_churn),
    ("queue_flood", "asks 150 questions at once", "they wait for each other alone", queue_flood),
    (
        "embedding_flood",
        "embeds 256 texts at once, again and again",
        "answered in fair turns",
        embedding_flood,
    ),
)
_HEAVY = ("long_batches", "queue_flood", "embedding_flood", "background_flood")
ATTACKS = tuple(
    Attack(name, _KIND, what, holds, run, "heavy" if name in _HEAVY else "light")
    for name, what, holds, run in _SPECIFIED
)
