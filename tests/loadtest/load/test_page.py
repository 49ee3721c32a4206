"""The page: all there, well-formed, and nothing fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from loadtest.load.outcomes import Outcome
from loadtest.load.page import page
from loadtest.load.summary import summarise
from tests.loadtest.load.runs import ROWS, answer, failure, result

VOID = {"meta"}


class Reader(HTMLParser):
    """Collects text and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(run) -> str:
    document = page(run, summarise(run))
    assert not re.search(r"url\(|@import|https?://(?!server)", document)
    reader = Reader()
    reader.feed(document)
    assert reader.open == []
    return " ".join(reader.words)


def test_what_the_page_says():
    words = read(result(ROWS))
    assert "Load test of cells 7" in words
    assert "Valid: requests were sent when they were due." in words
    assert "30.0%" in words  # in time
    assert "budget-infeasible" in words
    assert "10 scheduled" in words
    for budget in ("budget 40.0 ms", "budget 80.0 ms"):
        assert budget in words


def test_a_run_that_is_not_valid_says_why():
    words = read(result([*ROWS, failure(1.9, Outcome.UNSENT)]))
    assert "Not valid: 1 requests could not be sent at all." in words


def test_text_from_elsewhere_is_escaped():
    words = read(result([failure(0.1, Outcome.REFUSED, "<script>x</script>")]))
    assert "<script>x</script>" in words  # as text


@pytest.mark.parametrize(
    "rows",
    [
        [failure(0.1, Outcome.TIMEOUT)],
        [answer(0.1, 0.01, depth=None)],
        [answer(0.1, 0.0)],
        [answer(0.001 * i, 0.01, budget_s=0.02 + 0.001 * i) for i in range(30)],
    ],
    ids=["no answer", "no depth", "at once", "continuum"],
)
def test_odd_runs(rows):
    assert "Load test" in read(result(rows))


def test_bins_are_a_second_until_there_are_too_many():
    long = [answer(float(second), 0.01) for second in range(1000)]
    run = result(long, duration_s=1000.0)
    assert "10 to 20 s: 10 in time" in page(run, summarise(run))
    assert "0 to 1 s: 3 in time" in page(result(ROWS), summarise(result(ROWS)))
