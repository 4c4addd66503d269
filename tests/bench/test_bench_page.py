"""The page, and two results beside each other."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_fakes import ABOUT, measured, records, result, spoilt

from narrows.bench import compare, document
from narrows.bench.document import Result
from narrows.bench.html import page
from narrows.bench.record import Record
from narrows.errors import InvalidConfig


def compared(first: list[Record], second: list[Record]) -> dict[str, compare.Row]:
    rows, _ = compare.compare(
        document.to_json(result(first)), document.to_json(result(second)), names=(Path("a"), Path("b"))
    )
    return {row.figure: row for row in rows}


def test_a_run_compared_with_itself_shows_no_difference() -> None:
    rows = compared(records(), records())
    assert {row.verdict for row in rows.values()} <= {"no difference shown", "too few requests to say"}
    assert all(row.ratio.value == pytest.approx(1.0) for row in rows.values())


def test_a_slower_run_is_worse_and_a_faster_one_better() -> None:
    slower, faster = compared(records(), records(1.5)), compared(records(1.5), records())
    for figure in ("TTFT p50", "TPOT p50", "ITL p50", "E2E p50"):
        assert slower[figure].verdict == "worse"
        assert faster[figure].verdict == "better"
        assert slower[figure].ratio.value == pytest.approx(1.5)
    assert slower["TTFT p99"].verdict == "too few requests to say"


def test_what_differs_in_the_settings_is_said() -> None:
    first = document.to_json(result(records()))
    second = json.loads(json.dumps(document.to_json(result(spoilt()))))
    second["target"]["serve"] = "--threads 1"
    rows, notes = compare.compare(first, second, names=(Path("a"), Path("b")))
    assert "target serve: A None, B --threads 1" in notes
    assert any("0.0% of A's and 7.5% of B's requests failed" in note for note in notes)
    assert "A = a" in compare.table(rows, notes, names=(Path("a"), Path("b")))
    second["phases"] = []
    with pytest.raises(InvalidConfig, match="1 phases and b has 0"):
        compare.compare(first, second, names=(Path("a"), Path("b")))


class Page(HTMLParser):
    """Checks nesting and collects what a browser would fetch or run."""

    VOID = frozenset({"meta", "line", "circle", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_self_contained_and_holds_the_figures() -> None:
    document_of_two = document.to_json(
        Result(ABOUT, [measured(spoilt(), ttft=0.12), measured(records(2.0), ttft=0.12)], ["a <note>"])
    )
    text = page(document_of_two)
    parser = Page()
    parser.feed(text)
    assert parser.open == []
    assert "script" not in parser.tags
    assert not {"src", "href", "xlink:href", "srcset", "onclick"} & {name for name, _ in parser.attributes}
    assert "http" not in re.sub(r"http://h:1|http 429", "", text)
    assert "url(" not in text
    assert "@import" not in text
    assert parser.tags.count("svg") == 4 + 2 * 4
    for shown in (
        "119.5",
        "m&lt;odel&gt;",
        "40 prompts &amp; more",
        "a &lt;note&gt;",
        "http 429",
        "queue full",
    ):
        assert shown in text
    assert "prefers-color-scheme:dark" in text
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())
