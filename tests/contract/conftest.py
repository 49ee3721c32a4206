from __future__ import annotations

import pytest

from tests.exported import Exported, exported_detector


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported_detector(tmp_path_factory.mktemp("segments"))
