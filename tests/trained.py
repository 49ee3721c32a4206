"""The trained model that tests serve. Not the default one: this one is small, runs at one input
size, and has annotated images in the repository."""

from __future__ import annotations

from pathlib import Path

from serving.artifacts.model_folders import read_catalog, version_folder

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT / "model_repo"
MODEL = "bccd"
FOLDER = version_folder(REPOSITORY, MODEL)
CATALOG = read_catalog(FOLDER)
DATA = ROOT / "tests" / "data" / "bccd"
IMAGES = tuple(sorted((DATA / "JPEGImages").glob("*.jpg")))
IMAGE = DATA / "JPEGImages" / "BloodImage_00031.jpg"
