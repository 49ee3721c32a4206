"""``punctual search report``, ``benchmark``, ``agreement`` and ``contest``: what was found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from builder.cli.options import add_command, command_line, stem_path, today
from builder.cli.search.kinds import (
    KNOWN,
    MAX_CHILDREN,
    MAX_WORKERS,
    add_kind,
    open_evaluator,
    reference_of,
)
from builder.cli.search.run import SEARCHER_NAMES
from serving.core.command_errors import files_of_the_user
from serving.core.command_numbers import at_least

MAX_SEEDS = 10_000
"""Most seeds that searchers are compared over."""


def add_parsers(actions: Any) -> None:
    """Add the actions to the subparsers ``actions``."""
    _add_report(actions)
    _add_benchmark(actions)
    _add_agreement(actions)
    _add_contest(actions)


# -- report --------------------------------------------------------------------------------------


def _add_report(actions: Any) -> None:
    parser = add_command(
        actions,
        "report",
        "Show what searches found.",
        "Writes OUT/report.html, OUT/report.md and the best graph as OUT/best.json, for --neck; of "
        "a random search, also the median one, as OUT/median.json.",
    )
    parser.add_argument("journals", type=Path, nargs="+", metavar="JOURNAL")
    parser.add_argument("--controls", type=Path, help="journal of --searcher controls")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(run=_report)


@files_of_the_user()
def _report(options: argparse.Namespace) -> None:
    from builder.config.pyramid_graphs import graph_json
    from builder.search.journal import read_journal
    from builder.search.report import as_html, as_markdown, best_group, median_group, summarise
    from reporting.files import write_whole

    searches = [read_journal(path) for path in options.journals]
    names = [_name(path) for path in options.journals]
    against = read_journal(options.controls) if options.controls else None
    report = summarise(names, searches, against)
    best = best_group(report)
    options.out.mkdir(parents=True, exist_ok=True)
    write_whole(options.out / "report.html", as_html(report))
    write_whole(options.out / "report.md", as_markdown(report))
    write_whole(options.out / "best.json", graph_json(best.graph))
    if (median := median_group(report)) is not None:
        write_whole(options.out / "median.json", graph_json(median.graph))
    print(as_markdown(report), end="")


# -- benchmark -----------------------------------------------------------------------------------


def _add_benchmark(actions: Any) -> None:
    parser = add_command(
        actions,
        "benchmark",
        "Compare searchers where the truth is known.",
        "Searches with each searcher and each seed, and prints by how much what it would choose is "
        "worse than the best there is. Writes OUT.json, OUT.md and OUT.html.",
    )
    add_kind(parser, KNOWN)
    parser.add_argument(
        "--searchers",
        nargs="+",
        choices=SEARCHER_NAMES,
        default=["random", "evolution", "controller-small", "controller-paper"],
        help="the first is what the others are compared with",
    )
    parser.add_argument("--seeds", type=at_least(1, MAX_SEEDS), default=100, help="how many")
    parser.add_argument(
        "--budgets",
        type=at_least(1, MAX_CHILDREN),
        nargs="+",
        default=[50, 100, 200, 400],
        help="children",
    )
    parser.add_argument(
        "--workers",
        type=at_least(1, MAX_WORKERS),
        default=1,
        help="searches at a time; figures do not change",
    )
    parser.add_argument("--out", type=stem_path, help="where figures go, without a suffix")
    parser.set_defaults(run=_benchmark)


@files_of_the_user()
def _benchmark(options: argparse.Namespace) -> None:
    from tqdm import tqdm

    from builder.search.benchmark import (
        Comparison,
        as_html,
        as_markdown,
        curve_points,
        optimum,
        summary,
    )
    from builder.search.rewards import REWARDS
    from builder.search.space import SPACES
    from reporting.files import beside, write_report, write_whole
    from reporting.machine import machine

    space = SPACES[options.space]
    evaluator: Any
    evaluator, table = open_evaluator(options, space)
    reward = REWARDS[options.reward](table, reference_of(space), evaluator.num_exits)
    budgets = sorted(set(options.budgets))
    points = curve_points(budgets)
    plan = [(name, seed) for name in options.searchers for seed in range(options.seeds)]
    comparison = Comparison(space, evaluator, reward, table, tuple(points))
    found = comparison.trials(plan, options.workers)
    trials = list(tqdm(found, total=len(plan), unit="search"))
    best, known = optimum(space, evaluator, reward, table, trials)
    head = {
        "command": command_line(),
        "space": options.space,
        "evaluator": options.evaluator,
        "reward": options.reward,
        "machine": machine(),
        "date": today(),
        "optimum_is": known,
    }
    report = summary(trials, points, budgets, best, head)
    if options.out:
        write_report(options.out, report, as_markdown(report))
        write_whole(beside(options.out, ".html"), as_html(report))
    print(as_markdown(report), end="")


# -- agreement -----------------------------------------------------------------------------------


def _add_agreement(actions: Any) -> None:
    parser = add_command(
        actions,
        "agreement",
        "Show whether two ways of training order graphs alike.",
        "Prints Kendall's tau over the graphs that two journals have in common, those of short "
        "trainings and those of long ones, and what depth gains in either.",
    )
    parser.add_argument("proxy", type=Path, metavar="JOURNAL")
    parser.add_argument("other", type=Path, metavar="OTHER")
    parser.add_argument("--out", type=Path, help="where the tables go, a Markdown file")
    parser.set_defaults(run=_agreement)


@files_of_the_user()
def _agreement(options: argparse.Namespace) -> None:
    from builder.search.journal import read_journal
    from builder.search.proxy_agreement import as_markdown, compare

    paths = (options.proxy, options.other)
    found = compare([_name(path) for path in paths], [read_journal(path) for path in paths])
    _tell(as_markdown(found), options.out)


# -- contest -------------------------------------------------------------------------------------


def _add_contest(actions: Any) -> None:
    parser = add_command(
        actions,
        "contest",
        "Compare the first graph of some journals with the others, seed by seed.",
        "Prints what each graph's children reached and by how much the first is ahead with the "
        "same seeds. Writes OUT.md and OUT.html.",
    )
    parser.add_argument("journals", type=Path, nargs="+", metavar="JOURNAL")
    parser.add_argument(
        "--times", type=Path, metavar="FILE", help="what search times measured [the journals']"
    )
    parser.add_argument(
        "--in-time",
        action="store_true",
        help="also the accuracy in time under load, in the simulator: some seconds a child",
    )
    parser.add_argument("--out", type=stem_path, help="where the figures go, without a suffix")
    parser.set_defaults(run=_contest)


@files_of_the_user()
def _contest(options: argparse.Namespace) -> None:
    from builder.search.contest import compare
    from builder.search.contest_report import as_html, as_markdown
    from builder.search.journal import read_journal
    from builder.search.stack_rounds import StackRounds
    from reporting.files import beside, write_whole

    rounds = StackRounds.read(options.times) if options.times else None
    contest = compare([read_journal(path) for path in options.journals], rounds, options.in_time)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(beside(options.out, ".html"), as_html(contest))
    _tell(as_markdown(contest), options.out and beside(options.out, ".md"))


def _name(path: Path) -> str:
    """Return what to call a search: its folder, where all journals are called alike."""
    from builder.search.journal import JOURNAL

    return path.parent.name if path.name == JOURNAL and path.parent.name else path.stem


def _tell(tables: str, out: Path | None) -> None:
    """Print tables, and write them below the command that made them."""
    from reporting.files import write_whole
    from reporting.machine import machine

    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        command = command_line()
        write_whole(out, f"`{command}`; {machine()}, {today()}.\n\n{tables}")
    print(tables, end="")
