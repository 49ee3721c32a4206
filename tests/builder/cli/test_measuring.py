"""``punctual evaluate``, ``report`` and ``profile``: what they refuse, each in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.cli.registry import register
from builder.exporting.repository import write_entry
from serving.__main__ import main
from serving.artifacts.model_folders import read_catalog, version_folder
from serving.core import segment as segments
from serving.core.errors import InvalidImage
from serving.core.latency_profile import LatencyProfile, Quantiles
from serving.core.letterbox import Letterbox, ModelInput
from serving.core.model_entry import ModelEntry
from tests.builder.conftest import COLOURS, HEIGHT, WIDTH
from tests.builder.measuring.test_latency import CATALOG
from tests.commands import run_command
from tests.serving.world import NUM_EXITS, FakeClock, FakeRunner

BCCD = replace(CATALOG, classes=tuple(COLOURS))


class Tools:
    """``ServingTools`` whose runners take no time; those of precisions that are ``absent`` cannot
    be opened."""

    def __init__(
        self,
        absent: Collection[str | None] = (),
        error: Callable[[Path], Exception] = lambda path: FileNotFoundError(2, "none", path),
    ) -> None:
        self.absent = absent
        self.error = error
        self.opened: list[FakeRunner] = []

    def open_family(
        self,
        runtime: str,
        folders: Sequence[Path],
        num_threads: int | None,
        precision: str | None = None,
    ) -> FakeRunner:
        if precision in self.absent:
            raise self.error(folders[0] / runtime)
        self.opened.append(FakeRunner(FakeClock()))
        return self.opened[-1]

    def load_image(
        self, data: bytes, model_input: ModelInput, inputs: Collection[ModelInput] = ()
    ) -> tuple[Any, Letterbox]:
        if data == b"half":
            raise InvalidImage("The JPEG image is truncated.")
        pixels = np.zeros((model_input.height, model_input.width, 3), np.uint8)
        return pixels, model_input.place(WIDTH, HEIGHT)


def run(tools: Tools, command: str, repository: Path, *arguments: str) -> int:
    """The status of the command on the model toy, with other tools than the server's."""
    model = ["--model-repository", str(repository), "--model", "toy"]

    def add_parsers(commands: Any) -> None:
        register(commands, tools)  # type: ignore[arg-type]

    return run_command(add_parsers, command, *model, *arguments)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with a catalogue of BCCD's classes."""
    folder = version_folder(tmp_path / "repository", "toy")
    folder.mkdir(parents=True)
    write_entry(ModelEntry((BCCD,)), folder)
    return tmp_path / "repository"


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr that is about what was wrong."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped" not in line]
    assert len([line for line in lines if line.startswith("punctual: ")]) == 1
    return lines[-1]


MODEL = ["--model", "toy"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["evaluate", *MODEL, "--threads", "-2"], "--threads: -2 is less than 1"),
        (["profile", *MODEL, "--threads", "0"], "--threads: 0 is less than 1"),
        (["build", *MODEL, "--threads", "0"], "--threads: 0 is less than 1"),
        (["evaluate", *MODEL, "--threads", "many"], "--threads: 'many' is no whole number"),
        (["evaluate", *MODEL, "--bootstrap", "-1"], "--bootstrap: -1 is less than 0"),
        (["report", *MODEL, "--images", "-1"], "--images: -1 is less than 0"),
        (["profile", *MODEL, "--rounds", "-1"], "--rounds: -1 is less than 0"),
        (["profile", *MODEL, "--path-rounds", "-5"], "--path-rounds: -5 is less than 0"),
        (["profile", *MODEL, "--depths", "0"], "--depths: 0 is less than 1"),
    ],
)
def test_numbers_that_mean_nothing(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_comparison_of_no_rounds(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools = Tools()
    assert run(tools, "profile", repository, "--path-rounds", "0", "--against", "f32") == 2
    assert "--against compares" in sentence(capsys)
    assert not tools.opened


@pytest.mark.parametrize("command", ["evaluate", "report", "profile"])
def test_a_model_that_is_not_there(
    command: str, bccd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if command == "profile" else ["--data", str(bccd), "--split", "val"]
    assert run(Tools(), command, tmp_path, *data) == 2
    assert f"there is no model in {tmp_path}" in sentence(capsys)


def test_a_catalogue_that_is_none(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (version_folder(repository, "toy") / "catalog.json").write_text("{")
    assert run(Tools(), "profile", repository) == 2
    assert "catalog.json cannot be used: " in sentence(capsys)


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_data_set_of_other_classes(
    command: str, repository: Path, bccd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_entry(ModelEntry((CATALOG,)), version_folder(repository, "toy"))
    assert run(Tools(), command, repository, "--data", str(bccd), "--split", "val") == 2
    told = sentence(capsys)
    assert told == "punctual: the data set has the class 'RBC', the model finds x"


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_an_image_that_is_truncated(
    command: str, repository: Path, bccd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = bccd / "JPEGImages/image_3.jpg"
    tools = Tools()
    load = tools.load_image
    tools.load_image = lambda data, *size: load(  # type: ignore[method-assign]
        b"half" if data == image.read_bytes() else data, *size
    )
    assert run(tools, command, repository, "--data", str(bccd), "--split", "val") == 2
    assert f"{image} cannot be used: The JPEG image is truncated." in sentence(capsys)


@pytest.mark.parametrize("command", ["evaluate", "profile"])
def test_segments_that_are_not_there(
    command: str, repository: Path, bccd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if command == "profile" else ["--data", str(bccd), "--split", "val"]
    arguments = ("--runtime", "torch", *data)
    assert run(Tools({None}), command, repository, *arguments) == 2
    assert sentence(capsys).endswith("torch: make it with punctual build --target torch")
    others = Tools({None}, lambda path: ValueError("the programs are of another model"))
    assert run(others, command, repository, *arguments) == 2
    assert "toy_anytime/1 cannot be run on torch: the programs are" in sentence(capsys)


def images(bccd: Path, name: str) -> list[str]:
    """Options for a split of this image."""
    (bccd / "ImageSets/Main/few.txt").write_text(f"{name}\n")
    return ["--data", str(bccd), "--split", "few"]


def test_a_class_that_the_split_lacks_is_left_out(
    repository: Path, bccd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation = bccd / "Annotations/image_1.xml"
    annotation.write_text(annotation.read_text().replace("<name>WBC", "<name>RBC"))
    assert run(Tools(), "evaluate", repository, *images(bccd, "image_1"), "--write") == 0
    assert " nan" in capsys.readouterr().out

    def no_number(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    folder = version_folder(repository, "toy")
    json.loads((folder / "catalog.json").read_text(), parse_constant=no_number)
    for entry in read_catalog(folder).exits:
        assert set(entry.ap_by_class) == {"RBC", "Platelets"}


def test_a_split_with_nothing_to_find(
    repository: Path, bccd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Tools(), "evaluate", repository, *images(bccd, "image_5"), "--write") == 2
    assert "the split 'few' of" in sentence(capsys)
    assert read_catalog(version_folder(repository, "toy")) == BCCD


def test_a_figure_that_is_no_number_is_not_written(repository: Path) -> None:
    folder = version_folder(repository, "toy")
    exits = tuple(replace(entry, ap=float("nan")) for entry in BCCD.exits)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_entry(ModelEntry((replace(BCCD, exits=exits),)), folder)
    assert read_catalog(folder) == BCCD


def test_depths_that_the_model_has_not(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = Tools()
    assert run(tools, "profile", repository, "--depths", "1", "9") == 2
    assert f"--depths are 1 to {NUM_EXITS}, not 9" in capsys.readouterr().err
    assert not tools.opened


def test_what_is_compared_with_must_be_there_before_anything_is_measured(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = Tools({"int8"})
    assert run(tools, "profile", repository, "--against", "int8") == 2
    assert "there is no" in sentence(capsys)
    assert [runner.log for runner in tools.opened] == [[]]


def test_accuracy_is_of_a_data_set_not_of_its_layout(repository: Path, bccd: Path) -> None:
    (bccd / "classes.txt").write_text("\n".join(BCCD.classes))
    own = bccd.rename(bccd.with_name("cells"))
    options = ["--dataset", "voc", "--data", str(own), "--split", "val", "--write"]
    assert run(Tools(), "evaluate", repository, *options) == 0
    evaluation = read_catalog(version_folder(repository, "toy")).evaluation
    assert evaluation is not None
    assert (evaluation.dataset, evaluation.split) == ("cells", "val")


def test_a_report_makes_its_folder(repository: Path, bccd: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data = ["--data", str(bccd), "--split", "val", "--out"]
    assert run(Tools(), "report", repository, *data, str(tmp_path / "file/report.html")) == 2


@pytest.mark.parametrize("command", ["evaluate", "profile"])
def test_figures_that_others_write_meanwhile_stay(
    command: str, repository: Path, bccd: Path
) -> None:
    """Those of another runtime, which is measured while this command runs."""
    folder = version_folder(repository, "toy")
    table = {(segments.STEM, 1): Quantiles(0.001, 0.002, 0.003)}
    profile = LatencyProfile("other 1", "m", "d", 1, table)
    tools = Tools()
    opened = tools.open_family

    def open_family(*arguments: Any) -> FakeRunner:
        write_entry(ModelEntry((replace(BCCD, profiles={"other": profile}),)), folder)
        return opened(*arguments)

    tools.open_family = open_family  # type: ignore[assignment]
    rounds = ["--rounds", "1", "--path-rounds", "0"]
    options = rounds if command == "profile" else ["--data", str(bccd), "--split", "val"]
    assert run(tools, command, repository, *options, "--write") == 0
    catalog = read_catalog(folder)
    assert catalog.profiles["other"] == profile
    assert catalog != replace(BCCD, profiles={"other": profile})
