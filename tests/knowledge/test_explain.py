"""Explained passages: their places in the rankings of one search, and what a reranker adds."""

from deepwell.knowledge.documents import ArmScore, Passage, Scores
from deepwell.knowledge.explain import explained_by_meaning, with_rerank


def passage(key, score, **more):
    return Passage(key, f"live:{key}", "a source", score, f"text {key}", **more)


def test_passages_of_live_sources_are_placed_by_meaning_alone():
    found = explained_by_meaning([passage(-2, 0.9), passage(-3, 0.4)], [-2, -1, -3], [0.8, 0.7, 0.5])
    assert [one.scores for one in found] == [
        Scores(0.9, dense=ArmScore(1, 0.8)),
        Scores(0.4, dense=ArmScore(3, 0.5)),
    ]


def test_a_reranker_tells_of_the_first_passages_that_are_explained():
    passages = [passage(1, 0.9, scores=Scores(0.9)), passage(2, 0.8), passage(3, 0.7, scores=Scores(0.7))]
    judged = with_rerank(passages, [-1.5, -2.5])
    assert judged[0].scores == Scores(0.9, rerank=-1.5)
    assert judged[1:] == passages[1:]
