"""The text the embedded model is trained on: chats made from stories, as the chat template writes them."""

from __future__ import annotations

import random

import pytest

from narrows.demo.train.batches import render_chat
from narrows.demo.train.corpus import split_stories
from narrows.demo.train.instructions import find_topics, make_chat
from narrows.demo.train.tokenizer import CHAT_TEMPLATE

STORY = "Once upon a time there was a dog named Rex. Rex had a ball. The ball was red.\n\nHe lost the ball."


def test_chat_template_writes_what_the_training_text_looks_like() -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment().from_string(CHAT_TEMPLATE)
    turns = [("user", "Tell me a story. "), ("assistant", "A dog ran."), ("user", "And then?")]
    for chat in (turns, [("system", " Be kind.\n"), *turns]):
        messages = [{"role": role, "content": text} for role, text in chat]
        assert template.render(messages=messages) == render_chat(chat)
        assert template.render(messages=messages, add_generation_prompt=True).endswith("<|end|><|assistant|>")


def test_a_system_message_is_the_first_line_of_the_first_user_turn() -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Environment().from_string(CHAT_TEMPLATE)
    user = {"role": "user", "content": "Hi!"}
    rendered = template.render(messages=[{"role": "system", "content": "Be kind."}, user, user])
    assert rendered == "<|user|>Be kind.\nHi!<|end|><|user|>Hi!<|end|>"
    assert template.render(messages=[{"role": "system", "content": " "}, user]) == "<|user|>Hi!<|end|>"
    assert template.render(messages=[]) == ""


def test_about_one_chat_in_eight_begins_with_a_system_message() -> None:
    rng = random.Random(5)
    first = [make_chat(STORY, rng)[0] for _ in range(1000)]
    systems = [text for role, text in first if role == "system"]
    assert 90 <= len(systems) <= 150
    assert len(set(systems)) == 20


def test_requests_name_what_the_story_is_about() -> None:
    assert find_topics(STORY)[:2] == ["a dog named Rex", "a ball"]
    chats = [make_chat(STORY, random.Random(seed)) for seed in range(40)]
    asked = [[turn for turn in turns if turn[0] != "system"] for turns in chats]
    assert all(turns[0][0] == "user" and turns[-1][0] == "assistant" for turns in asked)
    assert any("a ball" in turns[0][1] for turns in asked)
    assert {len(turns) for turns in asked} >= {2, 4}


def test_long_chapters_are_cut_between_paragraphs() -> None:
    pieces = split_stories(
        "\n".join(f"Paragraph {n} " + "word " * 100 for n in range(30)), merges_lines=False
    )
    assert len(pieces) > 1
    assert all(len(piece) < 4000 for piece in pieces)
