"""The pages agree with the repository and with each other."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

import pytest

from docs import build, reference
from serving.api.problems import PROBLEMS
from serving.core.errors import ShedReason
from serving.settings import Settings, variable
from tests.docs.examples import ROOT, examples, invocations, shape

TOP = tuple(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
PAGES = (*TOP, *build.pages())
FOLDERS = "serving|builder|loadtest|punctual|reporting|k8s|tests|docs|model_repo|\\.ci"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@every_page
def test_every_link_leads_to_a_file(page: Path) -> None:
    for link in build.links(page.read_text()):
        assert (page.parent / link["target"].partition("#")[0]).is_file(), link["target"]


@every_page
def test_every_path_that_is_named_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it names what has been, too
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./*-]+)`", page.read_text()):
        assert list(ROOT.glob(path)), path


@every_page
def test_every_image_that_is_to_be_sent_is_there(page: Path) -> None:
    """Those that ``curl`` sends: whoever copies the command need not look for a picture first."""
    for path in re.findall(r"@([\w./-]+\.(?:jpg|png))", page.read_text()):
        assert (ROOT / path).is_file(), path


@every_page
def test_packages_are_installed_from_the_repository(page: Path) -> None:
    """No registry has this project; what is called so there is somebody else's."""
    assert not re.findall(r"pip install .?punctual", page.read_text())


@every_page
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {variable(name) for name in Settings.model_fields}
    named = set(re.findall(r"PUNCTUAL_[A-Z_]*[A-Z]", page.read_text()))
    assert named <= known


def test_the_readme_leads_to_every_page() -> None:
    led = {link["target"] for link in build.links((ROOT / "README.md").read_text())}
    pages = {path.relative_to(ROOT).as_posix() for path in build.pages()} - {"docs/index.md"}
    assert pages <= led


def test_every_command_is_written_as_the_program_has_it() -> None:
    """Each ``punctual COMMAND --option`` of a page is one of the program's."""
    parsers = dict(reference.parsers())
    checked = 0
    for page in PAGES:
        for words in invocations(page.read_text()):
            name = next(
                (
                    " ".join(("punctual", *words[:count]))
                    for count in (2, 1)
                    if " ".join(("punctual", *words[:count])) in parsers
                ),
                None,
            )
            if name is None:
                group = f"punctual {words[0]} "
                assert any(known.startswith(group) for known in parsers), (page, words)
                continue
            flags = {flag for action in parsers[name]._actions for flag in action.option_strings}
            for word in words:
                if word.startswith("--"):
                    assert word.partition("=")[0] in flags, f"{page.name}: {name} {word}"
                    checked += 1
    assert checked > 50


def test_every_setting_is_documented() -> None:
    page = build.filled((build.DOCS / "reference/settings.md").read_text())
    for name, field in Settings.model_fields.items():
        assert f"`{variable(name)}`\n:   " in page
        assert field.description, f"{name} says nothing"


def test_every_command_and_every_option_is_documented() -> None:
    page = build.filled((build.DOCS / "reference/commands.md").read_text())
    for name, parser in reference.parsers():
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
                continue
            assert f"`{reference.invocation(action)}`\n:   " in section, (name, action.dest)


def test_every_problem_is_documented_with_what_to_do() -> None:
    page = build.filled((build.DOCS / "http/errors.md").read_text())
    advice = page.partition("## What to do about each")[2]
    for slug, problem in PROBLEMS.items():
        assert f"| {problem.status} | `{slug}` | {problem.title} |" in page
        assert f"`{slug}`" in advice, slug
    for reason in ShedReason:
        assert f"`{reason}`\n:   " in page


def test_every_metric_is_documented() -> None:
    page = build.filled((build.DOCS / "reference/metrics.md").read_text())
    for metric in reference.families():
        assert f"`{metric.name}" in page


def test_every_mark_stands_for_something_and_all_are_used() -> None:
    used = [
        mark["name"] for page in build.pages() for mark in build.MARK.finditer(page.read_text())
    ]
    assert sorted(used) == sorted(reference.GENERATED)


def test_references_name_no_machine() -> None:
    generated = "".join(generate() for generate in reference.GENERATED.values())
    assert str(Path.home()) not in generated


def test_version_changelog_and_pages_agree() -> None:
    version = PROJECT["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == version
    for page in PAGES:
        tags = re.findall(r"punctual-(?:gateway|triton|builder|search):([\w.]+)", page.read_text())
        assert set(tags) <= {version}, page


def test_the_changelog_keeps_to_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for heading in re.findall(r"^## (.+)$", text, re.MULTILINE):
        assert heading == "[Unreleased]" or re.fullmatch(r"\[[\d.]+\] - \d{4}-\d{2}-\d{2}", heading)


def test_a_decision_has_its_date_what_was_rejected_and_why() -> None:
    text = (build.DOCS / "decisions.md").read_text()
    entries = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    numbers = [int(entry.split(".")[0]) for entry in entries]
    assert numbers == list(range(1, len(numbers) + 1)), "in order, none left out"
    for entry in entries:
        parts = re.split(r"^\* \*\*(Chosen|Rejected|Why):\*\* ", entry, flags=re.MULTILINE)
        assert parts[1::2] == ["Chosen", "Rejected", "Why"], entry
        assert re.fullmatch(r"\d+\. .+\n\n\d{4}-\d\d-\d\d\.\n\n", parts[0]), entry
        assert len([line for line in entry.splitlines() if line]) < 8, entry


def test_what_the_readme_shows_is_in_the_quickstart() -> None:
    shown = {example.command for example in examples(ROOT / "README.md")}
    assert shown <= {example.command for example in examples(build.DOCS / "quickstart.md")}


def test_every_page_that_shows_a_reply_shows_all_of_its_fields() -> None:
    """The README's is held to a real one in ``test_commands``."""
    shown = [
        next(example.reply for example in examples(ROOT / page) if example.reply is not None)
        for page in ("README.md", "docs/quickstart.md", "docs/http/detection.md")
    ]
    assert shape(shown[0]) == shape(shown[1]) == shape(shown[2])


def test_the_site_is_staged_with_every_file_that_it_links_to(tmp_path: Path) -> None:
    build.stage(tmp_path)
    assert (tmp_path / "repository/CONTRIBUTING.md").is_file()
    assert (tmp_path / "repository/loadtest/results/live-2026-11-28.md").is_file()
    for page in tmp_path.rglob("*.md"):
        assert not build.MARK.search(page.read_text())
        for link in build.links(page.read_text()):
            assert (page.parent / link["target"].partition("#")[0]).is_file(), (page, link[0])


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("[a](b.md) and [c](d/e.md#f)", ["b.md", "d/e.md#f"]),
        ("![plot](plot.png)", ["plot.png"]),
        ("[site](https://example.com) [here](#there)", []),
        ("`[a](b.md)` is code", []),
        ("```text\n[a](b.md)\n```\n[c](d.md)\n", ["d.md"]),
    ],
)
def test_links_are_found_outside_of_code(text: str, links: list[str]) -> None:
    assert [link["target"] for link in build.links(text)] == links


def test_a_link_that_leads_nowhere_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = tmp_path / "docs"
    (pages / "assets").mkdir(parents=True)
    (pages / "index.md").write_text("[gone](gone.md)\n")
    config = pages / "zensical.toml"
    config.write_text('[project]\nnav = [{ "Home" = "index.md" }]\n')
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "DOCS", pages)
    monkeypatch.setattr(build, "CONFIG", config)
    with pytest.raises(build.DocsError, match=r"docs/index.md: there is no file gone.md"):
        build.stage(tmp_path / "stage")
    (pages / "index.md").write_text("all is well\n")
    (pages / "lost.md").write_text("nobody leads here\n")
    with pytest.raises(build.DocsError, match=r"not in the navigation: lost.md"):
        build.stage(tmp_path / "stage")


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    build.build(tmp_path / "work", tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(build.pages())
    for page in pages:
        fetched = re.findall(
            r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=.https?:[^>]*", page.read_text()
        )
        assert not fetched, page
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(.?https?:", style.read_text()), style


def test_the_glossary_is_in_alphabetical_order_and_explains_each_term_once() -> None:
    text = (build.DOCS / "concepts/glossary.md").read_text()
    terms = re.findall(r"^(\S.*)\n:   ", text, re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)
    mentioned = {word.lower() for term in terms for word in term.split(", ")}
    referred = set(re.findall(r"(?<!\*)\*([a-z ]+)\*(?!\*)", text))
    assert referred
    assert referred <= mentioned
