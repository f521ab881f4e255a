"""Persons' data, written through a server's routes into every place, erased while it runs, and looked for byte by byte.

Every place has a word of its own for every person: in texts, names, ids, labels, file names and headers.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from deepwell.cli.bench.report import Report
from deepwell.safety.privacy.places import place_of_path
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.safety.answers import AnswerStore
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord
from deepwell.storage.safety.verify import verify_chain
from deepwell.storage.tables import fine_tuned_models, fine_tuning_events, fine_tuning_jobs, metadata, usage
from deepwell.storage.tuning.works import COMPRESS_JOB, WorkPayload, WorkStore
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served_process
from deepwell_bench.suites.security.besieged import create_key

__all__ = ["bench_erasure"]

_SCOPES = ("inference", "files", "tuning", "admin")
_PATIENCE_S = 120.0
# Columns that change without a change of anybody's data.
_MOVING = {
    "last_active_at",
    "last_used_at",
    "generation",
    "removals_from",
    "beat",
    "lease_until",
    "lease_s",
    "owner",
    "attempts",
    "updated_at",
}
# Bytes of a shared file change with the lines of the end user that were cut.
_CUT = {"files": {"sha256", "bytes"}, "batches": {"input_sha256"}}
_POLICY = """
version: 1
input: {rules: {"*": flag}, on_failure: allow}
output: {rules: {"*": flag}, on_failure: allow}
audit: {decisions: all}
"""


@dataclass(frozen=True, slots=True)
class _Person:
    """Somebody whose data are written.

    Attributes:
        tenant: whose key is used.
        user: end user that the requests name.
        is_tenant: whether the person also writes what names no end user, which goes with its tenant alone.
        words: the word in each place, by the place's name.
    """

    name: str
    tenant: str
    user: str
    client: httpx.Client
    model: str
    is_tenant: bool = True
    words: dict[str, str] = field(default_factory=dict[str, str])

    def word(self, place: str) -> str:
        """Returns the person's word for a place, which is made with the first call."""
        return self.words.setdefault(place, f"{self.name}{secrets.token_hex(8)}")

    @property
    def labels(self) -> dict[str, str]:
        """Metadata that name the end user."""
        return {"user": self.user}

    @property
    def sought(self) -> list[str]:
        """All words of the person."""
        return [*self.words.values(), self.user]


def bench_erasure(report: Report, model: Path) -> dict[str, Any]:
    """Erases a tenant and an end user of another, and counts what is left of them and what others lost.

    `places_planted` are the words that were written, and `places_on_disk` those that were in the bytes of a file before: what
    was never there cannot be erased.
    """
    with tempfile.TemporaryDirectory(prefix="bench-erasure-") as name:
        folder = Path(name)
        data, state = folder / "data", folder / "state"
        data.mkdir()
        (folder / "policy.yaml").write_text(_POLICY, encoding="utf-8")
        env = {
            "DEEPWELL_DATA_DIR": str(data),
            "DEEPWELL_STATE_DIR": str(state),
            "DEEPWELL_ACCESS_LOG": "json",
            "DEEPWELL_ACCESS_LOG_FILE": str(data / "access.log"),
            "DEEPWELL_GUARD": str(folder / "policy.yaml"),
        }
        tenants = [f"{name}{secrets.token_hex(6)}" for name in ("leaving", "staying", "third")]
        keys = {tenant: create_key(tenant, _SCOPES, env) for tenant in tenants}
        with served_process(serve_command(model), env=env, log=folder / "log") as (port, _):
            clients = {
                tenant: httpx.Client(
                    base_url=f"http://127.0.0.1:{port}",
                    headers={"Authorization": f"Bearer {key}"},
                    timeout=120,
                )
                for tenant, key in keys.items()
            }
            return _measure(report, folder, env, clients)


def _measure(
    report: Report, folder: Path, env: Mapping[str, str], clients: Mapping[str, httpx.Client]
) -> dict[str, Any]:
    data, state = folder / "data", folder / "state"
    leaving, staying, _ = clients
    persons = _people(clients)
    whole, erased, other = persons["whole"], persons["enduser"], persons["other"]
    for person in persons.values():
        training_file = _write(person)
        asyncio.run(_write_beside(data, state, person, training_file))
    for sharing in ([erased, other], [whole], [persons["namesake"]]):
        _write_shared_batches(sharing)
    indexes = {path.name for path in (data / "knowledge").glob("vs_*")}
    shared = _lexical(data, other)
    gone = {one["id"] for person in (whole, erased) for one in _stores(person)}
    time.sleep(1)  # entries of the audit trail and lines of the log are written in groups
    before = {name: _seen(folder, person) for name, person in persons.items()}
    places = {name: _places(data, person.sought) for name, person in persons.items()}
    kept = _rows_with(data, [*other.sought, *persons["namesake"].words.values()])
    unexported, exported = {}, 0
    for person, options in ((whole, []), (erased, ["--user", erased.user])):
        target = folder / f"export-{person.name}"
        told = _command(env, "export", "--tenant", person.tenant, *options, "-o", str(target))
        exported += sum(told["counts"].values())
        unexported[person.name] = before[person.name] - _seen(target, person)
    done = [
        _command(env, "erase", "--tenant", leaving, "--yes"),
        _command(env, "erase", "--tenant", staying, "--user", erased.user, "--yes"),
    ]
    left = {person.name: _seen(folder, person) for person in (whole, erased)}
    left_in = {person.name: _places(data, _own(person, persons)) for person in (whole, erased)}
    after = set(_rows_with(data, [*other.sought, *persons["namesake"].words.values()]))
    rows_lost = [row for row in kept if row not in after]
    lost = {name: before[name] - _seen(folder, persons[name]) for name in ("other", "namesake")}
    unlisted = [path for path in _files(data) if place_of_path(path) is None and path != "access.log"]
    planted = whole.words.keys() | erased.words.keys()
    report.table(
        "Places with a word of the erased",
        ("place", "tenant", "end user"),
        [
            (place, *(_told(place, person, before, left) for person in (whole, erased)))
            for place in sorted(planted)
        ],
    )
    return {
        "places_planted": len(planted),
        "places_of_end_user": len(erased.words),
        "places_on_disk": len(before["whole"] | before["enduser"]),
        "places_of_end_user_on_disk": len(before["enduser"]),
        "tables_and_files_written": len(places["whole"]),
        "tables_and_files_of_end_user": len(places["enduser"]),
        "exported_rows": exported,
        "not_exported": sorted(unexported["whole"] | unexported["enduser"]),
        "not_exported_count": len(unexported["whole"] | unexported["enduser"]),
        "erased_rows": [sum(one["counts"].values()) for one in done],
        "left_of_tenant": sorted(left["whole"] | left_in["whole"]),
        "left_of_end_user": sorted(left["enduser"] | left_in["enduser"]),
        "hits": sum(map(len, (*left.values(), *left_in.values()))),
        "words_of_others": len(before["other"]) + len(before["namesake"]),
        "words_of_others_lost": sorted(lost["other"] | lost["namesake"]),
        "words_of_others_lost_count": len(lost["other"]) + len(lost["namesake"]),
        "rows_of_others": len(kept),
        "rows_of_others_lost": len(rows_lost),
        "first_row_lost": rows_lost[0][:600] if rows_lost else "",
        "unlisted_files": unlisted,
        "unlisted_files_count": len(unlisted),
        "side_indexes_of_persons": len(gone & indexes),
        "side_indexes_left_count": len(gone & {path.name for path in (data / "knowledge").glob("vs_*")}),
        "shared_index_folders": len(shared),
        "shared_index_files_left": len(shared & _lexical(data, other)),
        "found_by_others": _found(other, erased),
        "others_still_found": _found(other, other),
        "trails_hold": _trails_hold(data, state),
        "key_refused": _refused(clients[leaving]),
    }


def _people(clients: Mapping[str, httpx.Client]) -> dict[str, _Person]:
    """Returns a tenant's only person, an end user of another tenant, another one of that, and a namesake in a third tenant."""
    leaving, staying, third = clients
    model = _json(clients[staying].get("/v1/models"))["data"][0]["id"]
    end_user, *others = (
        f"{name}-{secrets.token_hex(4)}@example.com" for name in ("enduser", "whole", "other")
    )
    people = {
        name: _Person(name, tenant, user, clients[tenant], model, is_tenant)
        for name, tenant, user, is_tenant in (
            ("whole", leaving, others[0], True),
            ("enduser", staying, end_user, False),
            ("other", staying, others[1], True),
            ("namesake", third, end_user, True),
        )
    }
    people["whole"].words["name of a tenant and of its key"] = leaving
    return people


def _told(place: str, person: _Person, before: Mapping[str, set[str]], left: Mapping[str, set[str]]) -> str:
    if place not in person.words:
        return "-"
    if place not in before[person.name]:
        return "planted, kept nowhere"
    return "LEFT" if place in left[person.name] else "on disk, erased"


def _own(person: _Person, persons: Mapping[str, _Person]) -> list[str]:
    """Returns a person's words, but for an identifier that somebody of another tenant has as well."""
    others = {one.user for one in persons.values() if one is not person}
    return [word for word in person.sought if word not in others]


def _seen(folder: Path, person: _Person) -> set[str]:
    """Returns the places whose words are in the bytes of the files of a folder, free pages of the database included."""
    places = {word.lower().encode(): place for place, word in person.words.items()}
    pattern = re.compile(b"|".join(map(re.escape, places)))
    return {
        places[found]
        for part in ([folder / "data", folder / "state"] if (folder / "data").exists() else [folder])
        for path in part.rglob("*")
        if path.is_file()
        for found in pattern.findall(path.read_bytes().lower())
    }


def _json(answer: httpx.Response) -> Any:
    if answer.status_code != 200:
        raise PeerError(f"{answer.request.url.path} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def _write(person: _Person) -> str:
    """Writes a person's objects of every kind, by the routes that a client has. Returns the id of a file to train with."""
    _write_answers(person)
    if person.name in ("whole", "enduser"):
        _write_nowhere(person)
    _write_batch(person)
    _write_knowledge(person)
    _write_agent(person)
    _write_evaluation(person)
    training_file = _write_tuning(person)
    if person.is_tenant:
        _write_unnamed(person)
    return training_file


def _write_answers(person: _Person) -> None:
    post, word = person.client.post, person.word
    headers = {
        "X-Request-Id": word("header X-Request-Id"),
        "User-Agent": word("header User-Agent"),
        "Referer": f"https://example.com/{word('header Referer')}",
        "Idempotency-Key": word("header Idempotency-Key"),
        "OpenAI-Organization": word("header OpenAI-Organization"),
    }
    chat = _chat(person, word("text of a chat")) | {
        "store": True,
        "user": person.user,
        "metadata": {**person.labels, word("metadata key of a chat"): word("metadata value of a chat")},
        "prompt_cache_key": word("prompt_cache_key of a chat"),
        "stop": [word("stop string of a chat")],
    }
    kept = _json(post("/v1/chat/completions", json=chat, headers=headers))
    post("/v1/chat/completions", json=chat, headers=headers)  # answered by the cache
    arguments = json.dumps({"of": word("arguments of a tool call")})
    called = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": arguments}}
    talk = [
        {"role": "system", "content": word("system message")},
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": word("result of a tool")},
    ]
    post("/v1/chat/completions", json=chat | {"messages": talk, "stop": None})
    _write_feedback(person, kept["id"])
    conversation = {
        "metadata": {**person.labels, "note": word("metadata of a conversation")},
        "items": [{"type": "message", "role": "user", "content": word("item of a conversation")}],
    }
    talk_id = _json(post("/v1/conversations", json=conversation))["id"]
    reply = {
        "model": person.model,
        "input": word("input of a response"),
        "instructions": word("instructions of a response"),
        "metadata": {word("metadata key of a response"): word("metadata value of a response")},
        "prompt_cache_key": word("prompt_cache_key of a response"),
        "max_output_tokens": 4,
        "safety_identifier": person.user,
    }
    _json(post("/v1/responses", json=reply | {"conversation": talk_id}))
    behind = _json(
        post("/v1/responses", json=reply | {"background": True, "input": word("input in the background")})
    )
    _until(
        "a background response",
        lambda: (
            _json(person.client.get(f"/v1/responses/{behind['id']}"))["status"] in ("completed", "incomplete")
        ),
    )
    message = {
        "model": person.model,
        "max_tokens": 4,
        "system": word("system text of a message"),
        "messages": [{"role": "user", "content": word("text of a message")}],
        "metadata": {"user_id": person.user},
    }
    _json(post("/v1/messages", json=message))
    completion = {"model": person.model, "prompt": word("prompt of a completion"), "max_tokens": 4}
    _json(post("/v1/completions", json=completion | {"user": person.user}))


def _write_nowhere(person: _Person) -> None:
    """Sends what no place keeps, whether or not this server has a model for it."""
    post, word = person.client.post, person.word
    for path, body in (
        ("/v1/moderations", {"input": word("text of a moderation")}),
        ("/v1/images/generations", {"prompt": word("prompt of an image"), "user": person.user}),
        ("/v1/audio/speech", {"input": word("text of a speech"), "voice": "af_heart", "model": "kokoro"}),
        (
            "/v1/embeddings",
            {"input": word("text of an embedding"), "model": person.model, "user": person.user},
        ),
        (
            "/mcp",
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "tools/call",
                "params": {"name": "answer", "arguments": {"question": word("arguments of MCP")}},
            },
        ),
    ):
        post(
            path,
            json=body,
            headers={"X-Request-Id": word("X-Request-Id of an image")} if "images" in path else {},
        )


def _chat(person: _Person, text: str) -> dict[str, Any]:
    return {
        "model": person.model,
        "messages": [{"role": "user", "content": f"My secret is {text}."}],
        "max_tokens": 4,
        "temperature": 0,
    }


def _write_feedback(person: _Person, answer: str) -> None:
    word = person.word
    for target, more in (
        (answer, {}),
        (
            word("target of a vote"),
            {
                "model": word("model of a vote"),
                "messages": [
                    {"role": "user", "content": word("conversation of a vote")},
                    {"role": "assistant", "content": "No."},
                ],
            },
        ),
    ):
        vote = {
            "target_id": target,
            "rating": "down",
            "reason": word("reason of a vote"),
            "correction": word("correction of a vote"),
            "consent": True,
            "safety_identifier": person.user,
        }
        _json(person.client.post("/v1/feedback", json=vote | more))


def _write_batch(person: _Person) -> None:
    """Writes a batch that is the person's alone."""
    word = person.word
    line = {
        "custom_id": word("custom_id of a batch"),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": _chat(person, word("text of a batch")) | {"user": person.user},
    }
    file = _file(person, f"{word('file name of a batch')}.jsonl", json.dumps(line), "batch")
    made = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {**person.labels, "note": word("metadata of a batch")},
    }
    batch = _json(person.client.post("/v1/batches", json=made))["id"]
    _until("a batch", lambda: _json(person.client.get(f"/v1/batches/{batch}"))["status"] == "completed")


def _write_shared_batches(persons: Sequence[_Person]) -> None:
    """Writes batches with lines of several end users of a tenant, in the shapes of both APIs."""
    client, lines, messages = persons[0].client, [], []
    for person in persons:
        word = person.word
        body = _chat(person, word("text in a shared batch"))
        line = {
            "custom_id": word("custom_id in a shared batch"),
            "method": "POST",
            "url": "/v1/chat/completions",
        }
        lines.append(json.dumps(line | {"body": body | {"safety_identifier": person.user}}))
        message = {
            "model": person.model,
            "max_tokens": 4,
            "messages": [{"role": "user", "content": word("text in a shared message batch")}],
            "metadata": {"user_id": person.user},
        }
        messages.append({"custom_id": word("custom_id in a shared message batch"), "params": message})
    file = _file(persons[0], "shared.jsonl", "\n".join(lines), "batch")
    made = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = _json(client.post("/v1/batches", json=made))["id"]
    other = _json(client.post("/v1/messages/batches", json={"requests": messages}))["id"]
    _until("a shared batch", lambda: _json(client.get(f"/v1/batches/{batch}"))["status"] == "completed")
    _until(
        "a message batch",
        lambda: _json(client.get(f"/v1/messages/batches/{other}"))["processing_status"] == "ended",
    )


def _write_knowledge(person: _Person) -> None:
    """Writes a vector store of the person's own, and a file of the person's in one that others share."""
    post, get, word = person.client.post, person.client.get, person.word
    made = {
        "name": f"store of {word('name of a vector store')}",
        "description": word("description of a vector store"),
        "metadata": {**person.labels, word("metadata key of a store"): word("metadata value of a store")},
    }
    own = _json(post("/v1/vector_stores", json=made))["id"]
    found = [one for one in _json(get("/v1/vector_stores"))["data"] if one["name"] == "shared"]
    shared = found[0]["id"] if found else _json(post("/v1/vector_stores", json={"name": "shared"}))["id"]
    for store, kind, attributes in (
        (own, "own", {"note": word("attribute in a store")}),
        (
            shared,
            "shared",
            {**person.labels, word("attribute key of a file"): word("attribute value of a file")},
        ),
    ):
        text = f"My secret is {word(f'text of a file in the {kind} store')}. It is {kind}."
        file = _file(person, f"{word(f'name of a file in the {kind} store')}.txt", text, "assistants")
        _json(post(f"/v1/vector_stores/{store}/files", json={"file_id": file, "attributes": attributes}))
        _until(
            "a file's ingestion", lambda store=store, file=file: _status(person, store, file) == "completed"
        )
        secret = word(f"text of a file in the {kind} store")
        hits = _json(post(f"/v1/vector_stores/{store}/search", json={"query": f"secret {secret}"}))
        if secret not in json.dumps(hits):
            raise PeerError(f"the store {store} does not find {secret}")


def _write_agent(person: _Person) -> None:
    word = person.word
    function = {
        "type": "function",
        "name": word("function of an agent"),
        "description": word("description of an agent's function"),
        "parameters": {"type": "object", "properties": {}},
    }
    run = {
        "model": person.model,
        "input": word("input of an agent"),
        "instructions": word("instructions of an agent"),
        "tools": [function],
        "budget": {"turns": 1},
        "max_output_tokens": 4,
        "metadata": {**person.labels, "note": word("metadata of an agent")},
    }
    id = _json(person.client.post("/v1/agents/runs", json=run))["id"]
    waits = ("queued", "in_progress")
    _until(
        "a run of an agent", lambda: _json(person.client.get(f"/v1/agents/runs/{id}"))["status"] not in waits
    )


def _write_evaluation(person: _Person) -> None:
    post, word = person.client.post, person.word
    check = {
        "type": "string_check",
        "name": word("grader of an evaluation"),
        "input": "{{item.answer}}",
        "reference": "{{item.answer}}",
        "operation": "eq",
    }
    made = {
        "name": word("name of an evaluation"),
        "data_source_config": {
            "type": "custom",
            "item_schema": {"type": "object", "properties": {"answer": {"type": "string"}}},
        },
        "testing_criteria": [check],
        "metadata": {**person.labels, "note": word("metadata of an evaluation")},
    }
    evaluation = _json(post("/v1/evals", json=made))["id"]
    rows = [{"item": {"answer": word("row of an evaluation"), "user": person.user}}]
    run = {
        "name": word("name of a run"),
        "metadata": {"note": word("metadata of a run")},
        "data_source": {"type": "jsonl", "source": {"type": "file_content", "content": rows}},
    }
    id = _json(post(f"/v1/evals/{evaluation}/runs", json=run))["id"]
    path = f"/v1/evals/{evaluation}/runs/{id}"
    _until("a run of an evaluation", lambda: _json(person.client.get(path))["status"] == "completed")


def _write_tuning(person: _Person) -> str:
    """Writes a search that is cancelled at once, what people label and rate, and a file to train with, whose id it returns."""
    post, word = person.client.post, person.word
    talk = [
        {"role": "user", "content": word("text of a training file")},
        {"role": "assistant", "content": "No."},
    ]
    lines = "\n".join(json.dumps({"messages": talk, "metadata": person.labels}) for _ in range(4))
    training = _file(person, f"{word('name of a training file')}.jsonl", lines, "fine-tune")
    rows = [
        {
            "text": f"{word('row of a search')} {number}",
            "label": ("yes", "no")[number % 2],
            "user": person.user,
        }
        for number in range(120)
    ]
    data = _file(
        person, f"{word('name of a file of rows')}.jsonl", "\n".join(map(json.dumps, rows)), "user_data"
    )
    prompt = {"instructions": "Answer {{input}}.", "variables": {"input": ""}}
    started = _json(post("/v1/prompts", json=prompt))["id"]
    search = {
        "prompt": {"id": started},
        "model": person.model,
        "data_file": data,
        "candidates": [word("candidate of a search")],
        "metadata": {**person.labels, "note": word("metadata of a search")},
    }
    job = _json(post("/v1/prompt_optimisations", json=search))["id"]
    _json(post(f"/v1/prompt_optimisations/{job}/cancel"))
    project = {
        "file_id": data,
        "classes": ["yes", "no", word("class of a labelling project")],
        "name": word("name of a labelling project"),
    }
    labelled = _json(post("/v1/labelling/projects", json=project))["id"]
    label = {"index": 0, "label": word("class of a labelling project")}
    _json(post(f"/v1/labelling/projects/{labelled}/labels", json=label))
    pairs = [
        {
            "prompt": word("prompt of a study"),
            "first": {"model": word("first model of a study"), "answer": word("first answer of a study")},
            "second": {"model": "tuned", "answer": word("second answer of a study")},
            "user": person.user,
        }
    ]
    file = _file(person, f"{word('file name of a study')}.jsonl", json.dumps(pairs[0]), "user_data")
    study = {"file_id": file, "name": word("name of a study")}
    rated = _json(post("/v1/ratings/studies", json=study))["id"]
    vote = {"rater": person.user, "index": 0, "choice": "left"}
    _json(post(f"/v1/ratings/studies/{rated}/votes", json=vote))
    return training


def _write_unnamed(person: _Person) -> None:
    """Writes what names no end user, and goes with its tenant: uploads, prompts, names of raters."""
    post, word = person.client.post, person.word
    for kind in ("finished", "unfinished"):
        content = word(f"text of a {kind} upload").encode()
        about = {
            "filename": f"{word(f'name of a {kind} upload')}.txt",
            "purpose": "user_data",
            "bytes": len(content),
            "mime_type": "text/plain",
        }
        upload = _json(post("/v1/uploads", json=about))["id"]
        part = _json(post(f"/v1/uploads/{upload}/parts", files={"data": ("part", content)}))["id"]
        if kind == "finished":
            _json(post(f"/v1/uploads/{upload}/complete", json={"part_ids": [part]}))
    prompt = {
        "id": word("id of a prompt"),
        "instructions": f"{word('text of a prompt')} {{{{name}}}}",
        "variables": {"name": word("variable of a prompt")},
        "purpose": word("purpose of a prompt"),
    }
    _json(post("/v1/prompts", json=prompt))
    _json(post(f"/v1/prompts/{prompt['id']}/versions", json={"instructions": word("version of a prompt")}))
    used = {
        "prompt": {"id": prompt["id"], "version": "1", "variables": {"name": word("value of a variable")}},
        "model": person.model,
        "input": "Who?",
        "max_output_tokens": 4,
    }
    _json(
        post("/v1/responses", json=used, headers={"X-Request-Id": word("X-Request-Id without an end user")})
    )
    person.client.get(f"/v1/prompts/{word('id of a missing prompt')}")
    person.client.get("/v1/models", params={"after": word("query of a request")})


def _stores(person: _Person) -> list[Any]:
    """Returns the vector stores that are a person's alone."""
    listed = _json(person.client.get("/v1/vector_stores", params={"limit": 100}))["data"]
    return [
        one
        for one in listed
        if one["name"] == f"store of {person.words['name of a vector store']}" or person.name == "whole"
    ]


def _shared(person: _Person) -> str:
    listed = _json(person.client.get("/v1/vector_stores", params={"limit": 100}))["data"]
    return next(one["id"] for one in listed if one["name"] == "shared")


def _lexical(data: Path, person: _Person) -> set[str]:
    """Returns the folders of the words of the shared store."""
    return {str(path) for path in (data / "knowledge" / _shared(person)).rglob("lexical-*")}


def _found(person: _Person, whose: _Person) -> bool:
    """Returns whether a search in the shared store finds somebody's text."""
    marker = whose.words["text of a file in the shared store"]
    hits = _json(
        person.client.post(f"/v1/vector_stores/{_shared(person)}/search", json={"query": f"secret {marker}"})
    )
    return marker in json.dumps(hits["data"])


def _status(person: _Person, store: str, file: str) -> str:
    told = _json(person.client.get(f"/v1/vector_stores/{store}/files/{file}"))
    if told["status"] == "failed":
        raise PeerError(f"a file was not ingested: {told['last_error']}")
    return str(told["status"])


def _file(person: _Person, name: str, text: str, purpose: str) -> str:
    sent = person.client.post("/v1/files", data={"purpose": purpose}, files={"file": (name, text.encode())})
    return str(_json(sent)["id"])


async def _write_beside(data: Path, state: Path, person: _Person, training_file: str) -> None:
    """Writes what guards with `keep_text`, an operator's commands and a training with the extra `[tune]` write."""
    database = Database.open(data / "deepwell.db")
    try:
        trail, tenant = AuditStore(database, _anchors(data, state)), Tenant(person.tenant)
        named = {"request_id": person.word("X-Request-Id in the audit trail")}
        text = person.word("text kept beside the audit trail")
        fields, at_ms = {"action": "flag"}, int(time.time() * 1000)
        await trail.append(tenant, [AuditRecord("decision", at_ms, fields, person.user, text, named)])
        if person.is_tenant:
            answer, evidence, by = (
                person.word(f"{what} of the compliance desk") for what in ("answer", "evidence", "name")
            )
            await AnswerStore(database).put(
                tenant, "cn", "officer", answer, evidence=evidence, answered_by=by
            )
        await database.write(lambda connection: _write_training(connection, data, person, training_file))
        labels = {**person.labels, "note": person.word("metadata of a compression")}
        asked = {"model": person.model, "name": person.word("name of a compressed model"), "metadata": labels}
        works = WorkStore(database)
        job = await works.create(tenant, COMPRESS_JOB, WorkPayload(asked))
        await works.cancel(tenant, COMPRESS_JOB, job.id)
    finally:
        database.close()


def _write_training(connection: sa.Connection, data: Path, person: _Person, training_file: str) -> None:
    """Writes a fine-tuning job that has ended, its model, an hour of the model's use, and the folder of the run."""
    id, suffix = f"ftjob-{secrets.token_hex(12)}", person.word("suffix of a tuned model")
    name, mine = (
        f"ft:{person.model}:{suffix}:{id[6:16]}",
        {"tenant": person.tenant, "created_at": int(time.time())},
    )
    job = {
        "id": id,
        "status": "succeeded",
        "model": person.model,
        "training_file": training_file,
        "suffix": suffix,
        "seed": 0,
        "hyperparameters": json.dumps({"grader": person.word("grader of a fine-tuning job")}),
        "options": "{}",
        "metadata": json.dumps({**person.labels, "note": person.word("metadata of a fine-tuning job")}),
        "fine_tuned_model": name,
        "finished_at": int(time.time()),
        "starts": 1,
        "step": 1,
    }
    connection.execute(sa.insert(fine_tuning_jobs), mine | job)
    event = {"id": f"ftevent-{id}", "level": "info", "type": "message", "message": f"New model: {name}"}
    connection.execute(sa.insert(fine_tuning_events), mine | {"job_id": id} | event)
    model = {"name": name, "base": person.model, "job_id": id, "folder": "adapter"}
    connection.execute(sa.insert(fine_tuned_models), mine | model)
    used = dict.fromkeys(("hour", "requests", "input_tokens", "output_tokens", "cached_tokens"), 1)
    connection.execute(sa.insert(usage), {"tenant": person.tenant, "key_id": "", "model": name} | used)
    folder = data / "fine_tuning" / id
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(person.word("text of a training file"), encoding="utf-8")


def _anchors(data: Path, state: Path) -> Anchors:
    from deepwell.settings import Settings

    return Anchors.of(Settings.load(data_dir=data, state_dir=state))


def _until(what: str, done: Any) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise PeerError(f"{what} was not done within {_PATIENCE_S:g} s")
        time.sleep(0.1)


def _refused(client: httpx.Client) -> bool:
    """Returns whether a revoked key is refused as soon as the server looks again."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if client.get("/v1/files").status_code == 401:
            return True
        time.sleep(0.2)
    return False


def _command(env: Mapping[str, str], *arguments: str) -> Any:
    command = [sys.executable, "-m", "deepwell", "privacy", *arguments, "--json"]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-600:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _files(data: Path) -> Iterator[str]:
    return (str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())


def _places(data: Path, words: Sequence[str]) -> set[str]:
    """Returns the tables and files that hold one of the words, in the bytes of any column or file."""
    found: set[str] = set()
    sought = [word.encode() for word in words]
    for path in _files(data):
        content = (data / path).read_bytes().lower()
        if any(word.lower() in content for word in sought):
            place = place_of_path(path)
            found.add(f"file: {place.name if place else path}")
    database = Database.open(data / "deepwell.db")
    try:
        for table in metadata.sorted_tables:
            rows = database.read_now(
                lambda connection, table=table: connection.execute(sa.select(table)).all()
            )
            if any(word in repr(tuple(row)) for row in rows for word in words):
                found.add(f"table: {table.name}")
    finally:
        database.close()
    return found


def _rows_with(data: Path, words: Sequence[str]) -> list[str]:
    database = Database.open(data / "deepwell.db")
    try:
        return [
            f"{table.name} {told}"
            for table in metadata.sorted_tables
            for still in [_MOVING | _CUT.get(table.name, set())]
            for row in database.read_now(
                lambda connection, table=table: connection.execute(sa.select(table)).all()
            )
            for told in [repr({name: value for name, value in row._mapping.items() if name not in still})]
            if any(word in told for word in words)
        ]
    finally:
        database.close()


def _trails_hold(data: Path, state: Path) -> bool:
    database = Database.open(data / "deepwell.db")
    try:
        store = AuditStore(database, _anchors(data, state))
        return all(verify_chain(store, chain.id).holds for chain in asyncio.run(store.chains()))
    finally:
        database.close()
