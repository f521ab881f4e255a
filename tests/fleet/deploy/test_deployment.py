"""A deployment that really runs: haproxy, small replicas, and roll-outs that the ledger tells and load looks at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.models.builders import TINY, write_model_directory
from tests.models.tokenizer_files import CONTROL, TEMPLATE, USER_DEFINED, words, write_directory
from tests.needs import HAPROXY
from tests.parallel import free_port
from tests.waiting import until_async

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.fleet.deploy.analysis import parse_figures
from deepwell.fleet.deploy.declaration import Declaration, Evaluation, Gates, RolloutTerms, ServeOptions
from deepwell.fleet.deploy.evaluation import evaluate
from deepwell.fleet.deploy.machine import CLAIM, Opened, deployment_folder
from deepwell.fleet.deploy.release import Release
from deepwell.fleet.deploy.replicas import served_replica
from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.process.claim import read_claim
from deepwell.process.programs import Program
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout, Steps

pytestmark = [
    pytest.mark.fault,
    pytest.mark.needs(HAPROXY),
]
REPLICA = Path(__file__).with_name("replica.py")
PROD = "toy@prod"
QUICK = Steps("canary", (0.5, 1.0), 0.3)


def declared(**changes: Any) -> Declaration:
    gates = Gates(error_rate=0.05, first_token_p95_ms=100, guard_rate=0.2, least_requests=20)
    terms = RolloutTerms(conversation_seconds=0.5, drain_seconds=10, gates=gates)
    values = {"name": "toy", "alias": PROD, "model": "v1", "replicas": 2, "port": 0, "rollout": terms}
    return Declaration(**values | changes)


def some(facts: dict[str, Any], **wanted: Any) -> bool:
    """Returns whether a replica has some facts."""
    return any(
        all(one[name] == value for name, value in wanted.items())
        for slot in facts["slots"]
        for one in slot["replicas"]
    )


class Running:
    """A deployment in this process, whose replicas are `replica.py`; `ways` has further arguments by model."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self.ways: dict[str, tuple[str, ...]] = {}
        self.headers: dict[str, str] = {}
        self.settings = Settings.load(data_dir=folder / "data", state_dir=folder / "state")
        self.declaration = declared(**changes)
        self.opened = Opened(
            self.declaration, self.settings, lambda event: self.events.append(dict(event)), make=self._make
        )
        self.rollouts = Rollouts(self.opened.database)
        self.task = asyncio.create_task(self.opened.run())
        self.asked: list[tuple[str, int, str, bool]] = []

    def _make(self, release: Release, name: str, port: int) -> Program:
        if self.ways.get(release.model) == ("cannot be made",):
            raise InvalidRequest(f"{release.model} is not made", fix="leave it out")
        command = (
            sys.executable,
            "-S",
            str(REPLICA),
            str(port),
            release.model,
            *self.ways.get(release.model, ()),
        )
        return Program(name, command, dict(os.environ), Path.cwd(), ("127.0.0.1", port))

    @property
    def facts(self) -> dict[str, Any]:
        return read_claim(deployment_folder(self.settings, self.declaration.name), CLAIM) or {}

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    async def until(self, holds: Callable[[], Any]) -> None:
        await until_async(lambda: holds() or self.task.done())
        if not holds():
            self.task.result()
            raise AssertionError(self.events)

    async def start(self, version: str, steps: Steps = QUICK) -> Rollout:
        made = await self.rollouts.register(PROD, NewVersion(version), "test")
        return await self.rollouts.start(made.id, "test", steps=steps, ungated="a test")

    async def ended(self, rollout: Rollout) -> Rollout:
        story = await until_async(
            lambda: self.rollouts.registry.story(PROD),
            lambda story: story.rollouts[rollout.id].state != "canary",
        )
        return story.rollouts[rollout.id]

    async def ended_by_order(self, rollout: Rollout) -> Rollout:
        return await self.rollouts.abort(PROD, "test", rollout=rollout.id)

    async def load(self) -> None:
        """Asks until it is cancelled: conversations of three turns, some at a time, each as another user."""
        async with httpx.AsyncClient(
            base_url=self.url, headers=self.headers, trust_env=False, timeout=20
        ) as http:

            async def talk(number: int) -> None:
                said: list[dict[str, str]] = []
                for turn in range(3):
                    said.append({"role": "user", "content": f"conversation {number}, turn {turn}"})
                    body = {"model": PROD, "messages": said, "stream": True, "user": f"user-{number}"}
                    text, status, release = "", 0, ""
                    with contextlib.suppress(httpx.HTTPError):
                        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                            status, release = answer.status_code, answer.headers.get("x-deepwell-release", "")
                            async for piece in answer.aiter_text():
                                text += piece
                    self.asked.append((str(number), status, release, "[DONE]" in text))
                    said.append({"role": "assistant", "content": "and then"})

            async def client(first: int) -> None:
                for number in range(first, 100_000, 4):
                    await talk(number)

            await asyncio.gather(*(client(number) for number in range(4)))

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.load())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def failed(self) -> list[Any]:
        return [one for one in self.asked if one[1] != 200 or not one[3]]

    def releases(self) -> Counter[str]:
        return Counter(release for _, _, release, _ in self.asked)

    async def stop(self) -> None:
        if self.opened.deployment is not None:
            self.opened.deployment.stop()
        try:
            await self.task
        finally:
            self.opened.close()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    made = Running(tmp_path)
    await made.until(lambda: made.facts.get("current"))
    yield made
    await made.stop()


async def test_steps_lead_to_a_promotion_without_a_failed_request_or_a_conversation_of_two_versions(
    running: Running,
) -> None:
    async with running.loaded():
        await running.until(lambda: len(running.asked) > 20)
        ended = await running.ended(await running.start("v2"))
        await running.until(lambda: sum(one["phase"] == "free" for one in running.facts["slots"]) == 1)
    assert (ended.state, ended.ended_by) == ("promoted", "fleet")
    assert [share for _, share in ended.shares] == [0.0, 0.5, 1.0]
    assert ended.numbers["gates"]["error_rate"]["holds"] and ended.numbers["requests"]["candidate"] >= 20
    assert running.failed() == []
    assert set(running.releases()) == {f"{PROD}#1", f"{PROD}#2"}
    versions: dict[str, set[str]] = {}
    for conversation, _, release, _ in running.asked:
        versions.setdefault(conversation, set()).add(release)
    assert {number: one for number, one in versions.items() if len(one) > 1} == {}
    assert running.facts["model"] == "v2"
    assert check_ledger(running.opened.database).holds


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (("0.3",), "first token p95"),
        (("0.0005", "fails"), "error rate"),
        (("0.0005", "refuses-users"), "refusal rate"),
        (("0.0005", "unsafe"), "guard rate"),
    ],
)
async def test_a_slow_a_failing_and_an_unsafe_version_are_aborted(
    running: Running, way: tuple[str, ...], said: str
) -> None:
    running.ways["v2"] = way
    async with running.loaded():
        await running.until(lambda: len(running.asked) > 60)
        ended = await running.ended(await running.start("v2", Steps("canary", (0.5, 1.0), 30)))
        await running.until(lambda: sum(one["phase"] == "free" for one in running.facts["slots"]) == 1)
    assert (ended.state, ended.share) == ("aborted", 0.5)
    assert said in ended.reason, ended.reason
    assert running.facts["model"] == "v1"
    running.asked.clear()
    async with running.loaded():
        await running.until(lambda: len(running.asked) > 20)
    assert running.failed() == [] and set(running.releases()) == {f"{PROD}#1"}


async def test_blue_green_is_previewed_and_then_switches_everybody(running: Running) -> None:
    rollout = await running.start("v2", Steps("blue_green", (1.0,), 30))
    await running.until(lambda: any(one["event"] == "preview" for one in running.events))
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as http:
        body = {"model": PROD, "messages": [{"role": "user", "content": "hi"}]}

        async def release(**headers: str) -> str:
            answer = await http.post("/v1/chat/completions", json=body, headers=headers)
            return str(answer.headers["x-deepwell-release"])

        candidate = {"x-deepwell-release": "candidate"}
        await until_async(lambda: release(**candidate), lambda found: found == f"{PROD}#2")
        assert await release() == f"{PROD}#1"
        await running.rollouts.promote(PROD, "lin", rollout=rollout.id)
        body["messages"] = [{"role": "user", "content": "another conversation"}]
        await until_async(release, lambda found: found == f"{PROD}#2")
    await running.until(lambda: sum(one["phase"] == "free" for one in running.facts["slots"]) == 1)
    await running.rollouts.revert(PROD, "lin")
    await running.until(lambda: running.facts["model"] == "v1" and running.facts["rollout"] is None)
    await running.until(
        lambda: [one["release"]["model"] for one in running.facts["slots"] if one["release"]] == ["v1"]
    )


async def test_a_version_that_cannot_start_is_aborted_for_the_reason_that_it_names(running: Running) -> None:
    running.ways["v2"] = ("0", "refuses")
    ended = await running.ended(await running.start("v2"))
    assert ended.state == "aborted" and "the model is not there" in ended.reason
    assert running.facts["model"] == "v1"


async def test_a_version_that_brings_no_token_gets_nobody(running: Running) -> None:
    running.ways["v2"] = ("0", "refuses-all")
    async with running.loaded():
        ended = await running.ended(await running.start("v2"))
    assert (ended.state, ended.share) == ("aborted", 0.0)
    assert "brings no token" in ended.reason and "400: the template fails" in ended.reason
    assert running.failed() == [] and set(running.releases()) == {f"{PROD}#1"}


async def test_a_first_release_that_brings_no_token_serves_all_the_same(tmp_path: Path) -> None:
    made = Running(tmp_path, replicas=1)
    made.ways["v1"] = ("0", "refuses-all")
    await made.until(lambda: made.facts.get("current"))
    assert any("serves all the same" in str(one["text"]) for one in made.events)
    await made.stop()


async def test_a_replica_that_does_not_know_the_alias_is_named_with_the_fix(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.fleet.deploy.slots._TELL_S", 0.1)
    running.ways["v2"] = ("0", "strange")
    rollout = await running.start("v2")
    await running.until(lambda: sum(one["event"] == "stuck" for one in running.events) == 2)
    said = [str(one["text"]) for one in running.events if one["event"] == "stuck"]
    assert {one["part"] for one in running.events if one["event"] == "stuck"} == {"green0", "green1"}
    assert all("404" in one and "it serves another" in one and "alias set" in one for one in said), said
    assert (await running.ended_by_order(rollout)).state == "aborted"


@pytest.mark.parametrize(("how", "said"), [("unready", "/readyz answers 503"), ("strange", "answers 404")])
async def test_a_version_that_never_becomes_ready_is_aborted_and_the_current_one_serves_on(
    tmp_path: Path, how: str, said: str
) -> None:
    made = Running(tmp_path, replicas=1, rollout=RolloutTerms(start_seconds=1.5))
    await made.until(lambda: made.facts.get("current"))
    before = made.facts["slots"][0]["replicas"]
    made.ways["v2"] = ("0", how)
    ended = await made.ended(await made.start("v2"))
    assert ended.state == "aborted" and "not ready 1.5 s after its start" in ended.reason
    assert "green0: " in ended.reason and said in ended.reason
    await made.until(lambda: made.facts["slots"][1]["phase"] == "free")
    assert made.facts["model"] == "v1" and made.facts["slots"][0]["replicas"] == before
    await made.stop()


async def test_an_evaluation_that_fails_says_so_and_a_removed_alias_ends_nothing(tmp_path: Path) -> None:
    gates = Gates(evaluation=Evaluation(questions=tmp_path / "none.jsonl", least=0.5))
    made = Running(tmp_path, replicas=1, rollout=RolloutTerms(gates=gates))
    await made.until(lambda: made.facts.get("current"))
    rollout = await made.start("v2")
    await made.until(lambda: any("the evaluation failed" in str(one["text"]) for one in made.events))
    assert (await made.ended_by_order(rollout)).state == "aborted"
    made.ways["v3"] = ("cannot be made",)
    assert "v3 is not made" in (await made.ended(await made.start("v3"))).reason
    await AliasStore(made.opened.database).remove(PROD, "a mistake")
    await made.until(lambda: any("there is no alias" in str(one["text"]) for one in made.events))
    async with httpx.AsyncClient(base_url=made.url, trust_env=False) as http:
        assert (await http.post("/v1/chat/completions", json={"model": PROD})).status_code == 200
    await made.stop()


@pytest.mark.parametrize(
    "body",
    [b"[", b"{}", b'{"choices": 3}', b'{"choices": [{"message": {"content": [4]}}]}', b"[" * 100_000, b"4"],
)
async def test_a_hostile_answer_to_a_question_is_a_wrong_one(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "2 + 2?", "expected": "4"}\n')
    says = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    async with httpx.AsyncClient(transport=says, base_url="http://front") as http:
        found = await evaluate(http, PROD, Evaluation(questions=tmp_path / "q.jsonl", least=1))
    assert (found.right, found.asked, found.holds) == (0, 1, False)


async def test_a_supervisor_that_is_started_again_goes_on_from_the_ledger(tmp_path: Path) -> None:
    first = Running(tmp_path)
    await first.until(lambda: first.facts.get("current"))
    rollout = await first.start("v2", Steps("canary", (0.5, 1.0), 60))
    await first.until(lambda: (first.facts.get("rollout") or {}).get("share") == 0.5)
    await first.stop()
    again = Running(tmp_path)
    try:
        await again.until(lambda: any(one["event"] == "preview" for one in again.events))
        assert again.facts["rollout"]["share"] == 0.5, "the candidate keeps its share"
        async with again.loaded():
            await again.until(lambda: len(set(again.releases())) == 2)
        await again.rollouts.promote(PROD, "lin", rollout=rollout.id)
        await again.until(lambda: again.facts["model"] == "v2")
    finally:
        await again.stop()


async def test_killed_replicas_and_a_killed_front_come_back(running: Running) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:  # each was asked for a token before users came
        for slot in running.facts["slots"]:
            for one in slot["replicas"]:
                metrics = await http.get(f"http://127.0.0.1:{one['port']}/metrics")
                assert parse_figures(metrics.text).requests == 1
    async with running.loaded():
        await running.until(lambda: len(running.asked) > 10)
        victim = next(one for slot in running.facts["slots"] for one in slot["replicas"] if one["pid"])
        os.kill(victim["pid"], signal.SIGKILL)
        await running.until(lambda: some(running.facts, restarts=1, state="ready"))
        assert {status for _, status, _, _ in running.asked} == {200}, "retried, or cut off within a stream"
        assert len(running.failed()) <= 4, "one for each client"
        os.kill(running.facts["front"]["pid"], signal.SIGKILL)
        await running.until(
            lambda: running.facts["front"]["restarts"] == 1 and running.facts["front"]["state"] == "ready"
        )
        running.asked.clear()
        await running.until(lambda: len([one for one in running.asked if one[1] == 200]) > 20)


async def test_two_supervisors_a_taken_port_and_another_grade_are_refused(
    running: Running, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match="runs already"):
        Opened(running.declaration, running.settings, lambda _: None)
    port = int(running.url.rpartition(":")[2])
    with pytest.raises(DeepwellError, match=f"port {port} of the deployment"):
        Opened(declared(name="other", port=port), running.settings, lambda _: None)
    with pytest.raises(InvalidRequest, match="mesh"):
        Opened(declared(name="other", grade="mesh"), running.settings, lambda _: None)


async def test_a_deployment_whose_model_cannot_start_ends_with_the_command(tmp_path: Path) -> None:
    made = Running(tmp_path, port=free_port())
    made.ways["v1"] = ("no number",)
    with pytest.raises(DeepwellError, match="no replica of toy@prod#1 could start"):
        await made.task
    made.opened.close()
    assert read_claim(deployment_folder(made.settings, "toy"), CLAIM) is None


async def test_an_alias_that_stands_is_not_changed_by_a_declaration(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path / "data", state_dir=tmp_path / "state")
    from deepwell.storage.database import Database

    database = Database.of(settings)
    await AliasStore(database).set(PROD, "other", "cli")
    database.close()
    made = Running(tmp_path)
    await made.until(lambda: made.facts.get("current"))
    assert made.facts["model"] == "other"
    await made.stop()


def written(folder: Path, template: str) -> Path:
    """A tiny model of random weights, with a real tokenizer and a chat template."""
    first = len(words())
    config = replace(
        TINY,
        vocab_size=first + len(CONTROL) + len(USER_DEFINED),
        max_position_embeddings=512,
        bos_token_id=first + 1,
        eos_token_ids=(first + 2,),
        pad_token_id=first + 2,
    )
    write_model_directory(folder, config)
    return write_directory(folder, config={"chat_template": template})


RAISES = "{{ raise_exception('this template is broken') }}"
RAISES_FOR_USERS = "{% if messages[0]['content'] != '.' %}" + RAISES + "{% endif %}" + TEMPLATE


class Served(Running):
    """A deployment whose replicas are real servers, of models that lie in `folder`."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.models = folder
        super().__init__(folder, **changes)

    def _make(self, release: Release, name: str, port: int) -> Program:
        make = served_replica(self.declaration, self.models)
        environ = {"DEEPWELL_DATA_DIR": str(self.models / "data"), "DEEPWELL_GUARD": "open"}
        made = make(replace(release, base=str(self.models / release.model)), name, port)
        return replace(made, environ={**made.environ, **environ})


@pytest.mark.parametrize(
    ("template", "said"), [(RAISES, "brings no token"), (RAISES_FOR_USERS, "refusal rate 100 %")]
)
async def test_a_real_server_whose_template_raises_is_no_release(
    tmp_path: Path, template: str, said: str
) -> None:
    written(tmp_path / "v1", TEMPLATE)
    written(tmp_path / "v2", template)
    serve = ServeOptions(context=256, threads=1)
    made = Served(tmp_path, replicas=1, serve=serve)
    await made.until(lambda: made.facts.get("current"))
    async with made.loaded():
        await made.until(lambda: len(made.asked) > 5)
        ended = await made.ended(await made.start("v2", Steps("canary", (0.5, 1.0), 60)))
    assert ended.state == "aborted" and said in ended.reason, ended.reason
    if said == "brings no token":
        assert "this template is broken" in ended.reason
        assert made.failed() == [] and set(made.releases()) == {f"{PROD}#1"}
    await made.stop()
