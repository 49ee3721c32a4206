"""Exported torch programs: the record beside them that says what they were exported from.

<model>_anytime/1/catalog.json
                  torch/programs.json, stem.pt2, stack_1.pt2, ..., head_N.pt2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from serving.core.catalog import Catalog, SegmentFile

FORMAT = 1
"""Version of the record's form; others are refused."""
FOLDER = "torch"
"""Folder of the programs, beside the catalogue."""
RECORD = "programs.json"
"""Name of the record in ``FOLDER``, beside the programs."""


@dataclass(frozen=True)
class Programs:
    """The record of exported programs, one for each unit segment."""

    torch: str
    """Version of the library that wrote the programs."""
    model: str
    """``Catalog.digest`` of the model that they were exported from."""
    segments: Mapping[str, SegmentFile]
    """Files by segment name, relative to the record's folder."""

    def check(self, catalog: Catalog) -> None:
        """Raise ValueError unless these are the programs of ``catalog``."""
        if self.model != catalog.digest:
            raise ValueError(
                f"the torch programs were exported from model {self.model}, the catalogue is that "
                f"of {catalog.digest}: build them again"
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Programs:
        """Parse what ``to_json`` writes. Raises ValueError naming what is wrong."""
        if not isinstance(data, Mapping):
            raise ValueError(f"{RECORD} is no JSON object")
        if data.get("format") != FORMAT:
            raise ValueError(f"{RECORD} has format {data.get('format')!r}, not {FORMAT}")
        try:
            files = {name: SegmentFile(**entry) for name, entry in data["segments"].items()}
            return cls(torch=data["torch"], model=data["model"], segments=files)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{RECORD} has a missing or malformed entry: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the record in a JSON-serialisable form."""
        return {
            "format": FORMAT,
            "torch": self.torch,
            "model": self.model,
            "segments": {name: asdict(entry) for name, entry in sorted(self.segments.items())},
        }


def multiplies_bf16(capabilities: Mapping[str, object]) -> bool:
    """Return whether a CPU of these ``torch.cpu.get_capabilities()`` multiplies bfloat16 by itself.

    Others emulate it, many times slower than float32.
    """
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
