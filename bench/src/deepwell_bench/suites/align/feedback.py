"""Feedback through the official SDK on both stores: every field, ties to kept answers, limits, curation and erasure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError

from deepwell.cli.bench.report import Report
from deepwell.storage.database import Database
from deepwell.storage.tables import feedback
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.postgres import postgres
from deepwell_bench.harness.served import serve_command, served_process
from deepwell_bench.suites.security.besieged import create_key

__all__ = ["bench_feedback_sdk"]

_PER_USER: Final = 40
_PER_TENANT: Final = 120
_USERS: Final = 12  # honest ones of the curation
_VOTES: Final = 4  # of each
_SPAM: Final = 300  # votes of one user
_SHARE: Final = 0.25
_SAID_BY_LIN: Final = "the secret of lin"
_ANSWER: Final = {"role": "assistant", "content": "Paris."}


@dataclass(slots=True)
class _Checks:
    """Names of what held and of what did not."""

    held: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])

    def that(self, name: str, holds: object) -> None:
        """Counts one check."""
        (self.held if holds else self.failed).append(name)

    def refuses(self, name: str, kind: type[Exception], call: Callable[[], object]) -> None:
        """Counts a check that a call is refused."""
        try:
            call()
        except kind:
            self.held.append(name)
        else:
            self.failed.append(name)


def bench_feedback_sdk(report: Report, model: Path) -> dict[str, Any]:
    """Sends feedback through the SDK to a server over SQLite and to one over PostgreSQL, and curates and erases it.

    Raises:
        PeerError: a server or a command failed.
    """
    found: dict[str, tuple[_Checks, dict[str, Any]]] = {}
    for store in ("sqlite", "postgresql"):
        checks = _Checks()
        with _served(model, store) as world:
            value = _measure(checks, world)
        found[store] = checks, value
        report.note(f"{store}: {len(checks.held)} checks hold, failed: {', '.join(checks.failed) or 'none'}")
    report.table(
        "Feedback through the official SDK",
        [
            "store",
            "checks",
            "failed",
            "votes curated",
            "kept",
            "greatest share of a user in training",
            "left of the erased",
        ],
        [
            [
                store,
                len(checks.held) + len(checks.failed),
                len(checks.failed),
                value["votes"],
                value["kept"],
                f"{value['greatest_share']:.2f}",
                value["left"],
            ]
            for store, (checks, value) in found.items()
        ],
    )
    values = [value for _, value in found.values()]
    return {
        "stores": len(found),
        "checks": min(len(checks.held) for checks, _ in found.values()),
        "failures": sum(len(checks.failed) for checks, _ in found.values()),
        "failed": sorted({name for checks, _ in found.values() for name in checks.failed}),
        "curated_votes": min(value["votes"] for value in values),
        "accounted": all(value["accounted"] for value in values),
        "greatest_share": max(value["greatest_share"] for value in values),
        "greatest_share_held_out": max(value["greatest_share_held_out"] for value in values),
        "users_in_both_parts": sum(value["users_in_both_parts"] for value in values),
        "left_of_erased": sum(value["left"] for value in values),
    }


@dataclass(frozen=True, slots=True)
class _World:
    """A server with two tenants.

    Attributes:
        ours, theirs: SDKs with the keys of the two.
        model: name of the served model.
        env: variables with which commands work on the same database.
        folder: directory for files.
    """

    ours: OpenAI
    theirs: OpenAI
    model: str
    env: Mapping[str, str]
    folder: Path

    def command(self, *arguments: str) -> dict[str, Any]:
        """Runs a verb of `deepwell` and returns what it prints."""
        words = [sys.executable, "-m", "deepwell", *arguments, "--json"]
        done = subprocess.run(
            words, env={**os.environ, **self.env}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeerError(f"{' '.join(arguments)}: {(done.stdout + done.stderr)[-400:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])


@contextmanager
def _served(model: Path, store: str) -> Iterator[_World]:
    with tempfile.TemporaryDirectory(prefix="bench-feedback-") as name:
        folder = Path(name)
        env = {
            "DEEPWELL_DATA_DIR": str(folder / "data"),
            "DEEPWELL_STATE_DIR": str(folder / "state"),
            "DEEPWELL_FEEDBACK_PER_USER": str(_PER_USER),
            "DEEPWELL_FEEDBACK_PER_TENANT": str(_PER_TENANT),
        }
        if store == "sqlite":
            with _running(model, env, folder) as world:
                yield world
            return
        with postgres() as url, _running(model, env | {"DEEPWELL_DATABASE_URL": url}, folder) as world:
            yield world


@contextmanager
def _running(model: Path, env: Mapping[str, str], folder: Path) -> Iterator[_World]:
    keys = [create_key(tenant, ("inference", "files"), env) for tenant in ("ours", "theirs")]
    with served_process(serve_command(model), env=env, log=folder / "log") as (port, _):
        base = f"http://127.0.0.1:{port}/v1"
        ours, theirs = (OpenAI(base_url=base, api_key=key, max_retries=0, timeout=120) for key in keys)
        yield _World(ours, theirs, ours.models.list().data[0].id, env, folder)


def _measure(checks: _Checks, world: _World) -> dict[str, Any]:
    _check_fields(checks, world.ours)
    _check_ties(checks, world)
    _check_votes(checks, world)
    _check_refusals(checks, world.ours)
    left = _erase(checks, world)
    _check_limits(checks, world)
    return {"left": left} | _curate(checks, world)


def _rated(client: OpenAI, target: str, rating: str = "up", **more: Any) -> dict[str, Any]:
    """Rates an answer, and returns the stored rating."""
    body = {"target_id": target, "rating": rating} | more
    return client.post("/feedback", body=body, cast_to=dict[str, Any])


def _listed(client: OpenAI, **query: Any) -> list[dict[str, Any]]:
    found = client.get("/feedback", options={"params": {"limit": 100} | query}, cast_to=dict[str, Any])
    return found["data"]


def _check_fields(checks: _Checks, client: OpenAI) -> None:
    """An answer that is not kept: the client's word is kept as such."""
    said = [{"role": "user", "content": "法国的首都？"}, _ANSWER]
    sent = {"reason": "没有解释", "correction": "Paris, on the Seine.", "consent": True, "model": "m"}
    told = _rated(client, "resp_elsewhere", "down", messages=said, safety_identifier="ada", **sent)
    checks.that("every field comes back", all(told[name] == value for name, value in sent.items()))
    checks.that("the conversation comes back", told["messages"] == said and not told["verified"])
    [listed] = _listed(client, target_id="resp_elsewhere")
    checks.that("the list has the same", listed == told)
    bare = _rated(client, "resp_bare", safety_identifier="ada")
    checks.that("a thumb alone is enough", not bare["consent"] and "messages" not in bare)


def _check_ties(checks: _Checks, world: _World) -> None:
    client = world.ours
    asked: Any = [{"role": "user", "content": _SAID_BY_LIN}]
    answer = client.chat.completions.create(
        model=world.model, messages=asked, max_tokens=8, store=True, safety_identifier="lin"
    )
    said = answer.choices[0].message.content
    forged = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "forged"}]
    told = _rated(client, answer.id, consent=True, model="forged", messages=forged)
    checks.that("model of a kept completion", told["model"] == world.model and told["verified"])
    checks.that(
        "conversation of a kept completion",
        [one["content"] for one in told.get("messages", [])] == [_SAID_BY_LIN, said],
    )
    checks.that("no consent, no copy", "messages" not in _rated(client, answer.id))
    again = _rated(client, answer.id, "down", safety_identifier="lin", consent=True)
    checks.that("user of a kept completion", again["id"] == told["id"])
    first = client.responses.create(model=world.model, input="one", max_output_tokens=4)
    second = client.responses.create(
        model=world.model, input=_SAID_BY_LIN, previous_response_id=first.id, max_output_tokens=8, user="lin"
    )
    turns = _rated(client, second.id, consent=True).get("messages", [])
    checks.that(
        "conversation of a kept response",
        [one["role"] for one in turns] == ["user", "assistant"] * 2
        and turns[-1]["content"] == second.output_text,
    )
    stranger = _rated(world.theirs, answer.id, consent=True)
    checks.that(
        "answers of other tenants are unknown", not stranger["verified"] and "messages" not in stranger
    )


def _check_votes(checks: _Checks, world: _World) -> None:
    client = world.ours
    made = [_rated(client, "resp_vote", rating, safety_identifier="ada") for rating in ("up", "down")]
    checks.that("a later vote replaces an earlier one", made[0]["id"] == made[1]["id"])
    other = _rated(client, "resp_vote", safety_identifier="eve")
    checks.that("users vote apart", other["id"] != made[0]["id"])
    listed = _listed(client, target_id="resp_vote", order="asc")
    checks.that("the list has one vote of each", [one["rating"] for one in listed] == ["down", "up"])
    checks.that(
        "filters",
        all(
            one["consent"] and one["rating"] == "down" for one in _listed(client, rating="down", consent=True)
        ),
    )
    checks.that("tenants vote apart", not _listed(world.theirs, target_id="resp_vote"))
    checks.refuses(
        "other tenants delete nothing",
        NotFoundError,
        lambda: world.theirs.delete(f"/feedback/{other['id']}", cast_to=dict[str, Any]),
    )
    gone = client.delete(f"/feedback/{other['id']}", cast_to=dict[str, Any])
    checks.that("deleted", gone["deleted"] and len(_listed(client, target_id="resp_vote")) == 1)


def _check_refusals(checks: _Checks, client: OpenAI) -> None:
    wrong: tuple[tuple[str, dict[str, Any]], ...] = (
        ("another rating", {"rating": "sideways"}),
        ("an unknown field", {"stars": 5}),
        ("a null character", {"correction": "a\0"}),
        ("a long correction", {"correction": "x" * 40_000}),
        ("a long conversation", {"messages": [_ANSWER | {"content": "x" * 300_000}]}),
    )
    for name, more in wrong:
        checks.refuses(
            f"refuses {name}", BadRequestError, lambda more=more: _rated(client, "resp_bad", **more)
        )
    checks.refuses("refuses no name", BadRequestError, lambda: _rated(client, "a\nb"))
    checks.that("nothing of it is kept", not _listed(client, target_id="resp_bad"))


def _erase(checks: _Checks, world: _World) -> int:
    """Erases the person whose answers were kept, and returns the rows of feedback that still hold a text of it."""
    before = _rows_with(world, _SAID_BY_LIN)
    others = len(_listed(world.ours)) - before
    done = world.command("privacy", "erase", "--tenant", "ours", "--user", "lin", "--yes", "--no-vacuum")
    checks.that("feedback is erased with the person", before >= 2 and done["counts"]["feedback"] == before)
    checks.that("that of others stays", len(_listed(world.ours)) == others)
    return _rows_with(world, _SAID_BY_LIN)


def _rows_with(world: _World, text: str) -> int:
    url = world.env.get("DEEPWELL_DATABASE_URL")
    database = Database.connect(url) if url else Database.open(world.folder / "data" / "deepwell.db")
    try:
        rows = database.read_now(lambda connection: connection.execute(sa.select(feedback)).all())
    finally:
        database.close()
    return sum(text in json.dumps(list(row), ensure_ascii=False) for row in rows)


def _check_limits(checks: _Checks, world: _World) -> None:
    client = world.theirs
    for number in range(_PER_USER):
        _rated(client, f"resp_{number}", safety_identifier="flood")
    checks.refuses(
        "one answer too many of a user",
        RateLimitError,
        lambda: _rated(client, "resp_more", safety_identifier="flood"),
    )
    _rated(client, "resp_0", "down", safety_identifier="flood")
    checks.that("a vote can still be changed", _listed(client, target_id="resp_0")[0]["rating"] == "down")
    taken = 0
    try:
        for number in range(2 * _PER_TENANT):
            _rated(client, "resp_shared", safety_identifier=f"user {number}")
            taken += 1
    except RateLimitError as refused:
        wait = int(refused.response.headers["retry-after"])
        checks.that("the wait is told", 86_000 < wait <= 86_400)
    checks.that("the limit of a tenant is exact", taken + _PER_USER + 1 == _PER_TENANT)


def _curate(checks: _Checks, world: _World) -> dict[str, Any]:
    """Imports votes of honest users and the flood of one, curates them, and counts."""
    lines = [
        _line(f"user {user}", number, rating="down" if number % 3 == 0 else "up")
        for user in range(_USERS)
        for number in range(_VOTES)
    ]
    lines += [_line("spam", number, rating="down") for number in range(_SPAM)]
    lines += lines[:5]  # the same again
    file = world.folder / "votes.jsonl"
    broken = ["{", json.dumps({"rating": "up"})]
    file.write_text("\n".join([*map(json.dumps, lines), *broken]) + "\n")
    told = world.command("feedback", "import", str(file), "--tenant", "crowd")
    checks.that("an import accounts for every line", (told["read"], told["dropped"]) == (len(lines) + 2, 2))
    copy = world.folder / "copy.jsonl"
    world.command("feedback", "export", "--tenant", "crowd", "-o", str(copy))
    counts = world.command("feedback", "list", "--tenant", "crowd", "--limit", "1")
    world.command("feedback", "import", str(copy), "--tenant", "crowd")
    again = world.command("feedback", "list", "--tenant", "crowd", "--limit", "1")
    checks.that("an export comes back as the same votes", counts == again)
    folder = world.folder / "data-of-votes"
    found = world.command(
        "feedback", "curate", "--tenant", "crowd", "-o", str(folder), "--max-share", str(_SHARE)
    )
    parts = {name: _users(folder / f"{name}.jsonl") for name in ("train", "held-out")}
    return {
        "votes": found["read"],
        "kept": found["kept"],
        "accounted": found["read"] == found["kept"] + found["dropped"] == counts["ratings"],
        "greatest_share": _greatest_share(parts["train"]),
        "greatest_share_held_out": _greatest_share(parts["held-out"]),
        "users_in_both_parts": len(set(parts["train"]) & set(parts["held-out"])),
    }


def _line(user: str, number: int, *, rating: str) -> dict[str, Any]:
    question = {"role": "user", "content": f"{user} wants to know the fact of number {number}"}
    answer = {"role": "assistant", "content": f"{user} is told that {number} is {number * 7919}"}
    return {
        "rating": rating,
        "messages": [question, answer],
        "safety_identifier": user,
        "consent": True,
        "created_at": 1_700_000_000 + number,
    }


def _greatest_share(users: list[str]) -> float:
    return max(users.count(user) for user in set(users)) / len(users)


def _users(path: Path) -> list[str]:
    """Returns the user of each labelled answer, whom its question names."""
    questions = [json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()]
    return [question.split(" wants")[0] for question in questions]
