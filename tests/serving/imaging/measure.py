"""A process that decodes what it is given, within the memory that was estimated, and says how it
went and what it took.

    stdin: a pickled list of files        stdout: a JSON list of one object for each

It runs by itself, so that a limit on its memory ends nothing else.
"""

from __future__ import annotations

import json
import pickle
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from serving.core.errors import InvalidImage, InvalidRequest
from serving.core.letterbox import ModelInput
from serving.imaging.decode_cost import memory_bytes, work_ns
from serving.imaging.decoding import decode_all
from serving.imaging.probing import Header, probe

INPUT = ModelInput(428, 428, "letterbox")
MAX_PIXELS = 25_000_000
SPARE_BYTES = 8 * 2**20
"""What the process may take beyond an estimate, for what it holds anyway."""


def address_space() -> int:
    """Bytes of memory that this process has asked for so far."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def limit(num_bytes: int) -> None:
    """Let this process have no more memory than this."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, hard))


def outcome(data: bytes, header: Header) -> str:
    """How decoding ends: "decoded", or what is wrong."""
    try:
        decode_all(data, header, (INPUT,))
    except InvalidImage as error:
        return error.detail
    return "decoded"


def measured(data: bytes, repeats: int) -> dict[str, Any]:
    """What is known of one file once it has been decoded ``repeats`` times."""
    try:
        header = probe(data, MAX_PIXELS)
    except InvalidRequest as error:
        return {"refused": error.slug}
    estimate = memory_bytes(header, INPUT)
    limit(address_space() + estimate + SPARE_BYTES)
    within = outcome(data, header)
    limit(resource.RLIM_INFINITY)
    seconds = []
    for _ in range(repeats):
        before_s = time.thread_time()
        outcome(data, header)
        seconds.append(time.thread_time() - before_s)
    return {
        "kind": header.coding.kind,
        "pixels": header.num_pixels,
        "within_estimate": within,
        "without_limit": within if within == "decoded" else outcome(data, header),
        "estimated_bytes": estimate,
        "estimated_s": work_ns(header, (INPUT,)) * 1e-9,
        "processor_s": min(seconds, default=0.0),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    files = pickle.load(sys.stdin.buffer)
    json.dump([measured(data, int(sys.argv[1])) for data in files], sys.stdout)
