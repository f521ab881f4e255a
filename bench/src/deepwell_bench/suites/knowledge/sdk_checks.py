"""Every method of `vector_stores`, and `file_search`, through the official SDK, which refuses what is not as documented."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from deepwell_bench.workloads.tour import Tour

__all__ = ["CHECKS", "METHODS", "Checked", "take_knowledge_tour"]

METHODS = {
    "vector_stores": ("create", "retrieve", "update", "list", "delete", "search"),
    "vector_stores.files": (
        *("create", "retrieve", "update", "list", "delete", "content"),
        *("poll", "create_and_poll", "upload", "upload_and_poll"),
    ),
    "vector_stores.file_batches": (
        *("create", "retrieve", "cancel", "list_files"),
        *("poll", "create_and_poll", "upload_and_poll"),
    ),
}
"""Every method of the SDK's resources."""

_WHALE = "The blue whale is the largest animal. It eats krill in cold seas, up to 40 million a day."
_OFFICE = "The office in Oslo is open from 8 to 16. On Fridays it closes at 14."
_EATS = "What does the blue whale eat in cold seas?"
_FAR = "Who wrote the opera about the barber of Seville?"
_SIZE: dict[str, Any] = {
    "type": "static",
    "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50},
}
_SOON: dict[str, Any] = {"poll_interval_ms": 50}


@dataclass(frozen=True, slots=True)
class Checked:
    """One check with one client. `problem` is empty if it passed."""

    client: str
    check: str
    problem: str = ""


async def _file(tour: Tour, name: str, text: str) -> str:
    made = tour.client.files.create(file=(name, text.encode()), purpose="assistants")
    return (await made if inspect.isawaitable(made) else made).id


async def _store(tour: Tour, **given: Any) -> Any:
    return await tour.call("vector_stores.create", tour.client.vector_stores.create, **given)


async def _filled(tour: Tour) -> str:
    """Returns a new store with two files."""
    store = await _store(tour, name="tour")
    for name, text in (("whale.txt", _WHALE), ("office.txt", _OFFICE)):
        file = await tour.call(
            "vector_stores.files.upload_and_poll",
            tour.client.vector_stores.files.upload_and_poll,
            vector_store_id=store.id,
            file=(name, text.encode()),
            attributes={"name": name, "size": len(text), "real": True},
            **_SOON,
        )
        assert file.status == "completed" and file.usage_bytes > len(text), file
    return store.id


async def stores(tour: Tour) -> None:
    """Makes, describes, changes, lists and deletes stores."""
    api = tour.client.vector_stores
    lasts = {"anchor": "last_active_at", "days": 3}
    made = await _store(tour, name="a", description="b", metadata={"k": "v"}, expires_after=lasts)
    assert made.expires_at == made.last_active_at + 3 * 86_400 and made.status == "completed"
    assert await tour.call("vector_stores.retrieve", api.retrieve, made.id) == made
    changed = await tour.call("vector_stores.update", api.update, made.id, name="c", expires_after=None)
    assert (changed.name, changed.expires_at, changed.metadata) == ("c", None, {"k": "v"})
    other = await _store(tour)
    pages = await tour.stream("vector_stores.list", api.list, limit=1, order="desc")
    assert [one.id for one in pages][:2] == [other.id, made.id]
    for one in (made, other):
        assert (await tour.call("vector_stores.delete", api.delete, one.id)).deleted


async def store_with_files(tour: Tour) -> None:
    """Makes a store with its files, cut as it is told."""
    ids = [await _file(tour, f"{number}.txt", f"{_WHALE} {number}") for number in range(2)]
    made = await _store(tour, file_ids=ids, chunking_strategy=_SIZE)
    assert made.file_counts.total == 2
    api = tour.client.vector_stores.files
    for id in ids:
        file = await tour.call("vector_stores.files.poll", api.poll, id, vector_store_id=made.id, **_SOON)
        assert file.status == "completed" and file.chunking_strategy.static.max_chunk_size_tokens == 200
    counted = await tour.call("vector_stores.retrieve", tour.client.vector_stores.retrieve, made.id)
    assert counted.file_counts.completed == 2 and counted.usage_bytes > 0


async def files(tour: Tour) -> None:
    """Attaches, describes, changes, reads, lists and removes files."""
    api, store = tour.client.vector_stores.files, (await _store(tour)).id
    ids = [await _file(tour, f"{number}.txt", f"{_OFFICE} {number}") for number in range(2)]
    first = await tour.call(
        "vector_stores.files.create", api.create, store, file_id=ids[0], chunking_strategy={"type": "auto"}
    )
    assert first.id == ids[0] and first.vector_store_id == store
    second = await tour.call(
        "vector_stores.files.create_and_poll", api.create_and_poll, ids[1], vector_store_id=store, **_SOON
    )
    third = await tour.call(
        "vector_stores.files.upload", api.upload, vector_store_id=store, file=("3.txt", b"third")
    )
    for id in (ids[0], third.id):
        ended = await tour.call("vector_stores.files.poll", api.poll, id, vector_store_id=store, **_SOON)
        assert ended.status == "completed" and ended.last_error is None
    found = await tour.call("vector_stores.files.retrieve", api.retrieve, ids[1], vector_store_id=store)
    assert found == second
    changed = await tour.call(
        "vector_stores.files.update", api.update, ids[1], vector_store_id=store, attributes={"a": 1.5}
    )
    assert changed.attributes == {"a": 1.5}
    listed = await tour.stream(
        "vector_stores.files.list", api.list, store, order="asc", limit=2, filter="completed"
    )
    assert [one.id for one in listed] == [*ids, third.id]
    content = await tour.stream("vector_stores.files.content", api.content, ids[1], vector_store_id=store)
    assert "".join(one.text for one in content) == f"{_OFFICE} 1"
    gone = await tour.call("vector_stores.files.delete", api.delete, ids[1], vector_store_id=store)
    assert gone.deleted


async def file_batches(tour: Tour) -> None:
    """Attaches files in batches, follows, lists and cancels them."""
    api, store = tour.client.vector_stores.file_batches, (await _store(tour)).id
    ids = [await _file(tour, f"{number}.txt", f"{_OFFICE} {number}") for number in range(3)]
    own = [{"file_id": id, "attributes": {"number": number}} for number, id in enumerate(ids)]
    made = await tour.call("vector_stores.file_batches.create", api.create, store, files=own)
    ended = await tour.call(
        "vector_stores.file_batches.poll", api.poll, made.id, vector_store_id=store, **_SOON
    )
    assert (ended.status, ended.file_counts.completed) == ("completed", 3)
    listed = await tour.stream(
        "vector_stores.file_batches.list_files", api.list_files, made.id, vector_store_id=store, limit=2
    )
    assert sorted(one.id for one in listed) == sorted(ids)
    again = await tour.call(
        "vector_stores.file_batches.create_and_poll", api.create_and_poll, store, file_ids=ids[:2], **_SOON
    )
    assert again.file_counts.total == 2
    uploaded = await tour.call(
        "vector_stores.file_batches.upload_and_poll",
        api.upload_and_poll,
        store,
        files=[("a.txt", b"alpha"), ("b.txt", b"beta")],
        **_SOON,
    )
    assert uploaded.file_counts.completed == 2
    many = [await _file(tour, f"m{number}.txt", f"{_WHALE} {number}") for number in range(12)]
    batch = await tour.call(
        "vector_stores.file_batches.create", api.create, store, file_ids=many, chunking_strategy=_SIZE
    )
    ended = await tour.call("vector_stores.file_batches.cancel", api.cancel, batch.id, vector_store_id=store)
    assert ended.status == "cancelled" and ended.file_counts.in_progress == 0
    kept = await tour.call(
        "vector_stores.file_batches.retrieve", api.retrieve, batch.id, vector_store_id=store
    )
    assert kept.status == "cancelled" and kept.file_counts.total == 12


async def search(tour: Tour) -> None:
    """Searches by one query and by several, with filters, a number and a threshold."""
    api, store = tour.client.vector_stores, await _filled(tour)
    name = "vector_stores.search"
    found = await tour.call(name, api.search, store, query=_EATS)
    assert found.data[0].filename == "whale.txt" and found.data[0].content[0].text == _WHALE
    assert found.data[0].attributes == {"name": "whale.txt", "size": float(len(_WHALE)), "real": True}
    both = await tour.stream(name, api.search, store, query=[_EATS, "office hours on Fridays"])
    assert sorted(one.filename for one in both) == ["office.txt", "whale.txt"]
    office = {"type": "eq", "key": "name", "value": "office.txt"}
    small = {"type": "lt", "key": "size", "value": 10}
    one = await tour.call(name, api.search, store, query=_EATS, filters=office, max_num_results=1)
    assert [each.filename for each in one.data] == ["office.txt"]
    either = {"type": "or", "filters": [office, small]}
    one = await tour.call(name, api.search, store, query=_EATS, filters=either, rewrite_query=True)
    assert [each.filename for each in one.data] == ["office.txt"]
    ranking = {"ranker": "auto", "score_threshold": 1.0}
    assert not (await tour.call(name, api.search, store, query=_FAR, ranking_options=ranking)).data


def _asking(tour: Tour, store: str, text: str, **more: Any) -> dict[str, Any]:
    tool = {"type": "file_search", "vector_store_ids": [store]} | more.pop("tool", {})
    return {"model": tour.model, "input": text, "tools": [tool], "temperature": 0} | more


def _parts(response: Any) -> tuple[Any, Any]:
    """Returns the search and the text of a response."""
    (found,) = [item for item in response.output if item.type == "file_search_call"]
    (message,) = [item for item in response.output if item.type == "message"]
    return found, message.content[0]


async def file_search(tour: Tour) -> None:
    """Answers from a store with citations, whole; and declines what is not there."""
    create, store = tour.client.responses.create, await _filled(tour)
    results = ["file_search_call.results"]
    response = await tour.call(
        "responses.create file_search", create, **_asking(tour, store, _EATS, include=results)
    )
    found, text = _parts(response)
    assert found.queries == [_EATS] and found.results[0].filename == "whale.txt"
    assert [one.filename for one in text.annotations]
    usage = response.usage  # a quotation asked no model
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert all(text.text[one.index] == "[" for one in text.annotations)
    tool = {"max_num_results": 1, "filters": {"type": "eq", "key": "name", "value": "office.txt"}}
    tool["ranking_options"] = {"ranker": "auto", "score_threshold": 0.0}
    given = _asking(tour, store, _EATS, tool=tool, include=results, tool_choice={"type": "file_search"})
    found, _ = _parts(await tour.call("responses.create file_search filters", create, **given))
    assert [one.filename for one in found.results] == ["office.txt"]
    declined = await tour.call("responses.create file_search declined", create, **_asking(tour, store, _FAR))
    assert _parts(declined)[1].annotations == [] and declined.status == "completed"


async def file_search_streamed(tour: Tour) -> None:
    """Answers from a store as a stream, and keeps the answer for the next turn."""
    responses, store = tour.client.responses, await _filled(tour)
    given = _asking(tour, store, _EATS)
    events = await tour.stream("responses.create file_search stream", responses.create, stream=True, **given)
    types = [event.type for event in events]
    for step in ("in_progress", "searching", "completed"):
        assert f"response.file_search_call.{step}" in types
    _, text = _parts(events[-1].response)
    added = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert len(added) == len(text.annotations) > 0
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text.text
    await tour.manager("responses.stream file_search", responses.stream(**given))
    following = _asking(tour, store, "And how many a day?", previous_response_id=events[-1].response.id)
    answer = await tour.call("responses.create file_search turn", responses.create, **following)
    assert _parts(answer)[0].queries != [_EATS]


async def file_search_in_background(tour: Tour) -> None:
    """Answers in the background, and replays the stream."""
    responses, store = tour.client.responses, await _filled(tour)
    run = await tour.call(
        "responses.create file_search background",
        responses.create,
        background=True,
        **_asking(tour, store, _EATS),
    )
    events = await tour.stream(
        "responses.retrieve file_search stream", responses.retrieve, run.id, stream=True
    )
    assert "response.file_search_call.completed" in [event.type for event in events]
    kept = await tour.call("responses.retrieve file_search", responses.retrieve, run.id)
    assert _parts(kept)[0].queries == [_EATS]


CHECKS: tuple[Callable[[Tour], Coroutine[Any, Any, None]], ...] = (
    stores,
    store_with_files,
    files,
    file_batches,
    search,
    file_search,
    file_search_streamed,
    file_search_in_background,
)


def _uncalled(client: Any, done: set[str]) -> list[str]:
    """Returns the methods of the SDK that were not called, those that `METHODS` does not know included."""
    missing: list[str] = []
    for path, known in METHODS.items():
        resource = client
        for part in path.split("."):
            resource = getattr(resource, part)
        own = {name for name, one in vars(type(resource)).items() if inspect.isfunction(one)}
        public = {name for name in own if not name.startswith("_")}
        missing += [f"{path}.{name}" for name in sorted(public | set(known)) if f"{path}.{name}" not in done]
    return missing


def take_knowledge_tour(url: str, model: str) -> tuple[list[Checked], int]:
    """Makes every check with the synchronous and the asynchronous client, each by itself.

    Returns the checks, and the number of calls that were answered as documented.
    """
    import openai

    given: dict[str, Any] = {
        "base_url": f"{url}/v1",
        "api_key": "none",
        "max_retries": 0,
        "_strict_response_validation": True,
    }

    async def one(name: str, kind: Callable[..., Any]) -> tuple[list[Checked], int]:
        client = kind(**given)
        tour = Tour(client, client, model)
        found: list[Checked] = []
        for check in CHECKS:
            problem = ""
            try:
                await check(tour)
            except Exception as error:
                problem = f"{type(error).__name__}: {str(error)[:300]}"
            found.append(Checked(name, check.__name__, problem))
        missing = _uncalled(client, set(tour.done))
        found.append(Checked(name, "every_method", ", ".join(missing)))
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing
        return found, len(tour.done)

    checked, calls = asyncio.run(one("openai", openai.OpenAI))
    more, further = asyncio.run(one("async openai", openai.AsyncOpenAI))
    return [*checked, *more], calls + further
