"""How every command of ``punctual`` ends when it cannot do what it was asked for."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.servers.free_ports import free_port
from serving import __main__ as program
from serving.core.command_errors import (
    EXIT_CODES,
    FAILURE,
    MISTAKE,
    STOPPED,
    TERMINATED,
    UNREAD,
    CommandError,
    CommandFailed,
    files_of_the_user,
    invalid_arguments,
)
from tests import trained
from tests.commands import run_command
from tests.serving.fakes import write_catalogs
from tests.trained import ROOT

IMAGE = str(trained.IMAGE)
REPOSITORY = f"--model-repository {trained.REPOSITORY}"
TRAINED = f"{REPOSITORY} --model {trained.MODEL}"

MISTAKES = {
    "serve": [
        ("--model-repository nowhere", "there is no model in nowhere"),
        (f"{REPOSITORY} --model sea", "there is no model 'sea'"),
        ("--max-waiting none", "--max-waiting=none: "),
        (f"{TRAINED} --decision-log file/x", "cannot be written to file/x"),
    ],
    "models": [
        ("--model-repository nowhere", "there is no model in nowhere"),
        ("--runtime magic", "--runtime=magic"),
    ],
    "detect": [
        ("nowhere.jpg", "there is no image nowhere.jpg"),
        ("file --url here", "'here' is not the URL of a server"),
        ("file --key-file nowhere", "--key-file: .*nowhere"),
        ("file --draw file", "file is a file, not a folder"),
    ],
    "watch": [
        ("nowhere.mp4", "there is no nowhere.mp4"),
        ("file --url here", "'here' is not the URL of a server"),
        ("file --key-file nowhere", "--key-file: .*nowhere"),
    ],
    "admin list": [("--url here", "--url=here is no address of a server")],
    "admin load": [("--url here", "--url=here is no address of a server")],
    "admin unload": [("--key-file nowhere", "--key-file: .*nowhere")],
    "admin reload": [("--url here", "--url=here is no address of a server")],
    "plans": [("--store s --link l --wait-s soon", "--wait-s=soon is no number of seconds")],
    "cost": [
        ("--config bccd --set detector.x=1", "no field"),
        ("--config bccd --neck nowhere.json", "--neck: .*nowhere.json"),
        ("--config bccd --set detector.input_size=[102400,102400]", "input_size is .*, it must"),
        ("--config bccd --set detector.neck_channels=1000000", "neck_channels is 1000000, it must"),
    ],
    "import": [
        ("nowhere.pth --layout mmdet-nas-fpn --out x", "nowhere.pth"),
        ("file --layout mmdet-nas-fpn --out x", "file: no torch file"),
        ("file --layout imagenet-backbone --out x", "needs a --config"),
    ],
    "import-onnx": [
        ("nowhere.onnx --name x", "nowhere.onnx"),
        ("file --name x", "file: it is not ONNX"),
        ("file --name x --images nowhere.jpg", "no file is called nowhere.jpg"),
    ],
    "rank": [
        (f"{TRAINED} --images nowhere.jpg", "no file is called nowhere.jpg"),
        (f"{REPOSITORY} --model sea", "there is no model 'sea'"),
        (f"{REPOSITORY} --model bccd everyday", "are not for the same classes"),
    ],
    "train": [
        ("--config bccd --out x --data nowhere", "there is no folder nowhere"),
        ("--config bccd --out x --set train.epochs=0", "epochs is 0, it must be"),
        ("--config bccd --out x --set train.batch_size=100000000", "batch_size is .*, it must be"),
        ("--config bccd --out x --device abacus", "the device is one of cpu, cuda"),
        ("--config bccd --out x --init nowhere.pt", "--init: .*nowhere.pt"),
    ],
    "ablate": [
        ("--config bccd_small --out x --depths 6", "depths are 1 to 5, not 6"),
        ("--config bccd_small --out x --data nowhere", "there is no folder nowhere"),
    ],
    "figure": [
        ("widths --out x --data nowhere", "there is no folder nowhere"),
        ("widths --out x --set detector.num_stacks=0", "there is no exit"),
    ],
    "search run": [
        ("--evaluator table --out x", "the evaluators table and surrogate need --journal"),
        ("--evaluator train --data nowhere --out x", "there is no folder nowhere"),
        (
            f"--data {trained.DATA} --out x --set detector.num_stacks=1 "
            '--set train.split="test" --set train.validation_split="test"',
            "has one exit, and what a stack costs shows between two",
        ),
        ("--evaluator shared --out x", "shared needs --shared"),
        ("--evaluator shared --shared nowhere --out x", "nowhere/shared.json"),
    ],
    "search share": [
        ("--of nowhere.jsonl --out x", "nowhere.jsonl"),
        ("--of nowhere.jsonl --out x --set train.validation_sizes=[128]", "at one size"),
    ],
    "search report": [("nowhere.jsonl --out x", "nowhere.jsonl")],
    "search benchmark": [("--evaluator table --journal nowhere.jsonl", "nowhere.jsonl")],
    "search latency": [("--config bccd_proxy_p5 --out x", "cannot have the levels of nas-fpn")],
    "search times": [("nowhere.jsonl --out x", "nowhere.jsonl")],
    "search agreement": [("nowhere.jsonl elsewhere.jsonl", "nowhere.jsonl")],
    "search contest": [("nowhere.jsonl", "nowhere.jsonl")],
    "search space": [("--neck nowhere.json", "--neck: .*nowhere.json")],
    "build": [
        ("--model x --model-repository .", "there is no x_anytime/1/catalog.json"),
        ("--checkpoint nowhere.pt", "there is no checkpoint nowhere.pt"),
        ("--checkpoint file", "file: no torch file"),
        ("--config bccd --model-repository file", "file is a file, not a folder"),
    ],
    "evaluate": [
        ("--model sea --model-repository nowhere", "there is no model in nowhere"),
        (f"{TRAINED} --data nowhere", "no folder nowhere"),
    ],
    "report": [
        ("--model sea --data nowhere", "there is no folder nowhere"),
        ("--model sea --out file/report.html", "file"),
    ],
    "profile": [
        ("--model sea --model-repository nowhere", "there is no model in nowhere"),
        (f"{TRAINED} --depths 9", "--depths are 1 to 7, not 9"),
    ],
    "gpu": [("--device cpu --model sea", "no configuration 'sea'")],
    "loadtest": [
        (f"--image {IMAGE} --budgets x", "budgets 'x'"),
        ("--image nowhere.jpg", "nowhere.jpg cannot be read"),
        (f"--image {IMAGE} --catalog nowhere", "nowhere/catalog.json cannot be used"),
    ],
    "loadgen": [
        ("--image nowhere.jpg --budget-ms 40", "nowhere.jpg cannot be read"),
        (f"--image {IMAGE} --budget-ms 40 --percentile 2", "must be below 1"),
        (f"--image {IMAGE} --budget-ms 40 --out file/x", "file"),
    ],
    "simulate": [
        ("--policy magic", "not a policy: 'magic'"),
        ("--profile nowhere.json", "profile 'nowhere.json'"),
        ("--requests 60 --seeds 1 --policy fixed:9 --jobs 1", "operating points 1 to 5, not 9"),
        ("--policy fixed:1 --out file/x", "file"),
    ],
    "sweep": [("--image nowhere.jpg", "nowhere.jpg cannot be read")],
    "study live": [
        ("--budgets x", "budgets 'x'"),
        ("--model-repository nowhere", "there is no model in nowhere"),
    ],
    "study serve": [
        ("--policy best", "not a policy: 'best'"),
        ("--policy fixed:1 -- --max-waiting none", "--max-waiting=none: "),
    ],
    "study segments": [("nowhere", "nowhere/catalog.json cannot be used")],
    "study variants": [("--model-repository nowhere", "there is no model in nowhere")],
    "study idle": [("--images nowhere.jpg", "nowhere.jpg cannot be read")],
    "study restart": [("--images nowhere.jpg", "nowhere.jpg cannot be read")],
    "study soak": [("--images nowhere.jpg", "nowhere.jpg cannot be read")],
    "study alerts": [("--rules file", "apt-get install prometheus|file has no rules")],
    "study clients": [("--images nowhere.jpg", "nowhere.jpg cannot be read")],
    "study cameras": [("--images nowhere.jpg", "nowhere.jpg cannot be read")],
    "study decisions": [("--profile none", "profile 'none'")],
    "study autoscaling": [
        ("--profile none", "profile 'none'"),
        ("--out file/x", "file"),
    ],
    "study shares": [("--profile none", "profile 'none'")],
    "study ladders": [
        ("--profile none", "profile 'none'"),
        ("--out file/x", "file/x"),
    ],
    "study triton": [
        ("--model-repository nowhere", "there is no model in nowhere"),
        (f"{TRAINED} --config-name x", "configuration cannot be read"),
    ],
    "keys new": [("a/b", "'a/b' cannot be a name"), ("x" * 64, "cannot be a name")],
    "study hold": [
        ("nowhere --runtime openvino", "nowhere/catalog.json cannot be used"),
        (f"{trained.FOLDER} --runtime openvino --runner x", "'x'"),
    ],
    "triton": [("--server-folder file/x", "file")],
}
"""Command -> what its user can get wrong, and what is said."""


def every_command(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The commands of ``parser`` that run, a study with the word before its name."""
    subparsers = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not subparsers:
        yield ""
    for action in subparsers:
        for name, inner in action.choices.items():
            for rest in every_command(inner):
                yield f"{name} {rest}".strip()


def test_every_command_is_tried() -> None:
    assert set(every_command(program.create_parser())) == set(MISTAKES)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing but a file in it, which commands are run in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no rules")
    return tmp_path


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [(name, *mistake) for name, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_a_mistake_is_told_in_a_line(
    command: str, arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*command.split(), *arguments.split()]
    if {"loadtest", "loadgen", "sweep"} & set(asked):
        asked += ["--url", f"http://127.0.0.1:{free_port()}"]
    if command == "serve" and "--port" not in asked:
        asked += ["--port", "0"]  # that of the setting may be taken
    assert program.main(asked) == MISTAKE
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("punctual: ")
    assert re.search(sentence, told)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("loadtest --budgets 40", "does not answer: connection-refused"),
        ("loadgen --budget-ms 40", "does not answer: connection-refused"),
        ("sweep", "cannot be reached"),
    ],
)
def test_a_server_that_does_not_answer_is_a_failure(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert program.main([*arguments.split(), "--image", IMAGE, "--url", url]) == FAILURE
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("punctual: ")
    assert sentence in told


@pytest.mark.parametrize(
    "allocate",
    [
        lambda torch: torch.empty(10**16),
        lambda torch: torch.empty(2**40, 2**40),
        lambda torch: torch.nn.Conv2d(10**7, 10**7, 3),
        lambda _: np.empty(10**17),
        lambda _: bytes(2**62),
    ],
)
def test_what_takes_more_memory_than_there_is_is_a_failure(
    allocate: Callable[[Any], object], capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")

    def add(commands: Any) -> None:
        commands.add_parser("x").set_defaults(run=lambda _: allocate(torch))

    assert run_command(add, "x") == FAILURE
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("punctual: this takes more memory than there is")


def test_another_error_at_run_time_is_a_defect() -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the size of tensor a must match")

    with pytest.raises(RuntimeError, match="tensor a"):
        run_command(lambda commands: commands.add_parser("x").set_defaults(run=fail), "x")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("command", ["triton", f"study triton --parts perf {TRAINED}"])
def test_a_triton_that_cannot_be_had_is_a_failure(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert program.main([*command.split(), "--server-folder", "server"]) == FAILURE
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"punctual: nvidia-pytriton==\S+ could not be fetched: ", told)


def served(repository: Path, *options: str) -> str:
    """The last line of a server that cannot be started."""
    where = ("--model-repository", str(repository), *options)
    done = subprocess.run(
        [sys.executable, "-m", "serving", "serve", *where],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == FAILURE, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_backend_that_does_not_start_is_a_failure(tmp_path: Path) -> None:
    """Its model has a catalogue, and no segments."""
    told = served(write_catalogs(tmp_path, "cells"), "--port", "0")
    assert told.startswith("punctual: the backend did not start: ")


@pytest.mark.slow
def test_a_port_that_is_taken_is_a_failure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = served(write_catalogs(tmp_path, "cells"), "--port", str(port))
    assert told.startswith(
        f"punctual: cannot listen on 127.0.0.1, port {port}: address already in use"
    )


# -- extras --------------------------------------------------------------------------------------

NEEDS = {
    "torch": "train --config bccd --out x",
    "onnx": "build --config bccd",
    "tensorboard": f"train --config bccd --out x --tensorboard --data {trained.DATA} "
    "--split test --set detector.input_size=[128,128]",
    "pycocotools": "evaluate --model x",
    "httpx": f"detect {IMAGE}",
    "av": f"watch {IMAGE} --out x.mp4",
    "rich": "watch x.mp4",
    "tqdm": "simulate --policy fixed:1 --requests 60 --seeds 1",
    "yaml": f"study alerts --images {IMAGE}",
    "matplotlib": "study live",
    "mlperf_loadgen": f"loadgen --image {IMAGE} --budget-ms 40",
    "onnxruntime": f"profile {TRAINED} --runtime onnxruntime",
    "tensorrt": "plans --store s --link l",
    "cuda": "plans --store s --link l",
    "grpc": f"serve {TRAINED} --port 0 --backend triton",
    "tritonclient": f"serve {TRAINED} --port 0 --backend triton-depth",
    "opentelemetry": f"serve {TRAINED} --port 0",
    "ray": "search run --evaluator analytic --pool ray --out x",
    "scipy": "search report x.jsonl --out x",
}
"""Module of an extra -> a command that needs it."""

WITHOUT = """
import sys, types

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
if {module!r} == "cuda":  # which is looked for after this one
    sys.modules["tensorrt"] = types.ModuleType("tensorrt")
from serving.__main__ import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", program.EXTRAS)
def test_a_missing_extra_is_named(
    module: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if module == "opentelemetry":
        monkeypatch.setenv("PUNCTUAL_TRACING", "1")
    code = WITHOUT.format(module=module, arguments=NEEDS[module].split())
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == MISTAKE, done.stderr
    extra = program.EXTRAS[module]
    pip = f"{shlex.quote(sys.executable)} -m pip"
    told = f"punctual: this needs {module}; {pip} install 'punctual[{extra}]'"
    assert done.stderr.splitlines()[-1] == told
    assert "Traceback" not in done.stderr


DISTRIBUTIONS = {
    "cuda": "cuda-python",
    "grpc": "tritonclient",
    "mlperf_loadgen": "mlcommons-loadgen",
    "opentelemetry": "opentelemetry-sdk",
    "yaml": "pyyaml",
}
"""Module -> what installs it, where that has another name."""


def test_every_extra_has_what_it_is_named_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for module, extra in program.EXTRAS.items():
        requirements = project["optional-dependencies"][extra]
        names = {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}
        assert DISTRIBUTIONS.get(module, module) in names


# -- the one place where commands end ------------------------------------------------------------


def ends(error: BaseException) -> int:
    """The exit code of a command that raises ``error``."""

    def add_parsers(commands: Any) -> None:
        def fail(_: argparse.Namespace) -> None:
            raise error

        commands.add_parser("fail").set_defaults(run=fail)

    return run_command(add_parsers, "fail")


@pytest.mark.parametrize(
    "defect",
    [
        RuntimeError("x"),
        ValueError("x"),
        FileNotFoundError("x"),
        ImportError("x"),
        ModuleNotFoundError("No module named 'x'", name="x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_defect_is_none_of_the_users_mistakes(
    defect: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(defect)):
        ends(defect)
    assert not capsys.readouterr().err


def test_a_reader_that_has_ended_is_no_defect() -> None:
    """As ``punctual models | head -1``; what is still to be written is not told of either."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "serving", *f"models {TRAINED}".split()],
            cwd=ROOT,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (UNREAD, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [(BrokenPipeError(errno.EPIPE, "x"), UNREAD), (OSError(errno.ENOSPC, "full"), FAILURE)],
)
def test_an_output_that_cannot_be_written_ends_a_command(
    error: OSError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(error) == code
    with pytest.raises((BrokenPipeError, CommandFailed)), files_of_the_user():
        raise error
    assert capsys.readouterr().err == ("" if code == UNREAD else "punctual: full\n")


def test_a_name_that_the_terminal_has_no_letters_for_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))

    def add_parsers(commands: Any) -> None:
        commands.add_parser("tell").set_defaults(run=lambda _: print("größe"))

    assert run_command(add_parsers, "tell") == 0
    assert written.getvalue() == b"gr\\xf6\\xdfe\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, STOPPED), (signal.SIGTERM, TERMINATED)]
)
def test_what_a_command_has_started_ends_with_it(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    ended = []

    @contextlib.contextmanager
    def server() -> Iterator[None]:
        try:
            yield
        finally:
            ended.append("server")

    def study(_: argparse.Namespace) -> None:
        with server():
            signal.raise_signal(number)
            pytest.fail("it went on")

    def add_parsers(commands: Any) -> None:
        commands.add_parser("study").set_defaults(run=study)

    assert run_command(add_parsers, "study") == code
    assert ended == ["server"]
    assert capsys.readouterr().err == "punctual: stopped\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_explains_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--help"])
    told = capsys.readouterr().out
    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"^  {code} +{re.escape(meaning)}$", told, re.MULTILINE)
    assert set(EXIT_CODES) == {0, FAILURE, MISTAKE, STOPPED, UNREAD, TERMINATED}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(2, "none", "x"), CommandError),
        (IsADirectoryError(21, "a folder", "x"), CommandError),
        (PermissionError(13, "denied", "x"), CommandError),
        (OSError(28, "No space left on device", "x"), CommandFailed),
    ],
)
def test_a_wrong_path_is_a_mistake_and_a_full_disk_a_failure(
    error: OSError, kind: type[CommandError]
) -> None:
    with pytest.raises(CommandError) as raised, files_of_the_user():
        raise error
    assert type(raised.value) is kind
    assert str(raised.value) == f"{error.filename}: {error.strerror}"


def test_an_invalid_argument_is_still_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^x$") as raised, invalid_arguments():
        raise ValueError("x")
    assert ends(raised.value) == MISTAKE
