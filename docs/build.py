"""Build the site: ``python -m docs.build``, which is ``make docs``.

    docs/**/*.md  --marks filled in-->  build/docs/pages/...             --Zensical-->  site/
    repository files that they link to  build/docs/pages/repository/...

A mark is a line ``<!-- generate: NAME -->``, NAME being a key of ``docs.reference.GENERATED``. A
link that leaves ``docs/`` takes its file along, so that the site can be read without the
repository. A link, an image or an entry of the navigation that leads nowhere ends the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docs.reference import GENERATED

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CONFIG = DOCS / "zensical.toml"
SITE = ROOT / "site"
STAGE = ROOT / "build" / "docs"
OUTSIDE = "repository"
"""Folder of the site for files that are not in ``docs/``."""

MARK = re.compile(r"^<!-- generate: (?P<name>\S+) -->$", re.MULTILINE)
_FENCE = re.compile(r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?P<ticks>`+).+?(?P=ticks)", re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
_ELSEWHERE = ("http://", "https://", "mailto:", "#")


class DocsError(Exception):
    """The site cannot be built; the text says where and why."""


def pages() -> list[Path]:
    """Return the pages that are written by hand, as files of the repository."""
    return sorted(DOCS.rglob("*.md"))


def prose(text: str) -> str:
    """Return ``text`` with code blanked out, every other character where it was."""
    for code in (_FENCE, _CODE):
        text = code.sub(lambda found: " " * len(found[0]), text)
    return text


def links(text: str) -> Iterator[re.Match[str]]:
    """Yield the links and images of a page that lead to files; group ``target`` is where to."""
    for found in _LINK.finditer(prose(text)):
        if not found["target"].startswith(_ELSEWHERE):
            yield found


def navigation(config: Any) -> Iterator[str]:
    """Yield the pages that the ``nav`` of a configuration names, in order."""
    for entry in config:
        for _, value in entry.items():
            if isinstance(value, str):
                yield value
            else:
                yield from navigation(value)


def staged(path: Path) -> Path:
    """Return where a file of the repository lies among the site's pages."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    return OUTSIDE / path.relative_to(ROOT)


def source(page: str) -> Path:
    """Return the repository's file that the page of the site is made of."""
    inside = Path(page)
    if inside.parts[0] == OUTSIDE:
        return ROOT.joinpath(*inside.parts[1:])
    return DOCS / inside


def _relinked(path: Path, text: str, found: Callable[[Path], None]) -> str:
    """Return the page with every link as between staged files; ``found`` is told of each."""
    for link in reversed(list(links(text))):
        target, _, anchor = link["target"].partition("#")
        file = Path(os.path.normpath(path.parent / target))
        if not file.is_file() or not file.is_relative_to(ROOT):
            raise DocsError(f"{path.relative_to(ROOT)}: there is no file {link['target']}")
        found(file)
        there = Path(os.path.relpath(staged(file), staged(path).parent)).as_posix()
        start, end = link.span("target")
        text = text[:start] + there + (f"#{anchor}" if anchor else "") + text[end:]
    return text


def filled(text: str) -> str:
    """Return a page with what its marks stand for."""
    return MARK.sub(lambda mark: GENERATED[mark["name"]](), text)


def stage(into: Path) -> None:
    """Write every page of the site, and each file that one links to, into ``into``."""
    nav = list(navigation(tomllib.loads(CONFIG.read_text())["project"]["nav"]))
    waiting = [*pages(), *map(source, nav), *sorted((DOCS / "assets").iterdir())]
    unlisted = {staged(page).as_posix() for page in pages()} - set(nav)
    if unlisted:
        raise DocsError(f"not in the navigation: {', '.join(sorted(unlisted))}")
    done: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        if not path.is_file():
            raise DocsError(f"there is no file {path.relative_to(ROOT)}")
        target = into / staged(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(_relinked(path, filled(path.read_text()), waiting.append))
        else:
            shutil.copyfile(path, target)


def build(work: Path, site: Path) -> None:
    """Write the site anew, by way of the folder ``work``. Raises DocsError, or CalledProcessError
    where Zensical refuses."""
    for folder in (work, site):
        shutil.rmtree(folder, ignore_errors=True)
    stage(work / "pages")
    shutil.copyfile(CONFIG, work / CONFIG.name)
    zensical = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    subprocess.run(zensical, cwd=work, check=True)
    shutil.move(work / "site", site)


def main() -> int:
    """Build the site and say where it is; the exit code."""
    try:
        build(STAGE, SITE)
    except (DocsError, subprocess.CalledProcessError) as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    print(f"the site is {SITE / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
