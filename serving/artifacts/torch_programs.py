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
FOLDER = "torch"
RECORD = "programs.json"
"""In ``FOLDER``, beside the programs."""


@dataclass(frozen=True)
class Programs:
    """One program per unit segment."""

    torch: str
    """Version of the library that wrote them."""
    model: str
    """``Catalog.digest`` of the model they were exported from."""
    segments: Mapping[str, SegmentFile]
    """By segment name; files are relative to the record's folder."""

    def check(self, catalog: Catalog) -> None:
        """Raises ValueError unless these are the programs of ``catalog``."""
        if self.model != catalog.digest:
            raise ValueError(
                f"the torch programs were exported from model {self.model}, the catalogue is that "
                f"of {catalog.digest}: build them again"
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Programs:
        """Parse what ``to_json`` writes. Raises ValueError naming what is wrong."""
        if data.get("format") != FORMAT:
            raise ValueError(f"{RECORD} has format {data.get('format')!r}, not {FORMAT}")
        try:
            files = {name: SegmentFile(**entry) for name, entry in data["segments"].items()}
            return cls(torch=data["torch"], model=data["model"], segments=files)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{RECORD} has a missing or malformed entry: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable form."""
        return {
            "format": FORMAT,
            "torch": self.torch,
            "model": self.model,
            "segments": {name: asdict(entry) for name, entry in sorted(self.segments.items())},
        }


def multiplies_bf16(capabilities: Mapping[str, object]) -> bool:
    """Whether a CPU of these ``torch.cpu.get_capabilities()`` multiplies bfloat16 by itself; others
    emulate it, many times slower than float32."""
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
