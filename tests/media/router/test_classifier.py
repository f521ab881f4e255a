"""The classifier: trained on a few requests it knows them again; files are read as written, and broken ones refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deepwell.errors import InvalidModelFile, InvalidRequest
from deepwell.media.router.classifier import SETS, RouterFile
from deepwell.media.router.features import features_of
from deepwell.media.router.joining import joined
from deepwell.media.router.labelled import Labelled, read_labelled
from deepwell.media.router.training import cross_validated, train_router

REQUESTS = [
    Labelled("draw a cat", ("image",)),
    Labelled("draw a dog", ("image",)),
    Labelled("画一只猫", ("image",)),
    Labelled("why is the sky blue", ("chat",)),
    Labelled("why is the sea green", ("chat",)),
    Labelled("为什么天是蓝的", ("chat",)),
    Labelled("read it aloud", ("speech",)),
    Labelled("read this aloud", ("speech",)),
    Labelled("write a poem and read it aloud", ("speech", "chat")),
    Labelled("write a song and read it aloud", ("chat", "speech")),
]


def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(REQUESTS), 8)).astype(np.float32)


def trained() -> RouterFile:
    return RouterFile(train_router(REQUESTS, vectors()), train_router(REQUESTS, None))


def test_what_was_learnt_is_known_again() -> None:
    weights = trained()
    for request, vector in zip(REQUESTS, vectors(), strict=True):
        features = features_of(request.text, request.attached)
        for likely in (
            weights.full.probabilities(features, vector),
            weights.alone.probabilities(features, None),
        ):
            assert likely.sum() == pytest.approx(1, abs=1e-5)
            assert SETS[int(likely.argmax())] == request.wanted()


def test_training_is_reproducible() -> None:
    first, second = train_router(REQUESTS, None), train_router(REQUESTS, None)
    np.testing.assert_array_equal(first.wordings, second.wordings)
    np.testing.assert_array_equal(first.clauses, second.clauses)


def test_the_cross_validation_answers_each_request_once() -> None:
    answers = cross_validated(REQUESTS, None, folds=5)
    assert len(answers) == len(REQUESTS) and set(answers) <= set(SETS)


def test_a_join_has_both_wishes_and_the_attachment_of_the_first() -> None:
    requests = [
        Labelled("Write a poem", ("chat",), "en"),
        Labelled("Draw a cat.", ("image",), "en"),
        Labelled("Say: good morning", ("speech",), "en"),
        Labelled("type it up", ("transcription",), "en", ("audio",)),
        Labelled("draw and say it", ("image", "speech"), "en"),
        Labelled("brighter", ("image",), "en", ("image",)),
        Labelled("画一只猫", ("image",), "zh"),
        Labelled("为什么天是蓝的", ("chat",), "zh"),
    ]
    joins = joined(requests, 40)
    assert len(joins) == 40 and joins == joined(requests, 40)
    for join in joins:
        first, second = requests[join.first], requests[join.second]
        assert {*join.request.intents} == {*first.intents, *second.intents}
        assert join.request.attached == first.attached and not second.attached
        assert join.request.language == first.language == second.language
        assert join.request.text.startswith(first.text.rstrip(".")) and ":" not in first.text
        assert join.request.text.lower().endswith(second.text.lower())
    assert joined(requests[4:5], 3) == []


def test_the_cross_validation_leaves_out_the_joins_of_a_request() -> None:
    requests = [replace_language(one) for one in REQUESTS]
    joins = joined(requests, 6)
    answers = cross_validated(requests, None, joins, folds=5)
    assert len(answers) == len(requests)


def replace_language(one: Labelled) -> Labelled:
    return Labelled(one.text, one.intents, "en" if one.text.isascii() else "zh", one.attached)


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    weights = trained()
    weights.write(tmp_path / "router.safetensors")
    found = RouterFile.read(tmp_path / "router.safetensors")
    np.testing.assert_allclose(found.full.vector, weights.full.vector, atol=2e-3)
    np.testing.assert_allclose(found.alone.runs, weights.alone.runs, atol=2e-3)
    np.testing.assert_array_equal(found.full.bias, weights.full.bias)


@pytest.mark.parametrize("damage", ["cut", "infinite", "other wordings", "other size"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    path, weights = tmp_path / "router.safetensors", trained()
    if damage == "infinite":
        weights = replace(weights, full=replace(weights.full, bias=weights.full.bias + np.float32(np.inf)))
    elif damage == "other wordings":
        weights = replace(weights, alone=replace(weights.alone, wordings=weights.alone.wordings[:, :-4]))
    elif damage == "other size":
        weights = replace(weights, full=replace(weights.full, vector=weights.full.vector[:, :-1]))
    weights.write(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InvalidModelFile):
        RouterFile.read(path)


def test_requests_are_read_and_bad_ones_refused(tmp_path: Path) -> None:
    good = {"text": "画一只猫", "language": "zh", "attached": [], "intents": ["image"]}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(good) + "\n", encoding="utf-8")
    assert read_labelled(path) == [Labelled("画一只猫", ("image",), "zh")]
    for bad in ({**good, "intents": ["video"]}, {**good, "intents": []}, {**good, "more": 1}, {"text": "x"}):
        path.write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(InvalidRequest):
            read_labelled(path)
    path.write_text("")
    with pytest.raises(InvalidRequest):
        read_labelled(path)
