"""``punctual study triton``: what Triton costs, and what it serves.

    perf        throughput and latency of one model behind Triton and behind the gateway
    overhead    what a request pays for an engine in Triton instead of in the gateway
    memory      what the weights take, by how they are spread over processes

The report is written after each part.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.servers import processes, tritonserver
from loadtest.studies.triton import memory, overhead, perf
from loadtest.studies.triton.report import TritonReport
from reporting.machine import machine
from serving.artifacts.model_folders import MODEL_SUFFIX, find_model, read_catalog
from serving.core.catalog import Catalog
from serving.core.command_errors import InvalidArgument

_RUNTIME = re.compile(r'key: "runtime" value \{ string_value: "(\w+)" \}')


@dataclass(frozen=True)
class TritonStudySettings:
    """The settings of a study of Triton: what to measure and how long."""

    model_repository: Path
    config_name: str
    """Name of the configuration of each model that Triton takes."""
    server_folder: Path
    """Folder in which Triton is unpacked."""
    image: Path
    """File of the image that the gateways are sent."""
    rounds: int
    callers: tuple[int, ...]
    """Numbers of clients at once, of perf_analyzer."""
    turns: int
    window_ms: int
    seed: int


@dataclass(frozen=True)
class TritonSubject:
    """The model under study."""

    settings: TritonStudySettings
    folder: Path
    catalog: Catalog
    runtime: str
    """Runtime on which Triton's configuration runs the segments; so does everything else here."""

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.catalog.name

    @property
    def depths(self) -> tuple[int, ...]:
        """Return the shallowest and the deepest exit."""
        return tuple(sorted({1, self.catalog.num_exits}))

    def triton(
        self, models: Sequence[str], log: Path
    ) -> contextlib.AbstractContextManager[processes.TritonAddress]:
        """Start a Triton with these models."""
        settings = self.settings
        return processes.triton_server(
            settings.server_folder, settings.model_repository, settings.config_name, models, log
        )

    def gateway(
        self, name: str, settings: Mapping[str, object], log: Path
    ) -> contextlib.AbstractContextManager[str]:
        """Start a gateway with this model and these further settings."""
        common = {
            "model_repository": self.settings.model_repository.resolve(),
            "model": self.name,
            "runtime": self.runtime,
        }
        return processes.gateway(name, {**common, **settings}, log)


def find_subject(settings: TritonStudySettings, name: str | None) -> TritonSubject:
    """Find the model called ``name``, or the default one. Raises ModelError, InvalidArgument."""
    folder = find_model(settings.model_repository, name)
    catalog = read_catalog(folder)
    config = folder.parent / "configs" / f"{settings.config_name}.pbtxt"
    try:
        runtime = _RUNTIME.search(config.read_text())
    except OSError as error:
        raise InvalidArgument(f"Triton's configuration cannot be read: {error}") from error
    if runtime is None:
        raise InvalidArgument(f"{config} names no runtime")
    return TritonSubject(settings, folder, catalog, runtime[1])


# -- the parts -----------------------------------------------------------------------------------


def measure_perf(
    subject: TritonSubject, report: TritonReport, logs: Path, say: Callable[[str], None]
) -> None:
    """Measure throughput and latency, and fill ``report.perf``.

    Raises StudyError and AssemblyError.
    """
    folder, catalog = subject.settings.server_folder, subject.catalog
    analyzer = perf.PerfAnalyzer(
        tritonserver.assemble_perf_analyzer(folder),
        tritonserver.server_environment(folder),
        subject.settings.window_ms,
    )
    size = (catalog.input_height, catalog.input_width)
    callers = subject.settings.callers
    deepest = catalog.num_exits

    @contextlib.contextmanager
    def triton(model: str) -> Iterator[str]:
        with subject.triton((model,), logs / "triton.log") as address:
            report.versions["Triton"] = address.version()
            yield address.grpc

    def gateway() -> contextlib.AbstractContextManager[str]:
        started = subject.gateway("embedded", overhead.BACKENDS["embedded"], logs / "gateway.log")
        return perf.at_full_depth(started, deepest)

    loads = (
        *(perf.depth_loads(subject.name, depth, callers) for depth in subject.depths),
        perf.anytime_loads(subject.name, subject.depths, *size, callers),
    )
    targets = (
        *(perf.PerfTarget("grpc", partial(triton, each[0].model), each) for each in loads),
        perf.PerfTarget("http", gateway, perf.gateway_loads(subject.name, deepest, *size, callers)),
    )
    report.perf = perf.measure(targets, analyzer, subject.settings.rounds, say)


def measure_overhead(
    subject: TritonSubject, report: TritonReport, logs: Path, say: Callable[[str], None]
) -> None:
    """Measure Triton's overhead, and fill ``report.overhead``. Raises StudyError, AssemblyError."""
    settings, name = subject.settings, subject.name
    image, media_type = overhead.read_image(settings.image)
    models = [f"{name}{MODEL_SUFFIX}"]
    models += [f"{name}_d{depth}" for depth in range(1, subject.catalog.num_exits + 1)]
    with contextlib.ExitStack() as stack:
        say("overhead: starting Triton and the gateways")
        triton = stack.enter_context(subject.triton(models, logs / "triton.log"))
        report.versions["Triton"] = triton.version()
        clients: dict[str, overhead.ImageClient] = {}
        for index, (backend, chosen) in enumerate(overhead.BACKENDS.items()):
            log = logs / f"gateway-{index}.log"
            given = {**chosen, "triton_url": triton.grpc}
            url = stack.enter_context(subject.gateway(backend, given, log))
            gateway = overhead.Gateway(backend, url, image, media_type)
            stack.callback(gateway.close)
            clients[backend] = gateway
        depth_models = overhead.DepthGateway(clients[overhead.DEPTH], triton.http_url, name)
        clients[overhead.DEPTH] = depth_models
        say(f"overhead: {settings.turns} turns")
        turns = overhead.measure(clients, subject.depths, settings.turns, settings.seed)
    report.overhead, report.lost_turns = overhead.summarise(turns), turns.lost


def measure_memory(
    subject: TritonSubject, report: TritonReport, logs: Path, say: Callable[[str], None]
) -> None:
    """Measure memory, and fill ``report.memory``. Raises StudyError."""
    del logs  # a process that fails is quoted from its pipe
    rounds = subject.settings.rounds
    report.memory = memory.measure(subject.catalog, subject.folder, subject.runtime, rounds, say)


PARTS = {"perf": measure_perf, "overhead": measure_overhead, "memory": measure_memory}


def study(
    settings: TritonStudySettings,
    model: str | None,
    parts: Sequence[str],
    out: Path,
    say: Callable[[str], None],
) -> TritonReport:
    """Measure ``parts``, in the order of ``PARTS``, and write the report as JSON and Markdown.

    The files are ``out``/triton-DATE.json and .md, or triton-PART-DATE where not all parts were
    asked for. Raises StudyError, or AssemblyError where there is no Triton.
    """
    subject = find_subject(settings, model)
    report = TritonReport(
        machine=machine(),
        load_average=os.getloadavg()[0],
        versions=versions(subject.runtime),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        model=subject.name,
        model_digest=subject.catalog.digest,
        settings={
            "rounds": settings.rounds,
            "callers": " and ".join(map(str, settings.callers)),
            "turns": settings.turns,
            "window": f"{settings.window_ms} ms",
            "seed": settings.seed,
            "image": settings.image.name,
            "configuration": settings.config_name,
        },
    )
    wanted = [name for name in PARTS if name in parts]
    stem = "-".join(("triton", *(wanted if len(wanted) < len(PARTS) else ()), report.date))
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as logs:
        for name in wanted:
            PARTS[name](subject, report, Path(logs), say)
            report.write(out / stem)
    return report


def versions(runtime: str) -> dict[str, str]:
    """Return name -> version of everything here whose figures these are.

    Triton tells its own when it runs.
    """
    wheels = (tritonserver.PYTRITON, f"perf_analyzer of {tritonserver.TRITONCLIENT}")
    return {
        "punctual": version("punctual"),
        "Python": platform.python_version(),
        runtime: version(runtime),
        **dict(wheel.split("==") for wheel in wheels),
    }
