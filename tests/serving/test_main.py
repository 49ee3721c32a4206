from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints, version
from pathlib import Path
from typing import Any

import pytest

from serving import __main__ as command
from serving.artifacts.model_folders import read_entry
from serving.settings import Settings
from tests.serving.fakes import write_catalogs
from tests.trained import MODEL, REPOSITORY, ROOT

LADDER = "everyday"
"""A model of several input sizes."""

HEAVY = ("torch", "openvino", "onnxruntime", "onnx", "fastapi", "pydantic", "numpy", "PIL")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_options_are_settings() -> None:
    for options in (command.SERVE_OPTIONS, command.MODELS_OPTIONS):
        assert {option.setting for option in options} <= set(Settings.model_fields)


def test_help_repeats_the_true_defaults() -> None:
    stated = {option.setting: option.text for option in command.SERVE_OPTIONS}
    for name, field in Settings.model_fields.items():
        if name in stated and field.default is not None:
            default = field.default
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            assert f"({shown}" in stated[name]


def test_help_is_light() -> None:
    code = (
        "import sys\nfrom serving.__main__ import main\n"
        "try: main(['serve', '--help'])\nexcept SystemExit: pass\n"
        f"print('loaded:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.endswith("loaded: []\n")
    assert "--max-waiting" in done.stdout


def test_version() -> None:
    assert run("--version").stdout == f"punctual {version('punctual')}\n"


@pytest.mark.parametrize("arguments", [(), ("dance",), ("serve", "--nothing")])
def test_misuse(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: punctual" in done.stderr


def test_an_unknown_option_is_refused_with_the_usage_of_its_command() -> None:
    done = run("serve", "--nothing")
    assert done.stderr.startswith("usage: punctual serve ")
    assert "punctual serve: error: unrecognized arguments: --nothing" in done.stderr


def test_bad_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PUNCTUAL_PORTT", "1")
    assert command.main(["serve", "--max-waiting", "none"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "punctual: PUNCTUAL_PORTT is not a setting; did you mean PUNCTUAL_PORT?"
    assert second.startswith("punctual: --max-waiting=none: ")


def test_no_model(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["serve", "--port", "0", "--model-repository", str(tmp_path)]) == 2
    assert "there is no model in" in capsys.readouterr().err


def test_the_command_to_try_has_an_image_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, image in ((ROOT, "docs/images/coffee.jpg"), (tmp_path, "photo.jpg")):
        monkeypatch.chdir(folder)
        command._announce("http://127.0.0.1:8000", 0.18)
        ready, to_try = capsys.readouterr().out.splitlines()
        assert ready == "Punctual is ready: http://127.0.0.1:8000"
        assert f"'X-Deadline-Ms: 180' --data-binary @{image} 'http://127.0.0.1:8000/v1/" in to_try


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["models", "--model-repository", str(REPOSITORY), "--model", MODEL]) == 0
    name, *facts, what, head = (out := capsys.readouterr().out.splitlines())[:7]
    lines = out[7:]
    assert name.startswith(f"{MODEL}: RetinaNet")
    assert [fact.split(":")[0] for fact in facts] == [
        "  sizes",
        "  3 classes",
        "  licence",
        "  origin",
    ]
    assert what == "openvino, in the precision that it chooses"
    assert head.split() == ["model", "exit", "AP", "ms"]
    assert [line.split()[:2] for line in lines] == [[MODEL, str(d)] for d in range(1, 8)]
    assert [line.split()[1] for line in lines if "not above" in line] == ["6"]


def test_models_have_answers_of_two_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """With the AP that the catalogue has, and the time of both."""
    assert command.main(["models", "--model-repository", str(REPOSITORY), "--model", LADDER]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    times = {line[0]: float(line[3]) for line in lines if line[1:2] == ["1"]}
    merged = read_entry(REPOSITORY / f"{LADDER}_anytime" / "1").merged
    shown = {line[0]: (line[1], float(line[2])) for line in lines if "+" in line[0]}
    assert shown
    for pair in merged:
        label = f"{pair.first.size}/{pair.first.depth}+{pair.then.size}/{pair.then.depth}"
        if label in shown:
            ap, ms = shown[label]
            assert ap == f"{pair.ap:.3f}".removeprefix("0")
            apart = times[str(pair.first.size)] + times[str(pair.then.size)]
            assert ms == pytest.approx(apart, abs=0.16)  # each was rounded


def test_models_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_catalogs(tmp_path, "small", "large"))
    both = ["models", "--model-repository", folder, "--model", "small,large"]
    assert command.main(both) == 2
    assert "small was not profiled on openvino" in capsys.readouterr().err
    assert command.main([*both, "--runtime", "magic"]) == 2
    assert "--runtime=magic" in capsys.readouterr().err


def entries(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    found = EntryPoints([EntryPoint("extra", value, command.COMMANDS_GROUP)])
    monkeypatch.setattr(command, "entry_points", lambda group: found.select(group=group))


def register(subparsers: Any, tools: object) -> None:
    parser = subparsers.add_parser("greet")
    parser.add_argument("--name")
    parser.set_defaults(run=greet)


def greet(arguments: argparse.Namespace) -> int | None:
    if arguments.name == "nobody":
        raise ModuleNotFoundError("No module named 'torch'", name="torch")
    if arguments.name == "error":
        return 3
    return None


def test_foreign_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries(monkeypatch, f"{__name__}:register")
    assert command.main(["greet", "--name", "me"]) == 0
    assert command.main(["greet", "--name", "error"]) == 3
    assert command.main(["greet", "--name", "nobody"]) == 2
    assert "pip install 'punctual[builder]'" in capsys.readouterr().err


def test_a_broken_foreign_command_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    entries(monkeypatch, "not_a_module_at_all:register")
    assert command.main(["serve", "--port", "0", "--model-repository", str(tmp_path)]) == 2
    assert "the commands of 'extra' are left out" in capsys.readouterr().err


def test_another_policy_is_served_with_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.composition import process
    from serving.composition.backend import create_backend

    served: list[Any] = []
    monkeypatch.setattr(process, "serve", lambda *arguments: served.append(arguments))
    tools = command._Tools()

    def create_policy(*_: Any) -> Any: ...

    tools.serve(["--port", "8001", "--log-level", "error"], create_policy)
    assert command.main(["serve", "--port", "8001"]) == 0
    (settings, _, create), (_, _, create_usual) = served
    assert (settings.port, settings.log_level) == (8001, "error")
    assert create.func is create_usual.func is create_backend
    assert create.keywords == {"create_policy": create_policy}
    assert create_usual.keywords == {"create_policy": None}


def test_misuse_of_options_through_tools(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command._Tools().serve(["--nothing"], lambda *_: None)  # type: ignore[arg-type, return-value]
    assert ended.value.code == 2
    assert "usage: punctual serve" in capsys.readouterr().err
