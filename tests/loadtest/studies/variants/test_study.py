"""``punctual study variants``: gateways with different settings, under the same requests."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli import variants as variants_cli
from loadtest.servers.processes import StudyError
from loadtest.studies.live.systems import SHIPPED, System
from loadtest.studies.variants import study as module
from loadtest.studies.variants.report import (
    ProcessorRun,
    gateway_ms,
    markdown,
    paired_ratios,
)
from loadtest.studies.variants.study import Variant, VariantsSettings, processor_seconds, study
from loadtest.workload.images import AnnotatedImage
from serving.core.command_errors import InvalidArgument
from serving.observability.processor_time import PARTS
from tests.commands import run_command
from tests.loadtest.load.answering import Server, answers, serving
from tests.serving.fakes import write_catalogs

PICTURE = AnnotatedImage("a.jpg", b"a", "image/jpeg")


def test_variants_are_named_with_what_they_set() -> None:
    assert Variant.parse("shipped") == Variant("shipped", {})
    given = {"num_threads": "1", "num_decode_workers": "2"}
    assert Variant.parse("one:num_threads=1,num_decode_workers=2") == Variant("one", given)


@pytest.mark.parametrize("text", ["", ":num_threads=1", "one:num_threads", "one:=1", "one:a="])
def test_what_names_no_variant(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected NAME"):
        Variant.parse(text)


def test_processor_time_is_read_from_metrics() -> None:
    lines = (f'punctual_processor_seconds_total{{part="{part}"}} 1.5' for part in PARTS)
    assert processor_seconds("# HELP x\n" + "\n".join(lines) + "\n") == dict.fromkeys(PARTS, 1.5)
    with pytest.raises(StudyError, match="does not tell"):
        processor_seconds("punctual_ready 1.0\n")


class Paused:
    """A server that is never really paused, and knows whether it should be."""

    group = 0

    def __init__(self, server: Server, running: list[str], name: str) -> None:
        self.server, self.running, self.name = server, running, name

    @property
    def url(self) -> str:
        return self.server.url

    def pause(self) -> None:
        if self.name in self.running:
            self.running.remove(self.name)

    def resume(self) -> None:
        self.running.append(self.name)


@contextlib.contextmanager
def starter(name: str, running: list[str]) -> Iterator[System]:
    def answer(handler: Any, body: bytes) -> None:
        assert running == [name], "one at a time"
        answers()(handler, body)

    with serving({b"a": answer}) as server:
        yield System(name, Paused(server, running, name), SHIPPED, PICTURE)  # type: ignore[arg-type]


def settings(repository: Path, *names: str) -> VariantsSettings:
    return VariantsSettings(
        model_repository=repository,
        model=None,
        data=Path("nowhere"),
        split="test",
        variants=tuple(map(Variant, names, itertools.repeat({}))),
        loads=(0.5,),
        budgets="60000",
        rounds=2,
        seconds=0.06,
        seed=0,
    )


def test_all_are_measured_in_every_round_and_compared_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_data", lambda *_: (PICTURE,))
    monkeypatch.setattr(module, "_reference", lambda *_: (1000.0, 0.01))
    spent = itertools.count()

    def exposition(url: str) -> str:
        assert url.endswith("/metrics")
        seconds = next(spent)
        return "".join(
            f'punctual_processor_seconds_total{{part="{part}"}} {seconds}\n' for part in PARTS
        )

    monkeypatch.setattr(module, "get_text", exposition)
    running: list[str] = []
    starters: dict[str, Callable[[], AbstractContextManager[System]]] = {
        name: partial(starter, name, running) for name in ("shipped", "other")
    }
    report, path = study(
        settings(write_catalogs(tmp_path, "cells"), "shipped", "other"),
        tmp_path / "out",
        lambda _: None,
        starters,
    )
    assert not running
    assert {(r.variant, r.depth, r.round) for r in report.processor_runs} == set(
        itertools.product(("shipped", "other"), ("1", "any"), range(2))
    )
    assert {(r.variant, r.load, r.round) for r in report.load_runs} == set(
        itertools.product(("shipped", "other"), (0.5,), range(2))
    )
    for round in range(2):
        digests = {r.summary.schedule_digest for r in report.load_runs if r.round == round}
        assert len(digests) == 1, "the same requests for all"
    run = report.processor_runs[0]
    assert set(run.ms_each) == {*PARTS, "client"}
    assert gateway_ms(run) == pytest.approx(6 * run.ms_each["decode"])
    assert path.with_suffix(".md").read_text() == markdown(report)
    assert json.loads(path.with_suffix(".json").read_text())["model"] == "cells"
    assert "| in-time accuracy | 0.500" in markdown(report)


def test_ratios_are_within_a_round() -> None:
    def run(variant: str, number: int, p50_ms: float) -> ProcessorRun:
        return ProcessorRun(variant, "1", number, p50_ms, {})

    first = [run("a", 0, 10.0), run("a", 1, 100.0)]
    second = [run("b", 1, 50.0), run("b", 0, 20.0), run("b", 2, 1.0)]
    assert paired_ratios(second, first, lambda run: run.latency_p50_ms) == [0.5, 2.0]


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (("--variant", "a", "a"), "different names"),
        (("--variant", "a:b"), "expected NAME"),
        (("--budgets", "long"), "long"),
        (("--model", "other"), "there is no model 'other'"),
    ],
)
def test_what_cannot_be_meant(
    option: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_command(variants_cli.add_parser, "variants", *option, "--out", tmp_path) == 2
    assert complaint in capsys.readouterr().err
