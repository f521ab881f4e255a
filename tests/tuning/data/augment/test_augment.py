"""Rewriting of records: what is kept, what is refused and why, over translators that are small programs of the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from deepwell.errors import InvalidRequest
from deepwell.messages import Note
from deepwell.tuning.data.augment.augment import augment
from deepwell.tuning.data.augment.filters import Filters, LabelCheck, distinctness, similarity
from deepwell.tuning.data.augment.rewriters import BackTranslation, language_of
from deepwell.tuning.data.records import BadRecord, Record


class Dictionary:
    """Translates word by word; a seed turns the words."""

    def __init__(self, **words: str) -> None:
        self.words = words
        self.asked: list[tuple[tuple[str, ...], str, str, int | None]] = []

    def translate(
        self, texts: Sequence[str], source: str, target: str, *, seed: int | None = None
    ) -> list[str]:
        self.asked.append((tuple(texts), source, target, seed))
        found = [" ".join(self.words.get(word, word) for word in text.split()) for text in texts]
        return found if seed is None else [" ".join(reversed(one.split())) for one in found]


class Fixed:
    """Gives the rewritings that a test names."""

    name, varied = "fixed", True

    def __init__(self, **texts: str) -> None:
        self.texts = texts

    def rewrite(self, texts: Sequence[str], *, number: int = 0) -> list[str]:
        return [self.texts.get(one, "") for one in texts]


def text(content: str, label: str | None = None, line: int = 1) -> Record:
    return Record(({"role": "user", "content": content},), line=line, label=label, format="text")


def test_similarity_compares_words_in_their_order():
    assert similarity("The film, good!", "the film good") == 1
    assert similarity("a b c d", "e f g h") == 0
    assert similarity("a b c d", "a b x d") == pytest.approx(0.75)
    assert similarity("电影很好", "电影不好") < 1
    assert distinctness([("a b", "a b"), ("a b", "c d")]) == pytest.approx(0.5)
    assert distinctness([]) == 0


@pytest.mark.parametrize(
    ("rewritten", "problem"),
    [
        (" ", "empty"),
        ("Long篇空 forgets its story", "language"),
        ("good", "length"),
        ("a really very good film that everybody must see at once", "length"),
        ("A good, long FILM!", "echo"),
        ("a fine long picture", None),
    ],
)
def test_a_rewriting_is_judged_beside_its_source(rewritten: str, problem: str | None):
    assert Filters().problem("a good long film", rewritten) == problem


def test_a_chinese_text_stays_chinese():
    filters = Filters()
    assert filters.problem("这部 IMDb 电影很好看", "a very good film") == "language"
    assert filters.problem("这部 IMDb 电影很好看", "这部电影值得一看 IMDb") is None


def test_back_translation_translates_there_once_and_back_as_often_as_asked():
    translator = Dictionary(good="gut", gut="fine", film="kino", kino="movie")
    rewriter = BackTranslation(translator, "en", "zh", seed=7)
    assert rewriter.name == "en-zh-en"
    assert rewriter.rewrite(["good film", "film"]) == ["fine movie", "movie"]
    assert rewriter.rewrite(["good film"], number=2) == ["movie fine"]
    assert translator.asked == [
        (("good film", "film"), "en", "zh", None),
        (("gut kino", "kino"), "zh", "en", None),
        (("gut kino",), "zh", "en", 9),
    ]


def test_what_has_no_translation_there_is_not_asked_back():
    class Silent(Dictionary):
        def translate(self, texts: Sequence[str], source: str, target: str, **more: Any) -> list[str]:
            return ["" if one == "lost" else one for one in super().translate(texts, source, target, **more)]

    translator = Silent()
    assert BackTranslation(translator, "en", "es").rewrite(["lost", "kept"]) == ["", "kept"]
    assert translator.asked[1][0] == ("kept",)


def test_every_record_and_every_rewriting_is_accounted_for():
    chat = Record(
        (
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "said"},
            {"role": "user", "content": "what is good"},
            {"role": "assistant", "content": "answer"},
        ),
        line=4,
        source="f",
        extra={"id": 9},
    )
    records = [
        text("a good film", line=1),
        text("a good movie", line=2),
        BadRecord(3, "messages", Note("data_missing"), "f"),
        chat,
        Record(({"role": "assistant", "content": "alone"},), line=5),
        text("short", line=6),
    ]
    rewriter = Fixed(
        **{
            "a good film": "one fine picture",
            "a good movie": "One fine picture.",
            "what is good": "which one is good",
        }
    )
    told: list[tuple[int, int]] = []
    found = augment(records, rewriter, tell=lambda done, total: told.append((done, total)))
    assert (found.tried, found.accepted) == (4, 2) and told == [(4, 4)]
    assert dict(found.refused) == {"duplicate": 1, "empty": 1}
    account = found.to_json()
    assert (account["read"], account["kept"], account["dropped_by_reason"]) == (6, 5, {"unreadable": 1})
    assert account["warned_by_reason"] == {"no_user_text": 1, "rewriting_duplicate": 1, "rewriting_empty": 1}
    assert account["accepted_share"] == 0.5 and account["label_agreement"] is None
    assert [one.line for one in found.records] == [1, 1, 2, 4, 4, 5, 6]
    new = found.records[4]
    assert [one["content"] for one in new.messages] == ["first", "said", "which one is good", "answer"]
    assert new.extra == {"id": 9, "augmented_from": 4, "augmented_by": "fixed"}
    assert chat.messages[2]["content"] == "what is good"


def test_a_rewriting_that_equals_another_record_is_a_duplicate():
    found = augment([text("a b c"), text("d e f")], Fixed(**{"a b c": "D, e f", "d e f": "g h i"}))
    assert found.accepted == 1 and dict(found.refused) == {"duplicate": 1}


def reviews() -> list[Record]:
    good, bad = ("good", "fine", "great", "lovely"), ("bad", "poor", "awful", "dull")
    return [
        text(f"a {words[at % 4]} {words[(at + 1) % 4]} film {at}", label, at)
        for at in range(20)
        for words, label in ((good, "up"), (bad, "down"))
    ]


def test_a_rewriting_that_loses_its_label_is_refused():
    records = reviews()
    turned, same = records[0].text, records[1].text
    rewriter = Fixed(**{turned: "a dull and awful, bad movie", same: "the film was poor and awful"})
    found = augment(records, rewriter)
    assert found.refused["label"] == 1 and [pair[0] for pair in found.pairs] == [same]
    assert found.source_agreement == 1 and found.label_agreement == 0.5
    new = [one for one in found.records if "augmented_by" in one.extra]
    assert [one.label for one in new] == ["down"]


def test_a_classifier_that_is_wrong_about_the_source_does_not_testify():
    records = [*reviews(), text("an awful, dull and bad film", "up", 99)]
    source = records[-1].text
    check = LabelCheck([one.text for one in records], [one.label or "" for one in records])
    judged = check.judge([len(records) - 1], ["a poor movie, awful"])
    assert list(judged.lost) == [False] and list(judged.same) == [False]
    assert augment(records, Fixed(**{source: "one poor and awful picture"})).accepted == 1


def test_one_class_alone_is_not_judged():
    check = LabelCheck(["a", "b"], ["x", "x"])
    assert check.accuracy is None
    judged = check.judge([0], ["c"])
    assert list(judged.lost) == [False] and list(judged.same) == [None]


def test_several_rewritings_of_a_record_need_a_rewriter_that_varies():
    translator = Dictionary(good="gut", gut="fine")
    rewriter = BackTranslation(translator, "en", "zh")
    found = augment([text("good old film")], rewriter, per_record=2)
    assert [pair[1] for pair in found.pairs] == ["fine old film", "film old fine"]
    fixed = BackTranslation(translator, "en", "es", varied=False)
    with pytest.raises(InvalidRequest, match="the same rewriting"):
        augment([text("good")], fixed, per_record=2)
    with pytest.raises(InvalidRequest, match="no text"):
        augment([Record(({"role": "assistant", "content": "x"},))], rewriter)


def test_the_language_is_that_of_most_texts():
    assert language_of(["a good film", "电影"]) == "en"
    assert language_of(["这部电影 IMDb 评分很高"]) == "zh"
    assert language_of(["12 !"]) == "en"
