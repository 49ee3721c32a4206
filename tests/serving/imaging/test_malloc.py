from __future__ import annotations

import subprocess
import sys
from pathlib import Path

IMAGE = Path(__file__).parents[2] / "data/bccd/JPEGImages/BloodImage_00031.jpg"
COUNT_FAULTS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from serving.core.letterbox import ModelInput
from serving.imaging.decoding import load_image
from serving.imaging.malloc import keep_freed_memory

if sys.argv[2] == "keep":
    keep_freed_memory()
data = open(sys.argv[1], "rb").read()

def faults():
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    load_image(data, ModelInput(640, 512, "letterbox"))
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

with ThreadPoolExecutor(1) as pool:
    print(sorted(pool.submit(faults).result() for _ in range(20))[10])
"""


def faults_per_image(keep: str) -> int:
    command = [sys.executable, "-c", COUNT_FAULTS, str(IMAGE), keep]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_decoding_meets_memory_that_is_already_there():
    assert faults_per_image("keep") * 10 < faults_per_image("as it is")
