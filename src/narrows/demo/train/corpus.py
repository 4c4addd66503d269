"""Reads a folder of story files into stories, and leaves out whatever overlaps the held-out text.

Inputs: text files (stories parted by blank lines, one paragraph per line). Outputs: `Source` values.
Does not know tokens, instructions or the order in which stories are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from narrows.errors import InvalidConfig

SHINGLE_WORDS = 8
MAX_OVERLAP = 0.25
MAX_STORY_CHARS = 3000
MIN_STORY_CHARS = 80
MIN_PARAGRAPH_CHARS = 200


@dataclass(frozen=True, slots=True)
class SourceRule:
    """How much a file counts at the start and the end of a run, and how its stories are read."""

    prefix: str
    start_weight: float
    end_weight: float
    has_instructions: bool = True
    merges_lines: bool = False


# Hard words first, simple ones last: the old books teach general English while the rate is high and are
# nearly gone when it decays, so the finished model writes like the simple sources.
RULES = (
    SourceRule("tinystories_v2gpt4", 0.12, 0.24),
    SourceRule("tinystories_v1_train_head_cased", 0.12, 0.21),
    SourceRule("tinystories_v1_train_head_truecased", 0.09, 0.15),
    SourceRule("tinystories_v1_train_tail", 0.09, 0.16),
    SourceRule("simplestories", 0.07, 0.11),
    SourceRule("ccby_storybooks", 0.06, 0.06, merges_lines=True),
    SourceRule("pd_standardebooks", 0.17, 0.03, has_instructions=False),
    SourceRule("pd_gutenberg", 0.21, 0.02, has_instructions=False),
    SourceRule("pd_fairytaleqa", 0.07, 0.02, has_instructions=False),
)
OTHER_FILES = SourceRule("", 0.1, 0.1)


@dataclass(frozen=True, slots=True)
class Source:
    """One file's stories, paragraphs joined by a blank line."""

    name: str
    rule: SourceRule
    stories: tuple[str, ...]


class HeldOutFilter:
    """Knows the word shingles of the held-out text and tells which stories share too many of them."""

    def __init__(self, text: str) -> None:
        words = text.split()
        self._shingles = frozenset(_shingles(words))

    def is_held_out(self, story: str) -> bool:
        """True when more than a quarter of the story's shingles occur in the held-out text."""
        shingles = _shingles(story.split())
        shared = sum(shingle in self._shingles for shingle in shingles)
        return shared > MAX_OVERLAP * len(shingles)


def _shingles(words: list[str]) -> list[str]:
    folded = [word.lower().strip(".,!?\"'") for word in words]
    count = max(1, len(folded) - SHINGLE_WORDS + 1)
    return [" ".join(folded[start : start + SHINGLE_WORDS]) for start in range(count)]


def read_text(path: Path) -> str:
    """The file's text; refuses a missing or empty one."""
    if not path.is_file():
        raise InvalidConfig(f"no such file: {path}; give the path of a UTF-8 text file")
    text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    if not text.strip():
        raise InvalidConfig(f"{path} is empty; remove it or fill it with text")
    return text


def _merge_lines(lines: list[str]) -> list[str]:
    """Joins a picture book's one-sentence lines into paragraphs."""
    paragraphs: list[str] = []
    for line in lines:
        if paragraphs and len(paragraphs[-1]) < MIN_PARAGRAPH_CHARS:
            paragraphs[-1] += " " + line
        else:
            paragraphs.append(line)
    return paragraphs


def _pieces(paragraphs: list[str]) -> list[str]:
    """Cuts a long chapter between paragraphs, so that one chapter does not fill many rows in a run."""
    pieces: list[list[str]] = [[]]
    length = 0
    for paragraph in paragraphs:
        if pieces[-1] and length + len(paragraph) > MAX_STORY_CHARS:
            pieces.append([])
            length = 0
        pieces[-1].append(paragraph)
        length += len(paragraph)
    return ["\n\n".join(piece) for piece in pieces]


def split_stories(text: str, *, merges_lines: bool) -> list[str]:
    """Stories of one file, long ones cut, very short ones left out."""
    stories: list[str] = []
    for block in text.split("\n\n"):
        lines = [line.strip() for line in block.split("\n") if line.strip()]
        if lines:
            stories.extend(_pieces(_merge_lines(lines) if merges_lines else lines))
    return [story for story in stories if len(story) >= MIN_STORY_CHARS]


def rule_for(name: str) -> SourceRule:
    """The first rule whose prefix fits, longest prefixes being distinct by construction."""
    return next((rule for rule in RULES if name.startswith(rule.prefix)), OTHER_FILES)


def read_corpus(folder: Path, held_out: Path) -> list[Source]:
    """Every `.txt` file of the folder as a source, without anything from the held-out file."""
    if not folder.is_dir():
        raise InvalidConfig(f"no such folder: {folder}; --data takes a folder of .txt files")
    paths = [path for path in sorted(folder.glob("*.txt")) if path.resolve() != held_out.resolve()]
    if not paths:
        raise InvalidConfig(f"{folder} holds no .txt file to train on")
    held_out_filter = HeldOutFilter(read_text(held_out))
    sources = []
    for path in paths:
        rule = rule_for(path.name)
        stories = split_stories(read_text(path), merges_lines=rule.merges_lines)
        kept = tuple(story for story in stories if not held_out_filter.is_held_out(story))
        if kept:
            sources.append(Source(path.stem, rule, kept))
    if not sources:
        raise InvalidConfig(f"{folder} holds no story that is not part of {held_out}")
    return sources
