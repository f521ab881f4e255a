"""The tools that Deepwell's MCP server offers: each calls one route or two of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from deepwell.agents.mcp.routing import RouteCaller, json_reply
from deepwell.models.text.shipped import shipped

__all__ = ["SERVED_TOOLS", "ServedResult", "ServedTool"]

Arguments = Mapping[str, Any]

_MOST_TOKENS: Final = 4096
_DEFAULT_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class ServedResult:
    """The result of a call: what a model reads, and the same as JSON."""

    text: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ServedTool:
    """A tool of the MCP server.

    Attributes:
        parameters: JSON schema of the arguments.
        run: makes the call over the routes of the server. Raises `RouteFailed` with the server's own words.
    """

    name: str
    title: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Arguments, RouteCaller], Awaitable[ServedResult]]
    read_only: bool = True

    def __post_init__(self) -> None:
        shipped(self.description)


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": 65_536}
_ID: Final = {"type": "string", "minLength": 1, "maxLength": 128}
_MODEL: Final = {
    **_ID,
    "description": "Name of a model, as list_models has it; left out: the server's own.",
}
_STORE: Final = {**_ID, "description": "Id of a vector store, as list_vector_stores has it."}


async def _models(_arguments: Arguments, call: RouteCaller) -> ServedResult:
    found = await json_reply(call, "GET", "/v1/models")
    names = [str(one.get("id")) for one in found.get("data", ())]
    return ServedResult("\n".join(names) or "there are no models", found)


async def _model(arguments: Arguments, call: RouteCaller) -> str:
    """Returns the model that the arguments name, else the first that generates text."""
    if named := arguments.get("model"):
        return str(named)
    found = (await json_reply(call, "GET", "/v1/models")).get("data", [])
    able = [one for one in found if "default_sampling" in one] or found
    loaded = [one for one in able if one.get("state", "loaded") == "loaded"] or able
    return str(loaded[0]["id"]) if loaded else ""


async def _chat(arguments: Arguments, call: RouteCaller) -> ServedResult:
    messages = [{"role": "user", "content": arguments["prompt"]}]
    if system := arguments.get("system"):
        messages.insert(0, {"role": "system", "content": system})
    body: dict[str, Any] = {
        "model": await _model(arguments, call),
        "messages": messages,
        "max_tokens": arguments.get("max_tokens", _DEFAULT_TOKENS),
    }
    if "temperature" in arguments:
        body["temperature"] = arguments["temperature"]
    found = await json_reply(call, "POST", "/v1/chat/completions", body)
    choice = found["choices"][0]
    text = str(choice["message"].get("content") or "")
    reason = choice.get("finish_reason")
    if reason == "length":
        text += "\n[the answer ends at max_tokens]"
    return ServedResult(text, {"model": found["model"], "text": text, "finish_reason": reason})


async def _ask(arguments: Arguments, call: RouteCaller) -> ServedResult:
    body = {
        "model": await _model(arguments, call),
        "input": arguments["question"],
        "tools": [{"type": "file_search", "vector_store_ids": [arguments["vector_store_id"]]}],
        "tool_choice": {"type": "file_search"},
        "max_output_tokens": arguments.get("max_tokens", _DEFAULT_TOKENS),
        "store": False,
    }
    found = await json_reply(call, "POST", "/v1/responses", body)
    text, cited = "", dict[str, str]()
    for item in found.get("output", ()):
        for part in item.get("content") or () if item.get("type") == "message" else ():
            text += part.get("text", "") or part.get("refusal", "")
            for one in part.get("annotations") or ():
                cited[one["file_id"]] = one["filename"]
    sources = [{"file_id": id, "filename": name} for id, name in cited.items()]
    listed = "".join(f"\n[{one['filename']}] {one['file_id']}" for one in sources)
    return ServedResult(text + (f"\n{listed}" if listed else ""), {"answer": text, "sources": sources})


async def _stores(_arguments: Arguments, call: RouteCaller) -> ServedResult:
    found = await json_reply(call, "GET", "/v1/vector_stores?limit=100")
    stores = [{"id": one["id"], "name": one.get("name") or ""} for one in found["data"]]
    more = bool(found.get("has_more"))
    lines = [f"{one['id']} {one['name']}".strip() for one in stores]
    if more:
        lines.append("[there are more than 100 vector stores]")
    return ServedResult(
        "\n".join(lines) or "there are no vector stores", {"stores": stores, "has_more": more}
    )


async def _search(arguments: Arguments, call: RouteCaller) -> ServedResult:
    store = quote(str(arguments["vector_store_id"]), safe="")
    body = {"query": arguments["query"], "max_num_results": arguments.get("max_num_results", 5)}
    found = await json_reply(call, "POST", f"/v1/vector_stores/{store}/search", body)
    passages = [
        {
            "file_id": one["file_id"],
            "filename": one["filename"],
            "score": one["score"],
            "text": "\n".join(part["text"] for part in one["content"]),
        }
        for one in found["data"]
    ]
    text = "\n\n".join(
        f"[{number}] {one['filename']}\n{one['text']}" for number, one in enumerate(passages, 1)
    )
    return ServedResult(text or "nothing was found", {"passages": passages})


async def _embed(arguments: Arguments, call: RouteCaller) -> ServedResult:
    body = {"model": await _model(arguments, call), "input": arguments["texts"]}
    found = await json_reply(call, "POST", "/v1/embeddings", body)
    vectors = [one["embedding"] for one in found["data"]]
    size = len(vectors[0]) if vectors else 0
    return ServedResult(
        f"{len(vectors)} vectors of {size} numbers", {"model": found["model"], "embeddings": vectors}
    )


async def _rerank(arguments: Arguments, call: RouteCaller) -> ServedResult:
    body: dict[str, Any] = {"query": arguments["query"], "documents": arguments["documents"]}
    if "model" in arguments:
        body["model"] = arguments["model"]
    found = await json_reply(call, "POST", "/v1/rerank", body)
    order = [{"index": one["index"], "score": one["relevance_score"]} for one in found["results"]]
    lines = (f"{one['score']:.4f} {arguments['documents'][one['index']][:200]}" for one in order)
    return ServedResult("\n".join(lines), {"results": order})


async def _jobs(arguments: Arguments, call: RouteCaller) -> ServedResult:
    status = f"&status={arguments['status']}" if "status" in arguments else ""
    found = await json_reply(call, "GET", f"/v1/jobs?limit={arguments.get('limit', 20)}{status}")
    lines = [f"{one['id']} {one['kind']} {one['status']}" for one in found["data"]]
    more = bool(found.get("has_more"))
    if more:
        lines.append("[there are more jobs]")
    return ServedResult("\n".join(lines) or "there are no jobs", {"jobs": found["data"], "has_more": more})


async def _job(arguments: Arguments, call: RouteCaller) -> ServedResult:
    found = await json_reply(call, "GET", f"/v1/jobs/{quote(str(arguments['job_id']), safe='')}")
    text = f"{found['id']} {found['kind']} {found['status']}"
    if progress := found.get("progress"):
        text += f", {progress.get('done', '?')} of {progress.get('total', '?')} {progress.get('unit', '')}".rstrip()
    if error := found.get("error"):
        text += f": {error}"
    return ServedResult(text, {"job": found})


_TOKENS: Final = {"type": "integer", "minimum": 1, "maximum": _MOST_TOKENS, "default": _DEFAULT_TOKENS}
_STATES: Final = ("queued", "running", "succeeded", "failed", "cancelled")

SERVED_TOOLS: Final = (
    ServedTool(
        "list_models",
        "Models",
        "Lists the models that this Deepwell server answers with.",
        _object({}),
        _models,
    ),
    ServedTool(
        "chat",
        "Chat",
        "Asks a language model of this server, and returns its answer. The model knows nothing of this conversation.",
        _object(
            {
                "prompt": {**_TEXT, "description": "What the model is asked."},
                "system": {**_TEXT, "description": "Instructions for the model."},
                "model": _MODEL,
                "max_tokens": _TOKENS,
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            },
            "prompt",
        ),
        _chat,
    ),
    ServedTool(
        "list_vector_stores",
        "Knowledge bases",
        "Lists the vector stores (knowledge bases), with their ids and names.",
        _object({}),
        _stores,
    ),
    ServedTool(
        "search",
        "Search",
        "Searches a vector store for the passages that are nearest to a query, best first.",
        _object(
            {
                "vector_store_id": _STORE,
                "query": {"type": "string", "minLength": 1, "maxLength": 4096},
                "max_num_results": {"type": "integer", "minimum": 1, "maximum": 50, "default": 5},
            },
            "vector_store_id",
            "query",
        ),
        _search,
    ),
    ServedTool(
        "ask",
        "Ask with citations",
        "Answers a question from the documents of a vector store, and cites them. It declines what they do not hold.",
        _object(
            {
                "vector_store_id": _STORE,
                "question": {"type": "string", "minLength": 1, "maxLength": 4096},
                "model": _MODEL,
                "max_tokens": _TOKENS,
            },
            "vector_store_id",
            "question",
        ),
        _ask,
    ),
    ServedTool(
        "embed",
        "Embeddings",
        "Returns the embedding vectors of texts, as structured content.",
        _object(
            {"texts": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 64}, "model": _MODEL},
            "texts",
        ),
        _embed,
    ),
    ServedTool(
        "rerank",
        "Rerank",
        "Orders documents by how well they answer a query, best first.",
        _object(
            {
                "query": {"type": "string", "minLength": 1, "maxLength": 4096},
                "documents": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 64},
                "model": _MODEL,
            },
            "query",
            "documents",
        ),
        _rerank,
    ),
    ServedTool(
        "list_jobs",
        "Jobs",
        "Lists durable work, such as batches, ingestion and fine-tuning, the newest first.",
        _object(
            {
                "status": {"type": "string", "enum": list(_STATES)},
                "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            }
        ),
        _jobs,
    ),
    ServedTool(
        "get_job",
        "State of a job",
        "Returns the state and progress of one job.",
        _object({"job_id": {**_ID, "description": "Id of a job, as list_jobs has it."}}, "job_id"),
        _job,
    ),
)
"""All tools that need nothing but the routes of a server."""
