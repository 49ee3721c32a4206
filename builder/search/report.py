"""What searches found, for reading: rewards over samples, unique against all, the best graphs.

Two figures are those of Ghiasi et al. (NAS-FPN, 2019): the reward of each sample in order, and the
number of different samples against that of all. A reward that was foretold is never shown as one
that was measured: each search says what its rewards are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from builder.config.pyramid_graphs import Graph
from builder.search.canonical import canonical_key
from builder.search.controls import controls
from builder.search.drawing import STYLE, draw
from builder.search.journal import FAILED, OK, REPEATED, Child, Contents, JournalError
from builder.search.signal import ENOUGH, MIN_GRAPHS, Signal, signals
from builder.search.statistics import kendall, rank_sum, running_best
from reporting import markdown
from reporting.html import SERIES, document, legend, section, table, tiles
from reporting.svg import Chart

WHAT_REWARDS_ARE = {
    "train": "measured: a small detector was trained for each sample",
    "table": "looked up: measured before, in a search of all graphs",
    "shared": "ESTIMATED with weights that all graphs share; none was trained for a sample",
    "surrogate": "FORETOLD by a regression from other graphs, with noise; nothing was measured",
    "analytic": "MADE UP by a formula, to try searchers with; they say nothing of detectors",
}
"""Evaluator -> what to say of its rewards."""

MARKS = {"shared": " (estimated)", "surrogate": " (foretold)", "analytic": " (made up)"}
"""Evaluator whose rewards nobody is to take for those of trainings -> what is put to its name."""

COMPARED = 100
"""Number of samples, the last of a search, that are compared with random ones."""
NUM_BEST, NUM_PROGRESS = 6, 4
"""Numbers of graphs that are shown: the best, and those on the way to them."""


@dataclass(frozen=True, slots=True)
class Group:
    """All children of a search that are one network."""

    graph: Graph
    key: str
    rewards: tuple[float, ...]
    """Rewards of the children that were evaluated."""
    aps: tuple[float, ...]
    """Means of the APs by exit."""
    times: tuple[float, ...]
    first_index: int
    times_sampled: int

    @property
    def reward(self) -> float:
        """Mean of the rewards."""
        return float(np.mean(self.rewards))


def groups(children: Sequence[Child]) -> list[Group]:
    """Return the networks that were evaluated, in order of their first child."""
    found: dict[str, list[Child]] = {}
    for child in children:
        found.setdefault(child.key, []).append(child)
    return [_group(rows) for rows in found.values() if any(c.status == OK for c in rows)]


def _group(children: Sequence[Child]) -> Group:
    evaluated = [child for child in children if child.status == OK]
    return Group(
        graph=evaluated[0].graph,
        key=evaluated[0].key,
        rewards=tuple(child.reward for child in evaluated),
        aps=tuple(np.mean([child.aps for child in evaluated], axis=0).tolist()),
        times=evaluated[0].times,
        first_index=children[0].index,
        times_sampled=len(children),
    )


def ranked(children: Sequence[Child]) -> list[Group]:
    """Return the networks, the best mean reward first; of equal ones, the earlier."""
    return sorted(groups(children), key=lambda group: (-group.reward, group.first_index))


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """One search, as a report shows it."""

    name: str
    search: Mapping[str, Any]
    children: tuple[Child, ...]
    best: tuple[Group, ...]

    @property
    def evaluator(self) -> str:
        """Name of its evaluator."""
        return str(self.search["evaluator"]["name"])

    @property
    def times(self) -> str:
        """Description of its times: their unit, and where they are from."""
        table = self.search["latency"]
        graphs = table.get("made_of", {}).get("graphs")
        return f"{table['unit']}, " + (
            f"by a latency table that was fitted to {graphs} measured graphs"
            if graphs
            else "counted"
        )

    def count(self, status: str) -> int:
        """Return the number of children that ended so."""
        return sum(child.status == status for child in self.children)

    @property
    def num_unique(self) -> int:
        """Number of different networks among the children."""
        return len({child.key for child in self.children})


@dataclass(frozen=True, slots=True)
class SearchReport:
    """Several searches, and controls with the same evaluator."""

    searches: tuple[SearchSummary, ...]
    controls: tuple[tuple[str, Group], ...]


def summarise(
    names: Sequence[str], searches: Sequence[Contents], against: Contents | None
) -> SearchReport:
    """Return the report on searches, against the journal of controls.

    Raises JournalError for rewards of which it is not known what they are.
    """
    for name, contents in zip(names, searches, strict=True):
        if (evaluator := contents.search["evaluator"]["name"]) not in WHAT_REWARDS_ARE:
            raise JournalError(f"{name} is of the evaluator {evaluator!r}, which there is not")
    found = tuple(
        SearchSummary(name, contents.search, contents.children, tuple(ranked(contents.children)))
        for name, contents in zip(names, searches, strict=True)
    )
    return SearchReport(found, tuple(_controls(against)) if against else ())


def _controls(contents: Contents) -> Iterator[tuple[str, Group]]:
    for group in ranked(contents.children):
        known = controls(group.graph.levels).items()
        name = next((name for name, graph in known if canonical_key(graph) == group.key), group.key)
        yield name, group


def best_group(report: SearchReport) -> Group:
    """Return the network with the best mean reward of all searches.

    Raises JournalError where no child was evaluated.
    """
    best = [search.best[0] for search in report.searches if search.best]
    if not best:
        raise JournalError("there is no child in the journals that was evaluated")
    return max(best, key=_reward)


def median_group(report: SearchReport) -> Group | None:
    """Return the network in the middle of those of the first random search, if there is one."""
    for search in report.searches:
        if search.search["searcher"] == "random" and search.best:
            return search.best[len(search.best) // 2]
    return None


def _reward(group: Group) -> float:
    return group.reward


def correlations(found: Sequence[Group]) -> list[tuple[str, float]]:
    """Return Kendall's tau of the reward with each figure of some networks.

    It is nothing of too few.
    """
    if len(found) < MIN_GRAPHS:
        return []
    aps = np.array([group.aps for group in found])
    figures = {
        "mean AP of the exits": aps.mean(axis=1),
        **{f"AP of exit {k + 1}": aps[:, k] for k in range(aps.shape[1])},
        "time to the last exit": np.array([group.times[-1] for group in found]),
    }
    rewards = [group.reward for group in found]
    return [(name, kendall(rewards, values)) for name, values in figures.items()]


# -- text ----------------------------------------------------------------------------------------


def as_markdown(report: SearchReport) -> str:
    """Return tables of searches, of the best graphs of each, and of controls."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: SearchReport) -> Iterator[str]:
    yield "# Architecture search"
    yield from markdown.table(
        (
            ("search", lambda s: s.name),
            ("space", lambda s: s.search["space"]),
            ("searcher", lambda s: s.search["searcher"]),
            ("seed", lambda s: str(s.search["seed"])),
            ("reward", lambda s: s.search["reward"]["name"]),
            ("rewards are", lambda s: WHAT_REWARDS_ARE[s.evaluator]),
            ("times in", lambda s: s.times),
            ("samples", lambda s: str(len(s.children))),
            ("unique", lambda s: str(s.num_unique)),
            ("repeated", lambda s: str(s.count(REPEATED))),
            ("failed", lambda s: str(s.count(FAILED))),
            ("mean of the last tenth", _mean_of_last),
        ),
        report.searches,
    )
    yield ""
    yield (
        "The best reward of a search is the best of many noisy ones, so it is too high: finalists "
        "are to be evaluated again with fresh seeds."
    )
    for sentence in _comparisons(report):
        yield ""
        yield sentence
    for search in report.searches:
        if found := signals(search.children):
            yield ""
            yield f"## {search.name}: graphs or luck"
            yield from markdown.table(_SIGNAL_COLUMNS, found)
            yield ""
            yield _verdict(found)
    for search in report.searches:
        if taus := correlations(search.best):
            yield ""
            yield f"## {search.name}: what goes with the reward"
            yield from markdown.table(_CORRELATION_COLUMNS, taus)
    for search in report.searches:
        yield ""
        yield f"## {search.name}: the best graphs"
        yield from markdown.table(_COLUMNS, search.best[:NUM_BEST])
    if report.controls:
        yield ""
        yield "## Controls"
        columns = (
            ("control", lambda entry: entry[0]),
            *((head, lambda entry, cell=cell: cell(entry[1])) for head, cell in _COLUMNS),
        )
        yield from markdown.table(columns, report.controls)


_COLUMNS: markdown.Columns[Group] = (
    ("key", lambda group: f"`{group.key}`"),
    ("mean reward", lambda group: f"{group.reward:.4f}"),
    ("seeds", lambda group: str(len(group.rewards))),
    ("AP by exit", lambda group: " ".join(f"{ap:.3f}" for ap in group.aps)),
    ("time by exit", lambda group: " ".join(f"{time:.4g}" for time in group.times)),
    ("first sampled", lambda group: str(group.first_index)),
    ("sampled", lambda group: str(group.times_sampled)),
)


_SIGNAL_COLUMNS: markdown.Columns[Signal] = (
    ("figure", lambda of: of.figure),
    ("mean", lambda of: f"{of.mean:.4f}"),
    ("SD of graphs", lambda of: f"{of.deviation_of_graphs:.4f}"),
    ("SD of seeds", lambda of: f"{of.deviation_of_seeds:.4f}"),
    ("share of graphs, ICC(1)", lambda of: str(of.share)),
    ("with one seed for all, ICC(C,1)", lambda of: str(of.share_of_one_seed)),
)


_CORRELATION_COLUMNS: markdown.Columns[tuple[str, float]] = (
    ("figure", lambda row: row[0]),
    ("Kendall's tau with the reward", lambda row: f"{row[1]:.2f}"),
)


def _verdict(found: Sequence[Signal]) -> str:
    reward = found[0]
    enough = "enough to search by" if reward.share.middle >= ENOUGH else "too little to search by"
    return (
        f"{reward.num_graphs} graphs with {reward.num_seeds} seeds each: {reward.share.middle:.2f} "
        f"of the variance of the reward is the graphs', which is {enough} ({ENOUGH} at least). "
        "Intervals are 95 %, by resampling graphs."
    )


def _mean_of_last(search: SearchSummary) -> str:
    rewards = [child.reward for child in search.children]
    return f"{np.mean(rewards[-max(1, len(rewards) // 10) :]):.4f}" if rewards else "-"


def _comparisons(report: SearchReport) -> Iterator[str]:
    """Yield a sentence on each search against random ones of the same kind."""

    def kind(search: SearchSummary) -> tuple[Any, ...]:
        return tuple(search.search[name] for name in ("space", "evaluator", "reward", "latency"))

    for search in report.searches:
        if search.search["searcher"] == "random":
            continue
        random = [
            child.reward
            for other in report.searches
            if other.search["searcher"] == "random" and kind(other) == kind(search)
            for child in other.children
        ]
        last = [child.reward for child in search.children][-COMPARED:]
        if random:
            share, p = rank_sum(last, random)
            yield (
                f"{search.name}: a sample of its last {len(last)} is worth more than one of "
                f"{len(random)} random ones {share:.0%} of the time (Mann-Whitney, p = {p:.2g})."
            )


# -- page ----------------------------------------------------------------------------------------

_STYLE = STYLE + ".warning { color: var(--bad); font-weight: 600; }\n"


def as_html(report: SearchReport) -> str:
    """Return the page, which fetches nothing."""
    content = tiles(
        (
            search.name,
            f"{_best_reward(search):.4f}",
            f"best mean reward, {len(search.children)} samples, {search.num_unique} unique",
        )
        for search in report.searches
    )
    content += section("What the rewards are", "".join(map(_says, report.searches)))
    content += section("Reward of each sample", _rewards(report))
    content += section("Unique against all samples", _unique(report))
    for search in report.searches:
        content += section(f"{search.name}: on the way", _figures(_progress(search)))
        content += section(f"{search.name}: the best graphs", _figures(search.best[:NUM_BEST]))
        content += section(f"{search.name}: their figures", _table(search.best[:NUM_BEST]))
    for search in report.searches:
        if taus := correlations(search.best):
            of_figures = [[cell(each) for _, cell in _CORRELATION_COLUMNS] for each in taus]
            content += section(
                f"{search.name}: what goes with the reward",
                table([head for head, _ in _CORRELATION_COLUMNS], of_figures),
            )
    for search in report.searches:
        if found := signals(search.children):
            heads = [head for head, _ in _SIGNAL_COLUMNS]
            shares = [[cell(each) for _, cell in _SIGNAL_COLUMNS] for each in found]
            content += section(
                f"{search.name}: graphs or luck", table(heads, shares) + f"<p>{_verdict(found)}</p>"
            )
    if report.controls:
        rows = [
            (name, *(cell(group).strip("`") for _, cell in _COLUMNS))
            for name, group in report.controls
        ]
        content += section("Controls", table(["control", *(h for h, _ in _COLUMNS)], rows))
    comparisons = "".join(f"<p>{sentence}</p>" for sentence in _comparisons(report))
    if comparisons:
        content += section("Against random samples", comparisons)
    return document("Architecture search", content, _STYLE)


def _best_reward(search: SearchSummary) -> float:
    return search.best[0].reward if search.best else 0.0


def _says(search: SearchSummary) -> str:
    kind = "warning" if search.evaluator in MARKS else "muted"
    reward = search.search["reward"]["name"]
    text = (
        f"{search.name}: reward {reward}, {WHAT_REWARDS_ARE[search.evaluator]}. Times are in "
        f"{search.times}."
    )
    return f'<p class="{kind}">{escape(text)}</p>'


def _label(search: SearchSummary) -> str:
    return search.name + MARKS.get(search.evaluator, "")


def _sizes(count: int, largest: float, least: float) -> list[float]:
    """Return a size for the marks of each search: they show round those of later ones on them."""
    return np.linspace(least, largest, count)[::-1].tolist()


def _rewards(report: SearchReport) -> str:
    """Return the chart with a dot for each sample, and a line for the best so far."""
    drawn = list(zip(report.searches, SERIES, strict=False))
    rewards = [[child.reward for child in search.children] for search, _ in drawn]
    values = np.array([r for of_search in rewards for r in of_search if r > 0] or [0.0, 1.0])
    # A few failed or poor samples are not to flatten all others.
    low, high = float(np.percentile(values, 1)), float(values.max())
    margin = 0.05 * (high - low) or 0.01
    longest = max(len(of_search) for of_search in rewards)
    chart = Chart(
        "Reward of each sample", "sample", "reward", (0, longest), (low - margin, high + margin)
    )
    sizes = _sizes(len(drawn), 5.0, 2.5)
    for of_search, (search, colour), size in zip(rewards, drawn, sizes, strict=True):
        label = _label(search)
        shown = [(i, r) for i, r in enumerate(of_search) if r >= low - margin]
        chart.dots(
            ((i, r, f"{label}: {r:.4f} at {i}") for i, r in shown),
            colour,
            size,
        )
        best = running_best(of_search)
        chart.line([(i, of_search[b]) for i, b in enumerate(best)], colour, f"{label}: best so far")
    return chart.render() + legend([(_label(search), colour) for search, colour in drawn])


def _unique(report: SearchReport) -> str:
    drawn = list(zip(report.searches, SERIES, strict=False))
    longest = max(len(search.children) for search, _ in drawn)
    chart = Chart("Unique against all samples", "samples", "unique", (0, longest), (0, longest))
    for (search, colour), size in zip(drawn, _sizes(len(drawn), 8.0, 2.0), strict=True):
        seen: set[str] = set()
        points = []
        for count, child in enumerate(search.children, start=1):
            seen.add(child.key)
            points.append((float(count), float(len(seen))))
        chart.line(points, colour, _label(search), size)
    return chart.render() + legend([(_label(search), colour) for search, colour in drawn])


def _progress(search: SearchSummary) -> list[Group]:
    """Return networks that were the best so far, from an early one to the last."""
    best = running_best([child.reward for child in search.children])
    keys = list(dict.fromkeys(search.children[place].key for place in best))
    by_key = {group.key: group for group in search.best}
    on_the_way = [by_key[key] for key in keys if key in by_key]
    places = np.unique(np.linspace(0, len(on_the_way) - 1, NUM_PROGRESS).round().astype(int))
    return [on_the_way[place] for place in places] if on_the_way else []


def _figures(found: Sequence[Group]) -> str:
    figures = "".join(
        f"<figure>{draw(group.graph, f'Graph {group.key}')}<figcaption>{group.key}: mean reward "
        f"{group.reward:.4f}, seeds: {len(group.rewards)}, first sampled at {group.first_index}"
        "</figcaption></figure>"
        for group in found
    )
    return (
        f'<div class="graphs">{figures}</div><p class="muted">Inputs at the left, then a cell a '
        "column; ringed dots are outputs, G is attention, dashed lines are maps that are added "
        "because nothing else takes them.</p>"
    )


def _table(found: Sequence[Group]) -> str:
    rows = [[cell(group).strip("`") for _, cell in _COLUMNS] for group in found]
    return table([head for head, _ in _COLUMNS], rows)
