"""Ratings over HTTP: pairs become a study, raters are blind, and the results say what they prefer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

STUDIES = "/v1/ratings/studies"


def lines(*pairs: Any) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in pairs)


def pairs(count: int = 12) -> str:
    return lines(
        *(
            {
                "prompt": f"question {number}",
                "first": {"model": "base", "answer": f"plain {number}"},
                "second": {"model": "tuned", "answer": f"better {number}"},
            }
            for number in range(count)
        )
    )


async def create(http: httpx.AsyncClient, text: str | bytes, **more: Any) -> httpx.Response:
    form = {"purpose": (None, "user_data"), "file": ("pairs.jsonl", text)}
    id = (await http.post("/v1/files", files=form)).json()["id"]
    return await http.post(STUDIES, json={"file_id": id} | more)


async def study(http: httpx.AsyncClient, count: int = 12) -> str:
    return f"{STUDIES}/{(await create(http, pairs(count))).json()['id']}"


async def rate(http: httpx.AsyncClient, path: str, rater: str, prefer: str) -> list[dict[str, Any]]:
    """Rates all pairs; answers that begin with `prefer` win. Returns the pairs as they were shown."""
    shown: list[dict[str, Any]] = []
    while found := (await http.get(f"{path}/next", params={"rater": rater})).json()["data"]:
        for pair in found:
            choice = "left" if pair["left"].startswith(prefer) else "right"
            body = {"rater": rater, "index": pair["index"], "choice": choice if prefer else "tie"}
            assert (await http.post(f"{path}/votes", json=body)).status_code == 200
            shown.append(pair)
    return shown


async def test_a_study_from_its_file_to_its_results(http: httpx.AsyncClient) -> None:
    made = (await create(http, pairs(), name="base or tuned")).json()
    assert (made["object"], made["name"], made["pairs"], made["votes"]) == (
        "ratings.study",
        "base or tuned",
        12,
        0,
    )
    path = f"{STUDIES}/{made['id']}"
    await rate(http, path, "Ada", "better")
    await rate(http, path, "林", "better")
    found = (await http.get(f"{path}/results")).json()
    assert (found["first"], found["second"], found["rated"]) == ("base", "tuned", 12)
    assert found["win_rate"]["value"] == 1 and found["win_rate"]["low"] < 1
    assert [one["second"] for one in found["raters"]] == [12, 12]
    (agreement,) = found["agreements"]
    assert (agreement["raters"], agreement["pairs"], agreement["agreement"]["value"]) == (
        ["Ada", "林"],
        12,
        1,
    )
    assert agreement["kappa"] is None  # both always said the same, as they would by chance
    exported = [json.loads(line) for line in (await http.get(f"{path}/export")).text.splitlines()]
    assert len(exported) == 24 and {one["preferred"] for one in exported} == {"tuned"}
    assert (await http.get(STUDIES)).json()["data"][0]["votes"] == 24
    assert (await http.delete(path)).json()["deleted"]
    assert (await http.get(f"{path}/results")).status_code == 404


async def test_raters_are_blind_and_have_orders_of_their_own(http: httpx.AsyncClient) -> None:
    path = await study(http, 40)
    asked = [(await http.get(f"{path}/next", params={"rater": r, "limit": 40})) for r in ("a", "b")]
    for answer in asked:
        assert "tuned" not in answer.text and "base" not in answer.text
    assert "tuned" not in (await http.get(path)).text
    first, second = ([(one["index"], one["left"]) for one in answer.json()["data"]] for answer in asked)
    assert sorted(index for index, _ in first) == list(range(40))
    assert [index for index, _ in first] != [index for index, _ in second]
    left = sum(text.startswith("better") for _, text in first)
    assert 8 <= left <= 32  # each model is on either side
    assert dict(first) != dict(second)
    again = (await http.get(f"{path}/next", params={"rater": "a", "limit": 40})).json()["data"]
    assert [(one["index"], one["left"]) for one in again] == first  # a reload shows the same


async def test_a_vote_is_kept_replaced_and_taken_back(http: httpx.AsyncClient) -> None:
    path = await study(http, 3)
    pair = (await http.get(f"{path}/next", params={"rater": "a"})).json()["data"][0]
    vote = {"rater": "a", "index": pair["index"]}
    said = (await http.post(f"{path}/votes", json=vote | {"choice": "left"})).json()
    assert said == {"rater": "a", "rated": 1, "pairs": 3}
    assert (await http.post(f"{path}/votes", json=vote | {"choice": "tie"})).json()["rated"] == 1
    assert (await http.get(f"{path}/results")).json()["raters"][0]["tie"] == 1
    undone = (await http.post(f"{path}/undo", json={"rater": "a"})).json()
    assert (undone["pair"], undone["progress"]["rated"]) == (pair, 0)
    assert (await http.post(f"{path}/undo", json={"rater": "a"})).json()["pair"] is None
    assert (await http.get(f"{path}/results")).json()["win_rate"] is None


async def test_raters_who_disagree(http: httpx.AsyncClient) -> None:
    path = await study(http, 20)
    await rate(http, path, "a", "better")
    await rate(http, path, "b", "plain")
    await rate(http, path, "c", "")
    found = (await http.get(f"{path}/results")).json()
    assert found["win_rate"]["value"] == 0.5
    assert [one["agreement"]["value"] for one in found["agreements"]] == [0, 0, 0]
    assert found["agreements"][0]["kappa"]["value"] == 0


PAIR = {"prompt": "q", "first": {"model": "a", "answer": "x"}, "second": {"model": "b", "answer": "y"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\n", "no pairs"),
        ("nothing\n", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ("[1]\n", "line 1 is no object"),
        (lines(PAIR, {"prompt": "q", "first": "x", "second": "y"}), "line 2 is no pair"),
        (lines(PAIR | {"prompt": 7}), "line 1 is no pair"),
        (lines(PAIR | {"first": {"model": "", "answer": "x"}}), "line 1 is no pair"),
        (lines(PAIR, PAIR | {"first": {"model": "c", "answer": "x"}}), "line 2 compares 'c' with 'b'"),
        (json.dumps(PAIR | {"prompt": "\ud83d"}), "line 1 holds half of a surrogate pair"),
        (b"\xff\xfe\n", "line 1 is no JSON"),
    ],
)
async def test_a_file_that_is_none_is_refused(http: httpx.AsyncClient, text: str | bytes, said: str) -> None:
    refused = await create(http, text)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]
    assert (await http.get(STUDIES)).json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"index": 0, "choice": "left"},
        {"index": 0, "choice": "first", "rater": "a"},
        {"index": 3, "choice": "left", "rater": "a"},
        {"index": -1, "choice": "left", "rater": "a"},
        {"index": "0", "choice": "left", "rater": "a"},
        {"index": 0, "choice": "left", "rater": ""},
        {"index": 0, "choice": "left", "rater": "a\nb"},
        {"index": 0, "choice": "left", "rater": "a" * 65},
    ],
)
async def test_a_vote_that_is_none_is_refused(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    path = await study(http, 3)
    assert (await http.post(f"{path}/votes", json=body)).status_code == 400
    assert (await http.get(path)).json()["votes"] == 0


async def test_the_raters_and_the_pairs_of_a_study_are_limited(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepwell.server.families.ratings import source
    from deepwell.storage.tuning import ratings

    monkeypatch.setattr(ratings, "MAX_RATERS", 2)
    path = await study(http, 3)
    for rater in ("a", "b"):
        body = {"rater": rater, "index": 0, "choice": "tie"}
        assert (await http.post(f"{path}/votes", json=body)).status_code == 200
    refused = await http.post(f"{path}/votes", json={"rater": "c", "index": 0, "choice": "tie"})
    assert refused.status_code == 400 and "2 raters" in refused.json()["error"]["message"]
    assert (
        await http.post(f"{path}/votes", json={"rater": "a", "index": 1, "choice": "tie"})
    ).status_code == 200
    monkeypatch.setattr(source, "MAX_PAIRS", 3)
    assert (await create(http, pairs(4))).status_code == 400


async def test_markup_and_nul_come_back_as_text(http: httpx.AsyncClient) -> None:
    hostile = "<script>alert(1)</script>\0\u202e"
    pair = PAIR | {"prompt": hostile, "first": {"model": hostile, "answer": hostile}}
    path = f"{STUDIES}/{(await create(http, lines(pair))).json()['id']}"
    shown = (await http.get(f"{path}/next", params={"rater": hostile.replace(chr(0), "")})).json()["data"][0]
    assert shown["prompt"] == hostile.replace("\0", "")
    assert (await http.get(f"{path}/export")).headers["x-content-type-options"] == "nosniff"
