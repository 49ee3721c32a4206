"""Models found in a repository, and their catalogues."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.artifacts.model_folders import (
    ModelError,
    ModelNotFound,
    every_model,
    find_model,
    read_catalog,
    read_entry,
    version_folder,
)
from serving.core.model_entry import ModelEntry
from tests.serving.fakes import CATALOG, write_catalogs


def test_the_only_model(tmp_path: Path) -> None:
    folder = find_model(write_catalogs(tmp_path, "cells"), None)
    assert folder == tmp_path / "cells_anytime" / "1"
    assert read_entry(folder) == ModelEntry((CATALOG,))
    assert read_catalog(folder) == read_catalog(folder, "128x96") == CATALOG
    with pytest.raises(ModelError, match="cells has no size '1x1'"):
        read_catalog(folder, "1x1")


def test_one_of_several_models(tmp_path: Path) -> None:
    write_catalogs(tmp_path, "cells", "streets")
    assert find_model(tmp_path, "streets").parts[-2] == "streets_anytime"
    with pytest.raises(ModelError, match=r"cells, streets.* none is .*--model cells,streets"):
        find_model(tmp_path, None)
    with pytest.raises(ModelError, match="no model 'sea'"):
        find_model(tmp_path, "sea")


def test_the_default_of_several_models(tmp_path: Path) -> None:
    write_catalogs(tmp_path, "cells", "streets", default="streets")
    assert find_model(tmp_path, None) == version_folder(tmp_path, "streets")
    assert find_model(tmp_path, "cells") == version_folder(tmp_path, "cells")
    write_catalogs(tmp_path, "sea", default="sea")
    with pytest.raises(ModelError, match="sea and streets are each marked as the default"):
        find_model(tmp_path, None)
    (version_folder(tmp_path, "sea") / "catalog.json").write_text("{}")
    with pytest.raises(ModelError, match=r"sea_anytime/1/catalog\.json cannot be used"):
        find_model(tmp_path, None)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model in"):
        find_model(tmp_path / "missing", None)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"format": 1}', '{"format": 2}', "[1", "[" * 10**5, "\0", "\udc80"]
)
def test_an_unusable_catalogue(tmp_path: Path, text: str) -> None:
    (tmp_path / "catalog.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ModelError, match=r"catalog\.json cannot be used"):
        read_catalog(tmp_path)


def test_every_model_is_where_its_name_says(tmp_path: Path) -> None:
    write_catalogs(tmp_path, "cells", "streets")
    names = ("cells", "streets")
    assert every_model(tmp_path) == {name: version_folder(tmp_path, name) for name in names}
    assert version_folder(Path("r"), "m") == Path("r/m_anytime/1")


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_catalogue_that_is_not_there(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotFound, match=r"catalog\.json cannot be used"):
        read_catalog(tmp_path / folder)
