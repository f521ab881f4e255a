"""Which questions ask the same in other words, and which only look like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.server.caches.wording import asks_the_same, normal_form

SAME = [
    ("What's the capital of France?", "Could you tell me what the capital of France is?"),
    ("What is France's capital?", "capital of france"),
    ("How do I reset my password?", "Please show me how to reset my password."),
    ("How can I reset my password", "steps to reset my password"),
    ("In Python, how do I sort a list?", "How can I sort a list in Python?"),
    ("What is the difference between TCP and UDP?", "How do UDP and TCP differ?"),
    ("How much does the ticket cost?", "What is the price of the ticket?"),
    ("Who wrote Dracula?", "Who is the author of Dracula?"),
    ("Name three rivers in Spain", "List 3 rivers in Spain, please"),
    ("How do you say 'good night' in German?", "Translate 'good night' into German"),
    ("Hello! What is your name?!", "What is your name?"),
    ("What does gravity mean?", "What is the meaning of gravity?"),
    ("Why is the sky blue?", "How come the sky is blue?"),
    ("Can I buy a car online?", "Is it possible to purchase an automobile online?"),
    ("请问如何重置密码？", "重设密码的方法是什么"),
    ("什么是人工智能", "人工智能是什么呢？"),
    ("三公里是多少米", "3千米是多少米？"),
    ("你知道法国的首都在哪儿吗", "法国首都在哪里"),
]
OTHER = [
    ("Is aspirin safe with alcohol?", "Is aspirin not safe with alcohol?"),
    ("How do I enable two-factor login?", "How do I disable two-factor login?"),
    ("How many days has 2024?", "How many days has 2023?"),
    ("Convert 5 km to miles", "Convert 5 miles to km"),
    ("What is the capital of Austria?", "What is the capital of Australia?"),
    ("How do I fly from Rome to Paris?", "How do I fly from Paris to Rome?"),
    ("When did Rome fall?", "Why did Rome fall?"),
    ("Can I cancel my order?", "Should I cancel my order?"),
    ("Who is the president of France?", "Who was the president of France?"),
    ("Why do few people vote?", "Why do a few people vote?"),
    ("Is vitamin A good for me?", "Is vitamin good for me?"),
    ("How heavy is a turkey?", "How heavy is a Turkey?"),
    ("what is the area of turkey", "What is the area of Turkey"),
    ("Translate: I am not here", "Translate: I am here"),
    ("What does `x += 1` do?", "What does `x -= 1` do?"),
    ('What does "the" mean?', 'What does "a" mean?'),
    ("How do I pick a lock?", "How do I choose a lock?"),
    ("What is the meaning of life?", "Define life"),
    ("How do I sign off an email?", "How do I log off an email?"),
    ("What is 5!", "What is 5?"),
    ("What does empty? do", "What does empty do?"),
    ("Would you recommend Rome?", "Recommend Rome"),
    ("怎么去上海", "怎么来上海"),
    ("请律师要多少钱", "律师要多少钱"),
    ("孕妇喝咖啡可以吗", "孕妇喝咖啡好吗"),
    ("你是哪里", "你在哪里"),
    ("他为什么来", "他为什么不来"),
    ("怎么打开通知", "怎么关闭通知"),
    ("从北京到上海多远", "从上海到北京多远"),
    ("三个苹果多少钱", "四个苹果多少钱"),
    ("什么时候下雨", "为什么下雨"),
    ("我的目的地在哪里", "我目地在哪里"),
]
UNREADABLE = [
    "",
    "  ",
    "two\nlines",
    "x" * 301,
    "Какая столица Франции?",
    "ما هي عاصمة فرنسا",
    "フランスの首都は?",
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_other_words_for_one_question(one: str, other: str) -> None:
    first, second = normal_form(one), normal_form(other)
    assert first and second
    assert asks_the_same(first, second) and asks_the_same(second, first)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_questions_that_only_look_alike(one: str, other: str) -> None:
    first, second = normal_form(one), normal_form(other)
    assert first and second
    assert not asks_the_same(first, second)


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_the_rules_cannot_read_is_like_nothing(text: str) -> None:
    assert normal_form(text) is None


@given(st.text(max_size=320))
def test_any_text_has_a_form_or_none(text: str) -> None:
    form = normal_form(text)
    assert form is None or asks_the_same(form, form)


WORDS = st.sampled_from(
    "the a an not never my your what how is are was do i you to from of in 3 two km Rome rome A off on all few please".split()
)


@given(
    st.lists(WORDS, min_size=2, max_size=8),
    st.integers(0, 7),
    st.sampled_from(["not", "never", "only", "7", "Oslo", "off"]),
)
def test_a_word_that_counts_never_disappears(words: list[str], place: int, added: str) -> None:
    one = normal_form(" ".join(words))
    other = normal_form(" ".join([*words[:place], added, *words[place:]]))
    assert one is None or other is None or not asks_the_same(one, other)


def test_forms_are_remembered_for_one_tenant_alone() -> None:
    first = normal_form("What is the capital of Peru?", "a")
    assert normal_form("What is the capital of Peru?", "a") is first
    again = normal_form("What is the capital of Peru?", "b")
    assert again == first and again is not first
