"""The report: both figures, the graphs, controls, and what the rewards are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from builder.config.pyramid_graphs import GRAPHS
from builder.search.controls import controls
from builder.search.drawing import draw
from builder.search.journal import JOURNAL, Contents, JournalError, read_journal
from builder.search.report import (
    WHAT_REWARDS_ARE,
    SearchReport,
    as_html,
    as_markdown,
    best_group,
    correlations,
    median_group,
    ranked,
    summarise,
)
from builder.search.run import run
from builder.search.searchers.listed import Listed
from builder.search.space import SPACES
from reporting.html import SERIES
from tests.builder.search.children import analytic_search


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contents]:
    out = tmp_path_factory.mktemp("searches")
    found = {}
    for name in ("random", "evolution"):
        run(analytic_search(name), out / name, 120)
        found[name] = read_journal(out / name / JOURNAL)
    graphs = list(controls(SPACES["nas-fpn"].levels).values())
    run(replace(analytic_search("random"), create=lambda: Listed(graphs)), out / "controls", 12)
    return found | {"controls": read_journal(out / "controls" / JOURNAL)}


@pytest.fixture(scope="module")
def report(searches: dict[str, Contents]) -> SearchReport:
    names = ["random", "evolution"]
    return summarise(names, [searches[name] for name in names], searches["controls"])


def test_graphs_are_ranked_by_the_mean_over_their_seeds(searches: dict[str, Contents]) -> None:
    groups = ranked(searches["controls"].children)
    assert [len(group.rewards) for group in groups] == [3, 3, 3, 3]
    assert [group.reward for group in groups] == sorted((g.reward for g in groups), reverse=True)
    children = [c for c in searches["controls"].children if c.key == groups[0].key]
    assert groups[0].reward == pytest.approx(np.mean([child.reward for child in children]))


def test_the_text_has_searches_controls_and_the_comparison(report: SearchReport) -> None:
    text = as_markdown(report)
    assert "| evolution | nas-fpn | evolution | 0 | anytime |" in text
    for name in ("fpn", "panet", "bifpn", "nas_fpn"):
        assert re.search(rf"^\| {name} \| `\w+` \|", text, re.MULTILINE)
    assert re.search(r"last 100 is worth more than one of 120 random ones \d+% of the time", text)
    assert f"`{best_group(report).key}`" in text


def test_a_search_is_compared_with_random_ones_of_its_kind_alone(
    searches: dict[str, Contents],
) -> None:
    other = dict(searches["random"].search) | {"reward": {"name": "ap"}}
    foreign = replace(searches["random"], search=other)
    names = ["random", "evolution"]
    text = as_markdown(summarise(names, [foreign, searches["evolution"]], None))
    assert "Mann-Whitney" not in text


@pytest.mark.parametrize("evaluator", WHAT_REWARDS_ARE)
def test_nobody_takes_a_foretold_reward_for_a_measured_one(
    evaluator: str, searches: dict[str, Contents]
) -> None:
    search = dict(searches["random"].search) | {"evaluator": {"name": evaluator}}
    of_search = summarise(["mine"], [replace(searches["random"], search=search)], None)
    page, text = as_html(of_search), as_markdown(of_search)
    assert WHAT_REWARDS_ARE[evaluator] in page
    assert WHAT_REWARDS_ARE[evaluator] in text
    marks = {"shared": "estimated", "surrogate": "foretold", "analytic": "made up"}
    # In the legends of both figures.
    found = re.findall(r"</i>mine(?: \((.*?)\))?</span>", page)
    assert found == [marks.get(evaluator, "")] * 2
    assert ('class="warning"' in page) == (evaluator in marks)


@pytest.mark.parametrize(
    ("made_of", "expected"),
    [
        ({"graphs": 28}, "ms, by a latency table that was fitted to 28 measured graphs"),
        ({}, "ms, counted"),
    ],
)
def test_it_says_where_times_are_from(
    made_of: dict[str, int], expected: str, searches: dict[str, Contents]
) -> None:
    contents = searches["random"]
    latency = {**contents.search["latency"], "unit": "ms", "made_of": made_of}
    search = {**contents.search, "latency": latency}
    of_search = summarise(["mine"], [replace(contents, search=search)], None)
    assert f"| {expected} |" in as_markdown(of_search)
    assert f"Times are in {expected}." in as_html(of_search)


def test_it_says_what_goes_with_the_reward(searches: dict[str, Contents]) -> None:
    contents = searches["random"]
    by_last = [
        replace(child, reward=child.aps[-1] if child.aps else 0.0) for child in contents.children
    ]
    found = dict(correlations(ranked(by_last)))
    assert found["AP of exit 3"] == pytest.approx(1)
    assert 0 < found["AP of exit 1"] < 1
    by_time = [replace(child, reward=-child.times[-1]) for child in contents.children]
    assert dict(correlations(ranked(by_time)))["time to the last exit"] == pytest.approx(-1)
    assert correlations(ranked(contents.children[:4])) == []
    of_search = summarise(["mine"], [replace(contents, children=tuple(by_last))], None)
    assert "| AP of exit 3 | 1.00 |" in as_markdown(of_search)
    assert "mine: what goes with the reward" in as_html(of_search)


def test_marks_of_a_search_show_round_those_of_a_later_one(searches: dict[str, Contents]) -> None:
    page = as_html(summarise(["first", "second"], [searches["random"]] * 2, None))
    rewards, unique = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[:2]

    def size(picture: str, mark: str, attribute: str, colour: str) -> float:
        marks = ElementTree.fromstring(picture).findall(mark)
        (found,) = {
            each.attrib[attribute]
            for each in marks
            if f"var(--{colour})" in (each.get("fill"), each.get("stroke"))
        }
        return float(found)

    for kind in ((rewards, "circle", "r"), (unique, "polyline", "stroke-width")):
        first, second = (size(*kind, colour) for colour in SERIES[:2])
        assert first > second


def test_the_page_fetches_nothing_and_its_pictures_are_whole(report: SearchReport) -> None:
    page = as_html(report)
    assert "http" not in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) > 12
    for picture in pictures:
        ElementTree.fromstring(picture)


def test_a_drawing_has_a_dot_for_each_map_and_a_line_for_each_input() -> None:
    root = ElementTree.fromstring(draw(GRAPHS["nas_fpn"], "seven cells"))
    assert len(root.findall("circle")) == 5 + 7
    lines = root.findall("path")
    assert len(lines) == 2 * 7 + 2
    assert sum("stroke-dasharray" in line.attrib for line in lines) == 2
    assert [text.text for text in root.findall("text")].count("G") == 4
    ringed = [dot for dot in root.findall("circle") if "stroke" in dot.attrib]
    assert len(ringed) == 5


def test_a_search_whose_children_failed_can_be_shown(
    searches: dict[str, Contents], tmp_path: Path
) -> None:
    failed = tuple(
        replace(child, status="failed", aps=(), times=(), reward=0.0)
        for child in searches["random"].children[:5]
    )
    text = as_markdown(summarise(["bad"], [replace(searches["random"], children=failed)], None))
    assert "| 5 | 5 | 0 | 5 | 0.0000 |" in text

    with pytest.raises(JournalError, match="no child in the journals that was evaluated"):
        best_group(summarise(["bad"], [replace(searches["random"], children=failed)], None))


def test_a_search_that_has_just_begun_can_be_shown(searches: dict[str, Contents]) -> None:
    begun = replace(searches["random"], children=())
    for others in ([], [searches["evolution"]]):
        names = ["begun", "other"][: 1 + len(others)]
        of_both = summarise(names, [begun, *others], None)
        assert "| 0 | 0 | 0 | 0 | - |" in as_markdown(of_both)
        assert "begun" in as_html(of_both)


def test_names_are_shown_as_they_are(searches: dict[str, Contents]) -> None:
    search = dict(searches["random"].search)
    search["latency"] = {**search["latency"], "unit": "<i>ms"}
    mine = replace(searches["random"], search=search)
    found = summarise(["a|b<img>"], [mine], None)
    page = as_html(found)
    assert "<img>" not in page
    assert "<i>ms" not in page
    assert "| a\\|b<img> | nas-fpn |" in as_markdown(found)


def test_rewards_of_an_evaluator_that_there_is_not_are_refused(
    searches: dict[str, Contents],
) -> None:
    search = dict(searches["random"].search) | {"evaluator": {"name": "oracle"}}
    with pytest.raises(JournalError, match="mine is of the evaluator 'oracle'"):
        summarise(["mine"], [replace(searches["random"], search=search)], None)


def test_the_median_graph_is_that_of_random_search(report: SearchReport) -> None:
    median = median_group(report)
    assert median is not None
    random = ranked(report.searches[0].children)
    above = sum(group.reward > median.reward for group in random)
    assert above == pytest.approx(len(random) / 2, abs=1)
    assert median_group(replace(report, searches=report.searches[1:])) is None
