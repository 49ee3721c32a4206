from __future__ import annotations

import pytest

from builder.exporting.int8_segments import quantize_segments
from tests.exported import Exported, exported_detector, write_programs


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    exported = exported_detector(tmp_path_factory.mktemp("segments"))
    write_programs(exported)
    quantize_segments(exported.folder, exported.catalog, exported.images)
    return exported
