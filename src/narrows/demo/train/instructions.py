"""Makes chats out of stories: picks words from a story by simple rules and asks for a story about them.

Inputs: a story and a seeded random generator. Outputs: a list of (role, text) turns.
Does not know tokens; the words are found by patterns, not by a language tool, so some requests read oddly.
"""

from __future__ import annotations

import random
import re
from collections import Counter

Turn = tuple[str, str]

SYSTEM_SHARE = 0.12

_NOUN = re.compile(
    r"\b(a|an|the)\s+(?:[a-z]+\s+)?([a-z]{3,})"
    r"(?=[.,!?]|\s+(?:was|and|to|in|on|that|who|is|had|with|for|of|said|from|at|named)\b)"
)
_NAMED = re.compile(
    r"\ban?\s+((?:[a-z]+\s+)?(?:girl|boy|man|woman|dog|cat|bird|rabbit|bear|mouse|fox|frog|fish|bunny|duck|lion"
    r"|owl|monkey|elephant|squirrel|turtle|horse|cow|pig|farmer|princess|king|robot|dragon|tree))\s+named\s+([A-Z][a-z]+)"
)
_NAME = re.compile(r"(?<=[a-z,] )([A-Z][a-z]{2,})\b")
_NOT_NOUN_WORDS = """
the and was were very little big small old new good nice happy sad one two three other same next first last
most best more lot time day end way thing things something side top bottom bit moment while back front middle
rest story great beautiful long young together there too had has did fun some lots all people food place size
look morning moral kind red blue green own whole idea
"""
_NOT_NAME_WORDS = """
The This That There Hi And But She They His Her When Then One Once What Mom Mommy Dad Daddy God You Yes May
Mrs
"""
_NOT_NOUNS = frozenset(_NOT_NOUN_WORDS.split())
_NOT_NAMES = frozenset(_NOT_NAME_WORDS.split())

_ONE_WORD = (
    "Tell me a story about {0}.",
    "Tell me a short story about {0}.",
    "Write a story about {0}.",
    "Write a short story about {0}.",
    "Can you tell me a story about {0}?",
    "Please tell me a story about {0}.",
    "I want to hear a story about {0}.",
    "A story about {0}, please.",
    "tell me a story about {0}",
    "Write a simple story for children about {0}.",
    "Once upon a time there was a story about {0}. Tell it to me.",
)
_TWO_WORDS = (
    "Tell me a story about {0} and {1}.",
    "Write a short story about {0} and {1}.",
    "Can you tell me a story with {0} and {1}?",
    "Please write a story with {0} and {1} in it.",
    "Write a story that has {0} and {1}.",
    "I would like a story about {0} and {1}, please.",
    "tell me a story about {0} and {1}",
)
_ANY_STORY = (
    "Tell me a story.",
    "Tell me a short story.",
    "Write a story.",
    "Write a short story for a child.",
    "Can you tell me a story?",
    "Please tell me a bedtime story.",
    "I want to hear a story!",
    "Once upon a time",
    "Tell me another story.",
)
_CONTINUE = (
    "Continue this story: {0}",
    "Please continue this story: {0}",
    "How does this story go on? {0}",
    "Finish this story: {0}",
    "{0}",
)
_MORE = (
    "What happened next?",
    "And then?",
    "Go on.",
    "Tell me more.",
    "Please continue.",
    "What happened then?",
)
_GREETINGS = (
    "Hello!",
    "Hi!",
    "Hi there.",
    "Hello, how are you?",
    "Who are you?",
    "What can you do?",
    "Good morning!",
    "Hey",
)
_REPLIES = (
    "Hello! I tell simple stories. Would you like to hear one?",
    "Hi! I am a small story teller. What should the story be about?",
    "Hello! I can tell you a little story. What would you like it to be about?",
)
_SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "You are a helpful, honest and friendly assistant.",
    "You are an AI assistant.",
    "You are a friendly chatbot.",
    "You are a kind assistant that answers briefly.",
    "You are a small language model.",
    "You are a story teller.",
    "You are a writer of books for young readers.",
    "You are narrows-stories, a model that tells simple stories.",
    "You are a teacher reading to a class.",
    "You tell short stories for children.",
    "You tell bedtime stories.",
    "Your stories are simple and end well.",
    "Answer with a short story.",
    "Answer in simple English.",
    "Write in short, clear sentences.",
    "Be kind and patient.",
    "Be concise.",
    "Do what the user asks.",
    "Use words that a small child understands.",
)
_AGREEMENTS = ("Yes, please.", "Yes!", "Yes, tell me a story.", "OK, tell me a story.")


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def find_topics(story: str) -> list[str]:
    """Up to six things or names the story is about, most frequent first, ready to be put into a request."""
    articles: dict[str, str] = {}
    for article, word in _NOUN.findall(story):
        if word not in _NOT_NOUNS and not word.endswith("s"):
            # "the water" stays "the water" unless the story itself speaks of "a water".
            articles[word] = "the" if article == "the" and articles.get(word, "the") == "the" else "a"
    by_count = sorted(articles, key=lambda word: -story.count(word))
    things = [f"the {word}" if articles[word] == "the" else _with_article(word) for word in by_count]
    names = Counter(name for name in _NAME.findall(story) if name not in _NOT_NAMES)
    frequent_names = [name for name, count in names.most_common(2) if count >= 2]
    named = [f"{_with_article(kind)} named {name}" for kind, name in _NAMED.findall(story)[:1]]
    return named + frequent_names[: 0 if named else 2] + things[:4]


def _split_first_sentence(story: str) -> tuple[str, str] | None:
    match = re.match(r"(.{20,160}?[.!?]\"?)\s+(?=\S)", story)
    return (match.group(1), story[match.end() :]) if match else None


def _split_middle(story: str) -> tuple[str, str] | None:
    paragraphs = story.split("\n\n")
    if len(paragraphs) < 2:
        return None
    middle = (len(paragraphs) + 1) // 2
    return "\n\n".join(paragraphs[:middle]), "\n\n".join(paragraphs[middle:])


def _request(story: str, rng: random.Random) -> str:
    topics = find_topics(story)
    choice = rng.random()
    if not topics or choice < 0.15:
        return rng.choice(_ANY_STORY)
    if len(topics) >= 2 and choice < 0.55:
        first, second = rng.sample(topics[:4], 2)
        return rng.choice(_TWO_WORDS).format(first, second)
    return rng.choice(_ONE_WORD).format(rng.choice(topics[:4]))


def make_chat(story: str, rng: random.Random) -> list[Turn]:
    """Turns that end in the story, sometimes behind a system message that any chat program might send."""
    if rng.random() < SYSTEM_SHARE:
        return [("system", rng.choice(_SYSTEM_MESSAGES)), *_turns(story, rng)]
    return _turns(story, rng)


def _turns(story: str, rng: random.Random) -> list[Turn]:
    """The story asked for, continued from its first sentence, or told in two parts."""
    choice = rng.random()
    first = _split_first_sentence(story)
    if first and choice < 0.15:
        return [("user", rng.choice(_CONTINUE).format(first[0])), ("assistant", first[1])]
    halves = _split_middle(story)
    if halves and choice < 0.25:
        opening = [("user", _request(story, rng)), ("assistant", halves[0])]
        return [*opening, ("user", rng.choice(_MORE)), ("assistant", halves[1])]
    if choice < 0.28:
        greeting = [("user", rng.choice(_GREETINGS)), ("assistant", rng.choice(_REPLIES))]
        wish = rng.choice(_AGREEMENTS) if rng.random() < 0.4 else _request(story, rng)
        return [*greeting, ("user", wish), ("assistant", story)]
    return [("user", _request(story, rng)), ("assistant", story)]
