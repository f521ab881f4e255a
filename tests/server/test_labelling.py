"""Labelling over HTTP: a file becomes a project, texts are chosen, labelled, taken back and exported."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

CLASSES = ["sport", "money"]
SPORT, MONEY = (
    ("goal match team", "team wins match", "coach of the team"),
    ("bank rate", "profit bank", "share profit"),
)


def lines(*records: Any) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)


def news(count: int = 40) -> str:
    pairs = [(SPORT if number % 2 else MONEY)[number % 3] for number in range(count)]
    return lines(*({"text": f"{text} {number}"} for number, text in enumerate(pairs)))


async def upload(http: httpx.AsyncClient, text: str | bytes) -> str:
    form = {"purpose": (None, "user_data"), "file": ("news.jsonl", text)}
    return (await http.post("/v1/files", files=form)).json()["id"]


async def create(http: httpx.AsyncClient, text: str | bytes, **more: Any) -> httpx.Response:
    body = {"file_id": await upload(http, text), "classes": CLASSES} | more
    return await http.post("/v1/labelling/projects", json=body)


async def test_a_project_from_its_file_to_its_export(http: httpx.AsyncClient) -> None:
    project = (await create(http, news())).json()
    path = f"/v1/labelling/projects/{project['id']}"
    assert (project["object"], project["name"], project["strategy"]) == (
        "labelling.project",
        "news.jsonl",
        "margin",
    )
    assert (project["items"], project["labelled"], project["unreadable"]) == (40, 0, 0)
    said: dict[str, Any] = {}
    for _ in range(20):
        asked = (await http.get(f"{path}/next", params={"limit": 1})).json()["data"][0]
        label = "money" if "bank" in asked["text"] or "profit" in asked["text"] else "sport"
        said = (await http.post(f"{path}/labels", json={"index": asked["index"], "label": label})).json()
    assert said["labelled"] == 20 and sum(one["count"] for one in said["classes"]) == 20
    asked = (await http.get(f"{path}/next", params={"limit": 20})).json()
    assert len(asked["data"]) == 20
    for one in asked["data"]:  # the learner has understood
        assert one["suggestion"] == ("sport" if "team" in one["text"] else "money")
        assert 0.5 <= one["probability"] <= 1
    undone = (await http.post(f"{path}/undo")).json()
    assert undone["item"]["text"] and undone["project"]["labelled"] == 19
    exported = await http.get(f"{path}/export")
    assert exported.headers["x-content-type-options"] == "nosniff"
    rows = [json.loads(line) for line in exported.text.splitlines()]
    assert len(rows) == 19 and all(set(one) == {"text", "label"} for one in rows)
    assert (await http.get("/v1/labelling/projects")).json()["data"][0]["id"] == project["id"]
    assert (await http.delete(path)).json()["deleted"]
    assert (await http.get(path)).status_code == 404


async def test_skipped_texts_come_last_and_all_are_asked_once(http: httpx.AsyncClient) -> None:
    id = (await create(http, news(5))).json()["id"]
    path = f"/v1/labelling/projects/{id}"
    first = (await http.get(f"{path}/next")).json()["data"]
    assert sorted(one["index"] for one in first) == [0, 1, 2, 3, 4]
    skipped = first[0]["index"]
    said = await http.post(f"{path}/labels", json={"index": skipped, "skip": True})
    assert said.json()["skipped"] == 1
    assert [one["index"] for one in (await http.get(f"{path}/next")).json()["data"]][-1] == skipped
    for one in first:
        await http.post(f"{path}/labels", json={"index": one["index"], "label": "sport"})
    done = (await http.get(f"{path}/next")).json()
    assert done["data"] == [] and (done["project"]["labelled"], done["project"]["skipped"]) == (5, 0)
    assert (await http.post(f"{path}/undo")).json()["item"]["index"] == first[-1]["index"]
    assert [one["index"] for one in (await http.get(f"{path}/next")).json()["data"]] == [first[-1]["index"]]


async def test_records_keep_their_shape_and_labels_of_the_file_count(http: httpx.AsyncClient) -> None:
    chat = {
        "messages": [{"role": "user", "content": "转会 goal"}, {"role": "assistant", "content": "ok"}],
        "id": 7,
    }
    text = lines(chat, {"text": "bank", "label": "money"}, {"text": " "}) + "no JSON\n"
    project = (await create(http, text)).json()
    assert (project["items"], project["labelled"], project["unreadable"]) == (2, 1, 2)
    path = f"/v1/labelling/projects/{project['id']}"
    (asked,) = (await http.get(f"{path}/next")).json()["data"]
    assert asked["text"] == "转会 goal\nok" and asked["suggestion"] is None
    await http.post(f"{path}/labels", json={"index": asked["index"], "label": "sport"})
    rows = [json.loads(line) for line in (await http.get(f"{path}/export")).text.splitlines()]
    assert rows == [chat | {"label": "sport"}, {"text": "bank", "label": "money"}]


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("", {}, "is empty"),
        ("nothing\n", {}, "no text to label"),
        (b"\xff\xfe{}\n", {}, "no text to label"),
        (lines({"text": "a", "label": "weather"}), {}, "line 1 has the label 'weather'"),
        (news(2), {"classes": ["one"]}, "classes"),
        (news(2), {"classes": ["one", "one"]}, "the same name"),
        (news(2), {"classes": ["a\nb", "c"]}, "classes"),
        (news(2), {"classes": [str(number) for number in range(51)]}, "classes"),
        (news(2), {"strategy": "best"}, "strategy"),
        (news(2), {"file_id": "file-none"}, "no file"),
    ],
)
async def test_a_project_that_is_none_is_refused(
    http: httpx.AsyncClient, text: str | bytes, more: dict[str, Any], said: str
) -> None:
    if not text:
        refused = await http.post("/v1/files", files={"purpose": (None, "user_data"), "file": ("a", b"")})
    else:
        refused = await create(http, text, **more)
    assert refused.status_code in (400, 404) and said in refused.json()["error"]["message"]
    assert (await http.get("/v1/labelling/projects")).json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"index": 0},
        {"index": 0, "label": "weather"},
        {"index": 0, "label": "sport", "skip": True},
        {"index": 9, "label": "sport"},
        {"index": -1, "skip": True},
        {"index": "0", "skip": True},
        {"index": 1 << 70, "skip": True},
        {"label": "sport"},
    ],
)
async def test_a_label_that_is_none_is_refused(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    id = (await create(http, news(3))).json()["id"]
    refused = await http.post(f"/v1/labelling/projects/{id}/labels", json=body)
    assert refused.status_code == 400
    assert (await http.post(f"/v1/labelling/projects/{id}/undo")).json()["item"] is None


async def test_markup_and_nul_come_back_as_text(http: httpx.AsyncClient) -> None:
    hostile = "<script>alert(1)</script>\0\u202e"
    project = (await create(http, lines({"text": hostile, "note": "a\0b"}, {"text": "b"}))).json()
    asked = (await http.get(f"/v1/labelling/projects/{project['id']}/next")).json()["data"]
    assert hostile.replace("\0", "") in [one["text"] for one in asked]


async def test_half_a_character_is_no_text(http: httpx.AsyncClient) -> None:
    refused = await create(http, '{"text": "\\ud83d"}\n')
    assert refused.status_code == 400 and "line 1" in refused.json()["error"]["message"]


async def test_other_fields_come_back_unchanged(http: httpx.AsyncClient) -> None:
    record = {"text": "a", "path": "C:\\u0000", "deep": [{"note": "x"}]}
    project = (await create(http, lines(record))).json()
    path = f"/v1/labelling/projects/{project['id']}"
    await http.post(f"{path}/labels", json={"index": 0, "label": "sport"})
    assert json.loads((await http.get(f"{path}/export")).text) == record | {"label": "sport"}


async def test_the_records_of_a_file_are_limited(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepwell.server.families.labelling import source

    monkeypatch.setattr(source, "MAX_ITEMS", 3)
    assert (await create(http, news(3))).status_code == 200
    refused = await create(http, news(4))
    assert refused.status_code == 400 and "split it" in refused.json()["error"]["message"]
