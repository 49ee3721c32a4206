"""Packages say what they hold, what they depend on and where to begin; and what they say is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.examples import ROOT

ROOTS = ("serving", "builder", "loadtest", "punctual", "reporting")
PACKAGES = sorted(path.parent for root in ROOTS for path in (ROOT / root).rglob("__init__.py"))

every_package = pytest.mark.parametrize(
    "folder", PACKAGES, ids=lambda folder: ".".join(folder.relative_to(ROOT).parts)
)


def docstring(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""


def named(text: str, opening: str) -> list[str]:
    """What stands in double backticks in the sentence that begins so."""
    found = re.search(rf"{opening} .*?\.(?:\s|$)", " ".join(text.split()))
    assert found is not None, f"there is no {opening!r}"
    return re.findall(r"``([^`]+)``", found[0])


def exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def unit(module: str) -> str:
    """The package that is depended on by who imports ``module``: a root, or one right in a root."""
    root, *rest = module.split(".")
    return f"{root}.{rest[0]}" if rest and (ROOT / root / rest[0]).is_dir() else root


def imports(folder: Path) -> Iterator[str]:
    """Modules of this repository that the modules of a package import, wherever they do."""
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                modules = [node.module]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            yield from (name for name in modules if name.partition(".")[0] in ROOTS)


@every_package
def test_a_package_says_what_it_depends_on(folder: Path) -> None:
    name = ".".join(folder.relative_to(ROOT).parts)
    if name in ROOTS:  # of whose parts each says so
        return
    depends = {unit(module) for module in imports(folder)}
    others = {each for each in depends if not f"{name}.".startswith(f"{each}.")}
    assert set(named(docstring(folder), "Depends on")) == others


@every_package
def test_a_package_says_where_to_begin(folder: Path) -> None:
    name = ".".join(folder.relative_to(ROOT).parts)
    begin = named(docstring(folder), "Begin with")
    assert begin
    for each in begin:
        assert (ROOT / each).is_file() if "/" in each else exists(f"{name}.{each}"), each


@every_package
def test_a_package_lists_only_modules_that_are_there(folder: Path) -> None:
    """Of the words of its table, those with an underscore are modules of it, or right below it."""
    modules = {path.stem for path in (*folder.glob("*.py"), *folder.glob("*/*.py"))}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    table = "\n".join(line for line in docstring(folder).splitlines() if line.startswith("    "))
    words = set(re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)+", table))
    assert words <= modules | {"deadline_ms"}  # of the client's example
