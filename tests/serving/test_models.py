from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from serving.core import segment as segments
from serving.models import StartError, find_model, open_runner, read_catalog
from tests.serving.fakes import CATALOG, write_catalogs


def test_the_only_model(tmp_path: Path) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    assert folder == tmp_path / "cells_anytime" / "1"
    assert read_catalog(folder) == CATALOG


def test_one_of_several_models(tmp_path: Path) -> None:
    write_catalogs(tmp_path, "cells", "streets")
    assert find_model(tmp_path, "streets").parts[-2] == "streets_anytime"
    with pytest.raises(StartError, match="cells, streets"):
        find_model(tmp_path, None)
    with pytest.raises(StartError, match="no model 'sea'"):
        find_model(tmp_path, "sea")


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no model in"):
        find_model(tmp_path / "missing", None)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1}', "[1"])
def test_an_unusable_catalogue(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalog.json").write_text(text)
    with pytest.raises(StartError, match=r"catalog\.json cannot be used"):
        read_catalog(tmp_path)


def test_runners_are_imported_when_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match="no runtime 'magic'"):
        open_runner("magic", tmp_path, None)
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino", Runners())  # type: ignore[arg-type]
    assert open_runner("openvino", folder, 2) == (folder, CATALOG, 2)  # type: ignore[comparison-overlap]


def test_some_segments_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    monkeypatch.setitem(sys.modules, "serving.runners.openvino", Runners())  # type: ignore[arg-type]
    wanted = {segments.fused_exit(2)}
    assert open_runner("openvino", folder, 2, wanted) == (folder, CATALOG, 2, wanted)  # type: ignore[comparison-overlap]


class Runners:
    """A module whose runner is the arguments it was made with."""

    @staticmethod
    def OpenVinoRunner(*arguments: Any, **named: Any) -> tuple[Any, ...]:  # noqa: N802
        return (*arguments, *named.values())
