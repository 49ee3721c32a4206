"""What the real bindings of TensorRT and CUDA offer, without a GPU and without their libraries.

    wheel of the bindings alone (1 MB) -> import beside stand-in libraries -> stub (.pyi) -> mypy

The wheels hold the Python classes; the libraries they link to are replaced by empty functions of
the same names, made by the C compiler, which is enough for an import. What the classes look like is
then written as a stub in a process of its own, for mypy to check our modules against.

``python -m tests.bindings MODULE STUB NAMES`` is that process.
"""

from __future__ import annotations

import importlib
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".trt" / "bindings"
"""Not in version control; a second run downloads nothing."""


class UnavailableError(Exception):
    """The bindings cannot be had here; the message says why."""


@dataclass(frozen=True)
class Bindings:
    """One module out of one wheel."""

    requirement: str
    module: str
    """As the wheel calls it."""
    alias: str
    """As our modules import it."""
    python: str = ".".join(map(str, sys.version_info[:2]))
    """The interpreter that it is for."""
    only: str = ""
    """What is wanted of a large wheel: names that end so."""


TENSORRT = {
    # In the wheel with all of TensorRT, for one interpreter alone.
    "8.6.0": Bindings("tensorrt==8.6.0", "tensorrt.tensorrt", "tensorrt", "3.10", "/tensorrt.so"),
    # 8.6.1 is the first release whose bindings are a wheel of their own.
    "8.6.1": Bindings("tensorrt_bindings==8.6.1", "tensorrt_bindings.tensorrt", "tensorrt"),
    "10.13.3.9": Bindings(
        "tensorrt_cu12_bindings==10.13.3.9", "tensorrt_bindings.tensorrt", "tensorrt"
    ),
    "11.4.0.106": Bindings(
        "tensorrt_cu13_bindings==11.4.0.106", "tensorrt_bindings.tensorrt", "tensorrt"
    ),
}
CUDA = {
    "12.6": Bindings("cuda-python==12.6.2.post1", "cuda.bindings.runtime", "cuda.bindings.runtime"),
    "13.0": Bindings("cuda-bindings==13.0.1", "cuda.bindings.runtime", "cuda.bindings.runtime"),
}


def stubs_of(bindings: Bindings) -> tuple[Path, dict[str, list[str]]]:
    """A folder with a stub for ``bindings.alias``, and the public names by class ("" for those of
    the module). Raises UnavailableError."""
    folder = CACHE / re.sub(r"\W+", "-", bindings.requirement)
    stubs, names = folder / "stubs", folder / "names.json"
    if not names.exists():
        package = _unpack(bindings, folder)
        _write_stub(bindings, package, stubs, names)
        shutil.rmtree(package)  # a hundred times the size of the stub
    return stubs, json.loads(names.read_text())


def interpreter_of(bindings: Bindings) -> str | None:
    """A Python that can import ``bindings``: this one, or one of pyenv's."""
    if bindings.python == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(root.glob(f"versions/{bindings.python}.*/bin/python"))
    return str(found[-1]) if found else None


def _unpack(bindings: Bindings, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", bindings.python]
    command += ["--dest", str(folder), bindings.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:]
        raise UnavailableError(f"{bindings.requirement} cannot be downloaded: {reason}")
    package = folder / "package"
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.endswith(bindings.only)]
            archive.extractall(package, wanted)
        wheel.unlink()
    for library in package.glob("tensorrt*/*.so"):
        _stand_in(library, folder / "lib")
    return package


def _stand_in(library: Path, target: Path) -> None:
    """Libraries for ``library`` to link to: its undefined functions, all of them in each."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or shutil.which("nm") is None or shutil.which("readelf") is None:
        raise UnavailableError("there is no C compiler with binutils")
    target.mkdir()
    symbols = _output("nm", "-D", "--undefined-only", str(library))
    functions = re.findall(r"^ +U (?!_?Py)(\w+)$", symbols, re.MULTILINE)
    source = target / "functions.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    for name in re.findall(r"\[(libnv\S+)\]", _output("readelf", "-d", str(library))):
        flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}"]
        subprocess.run([compiler, *flags, "-o", target / name, source], check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _write_stub(bindings: Bindings, package: Path, stubs: Path, names: Path) -> None:
    path = stubs.joinpath(*bindings.alias.split(".")) / "__init__.pyi"
    path.parent.mkdir(parents=True)
    for parent in path.parent.parents:
        if parent != stubs and stubs in parent.parents:
            (parent / "__init__.pyi").touch()
    interpreter = interpreter_of(bindings)
    if interpreter is None:
        raise UnavailableError(f"{bindings.requirement} needs Python {bindings.python}")
    command = [interpreter, "-m", "tests.bindings", bindings.module, str(path), str(names)]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{package}{os.pathsep}{ROOT}",
        "LD_LIBRARY_PATH": str(package.parent / "lib"),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"{bindings.requirement} cannot be imported: {done.stderr[-500:]}")


# -- in the process that imports the bindings ----------------------------------------------------

HEADER = """\
# mypy: ignore-errors
from collections.abc import Iterator
from typing import Any, ClassVar, Union

Buffer = Union[bytes, memoryview]
"""


def describe(module: ModuleType) -> Iterator[str]:
    """Lines of a stub."""
    yield HEADER
    yield "__version__: str"
    names = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    classes = {name for name, value in names.items() if isinstance(value, type)}
    for name, value in names.items():
        if isinstance(value, type):
            yield from _describe_class(name, value, classes, "")
        elif callable(value):
            yield f"def {name}({_parameters(value, None) or '*args: Any'}) -> Any: ..."
        else:
            yield f"{name}: Any"


def _describe_class(name: str, kind: type, classes: set[str], indent: str) -> Iterator[str]:
    bases = [base.__name__ for base in kind.__bases__ if base.__name__ in classes]
    yield f"{indent}class {name}({', '.join(bases)}):"
    indent += "    "
    yield f"{indent}def __init__(self, *args: Any, **kwargs: Any) -> None: ..."
    members = getattr(kind, "__members__", {})
    if members:
        yield f"{indent}def __int__(self) -> int: ..."
        yield f"{indent}__members__: ClassVar[dict[str, Any]]"
    if hasattr(kind, "__getitem__") and hasattr(kind, "__len__"):
        yield f"{indent}def __len__(self) -> int: ..."
        yield f"{indent}def __iter__(self) -> Iterator[Any]: ..."
    if name == "IHostMemory":  # the buffer protocol of an extension type has no attribute
        yield f"{indent}def __buffer__(self, flags: int, /) -> memoryview: ..."
    for member, value in vars(kind).items():
        if member.startswith("_") or not member.isidentifier():
            continue
        if member in members:
            yield f"{indent}{member}: ClassVar[{name}]"
        elif isinstance(value, type):
            yield from _describe_class(member, value, classes, indent)
        elif isinstance(value, property):
            result = _result(value.fget.__doc__, classes) if value.fget else "Any"
            yield f"{indent}@property"
            yield f"{indent}def {member}(self) -> {result}: ..."
            if value.fset:
                yield f"{indent}@{member}.setter"
                yield f"{indent}def {member}(self, value: Any) -> None: ..."
        elif callable(value):
            parameters = _parameters(value, "self") or "self, *args: Any, **kwargs: Any"
            yield f"{indent}def {member}({parameters}) -> {_result(value.__doc__, classes)}: ..."
        else:
            yield f"{indent}{member}: ClassVar[Any]"


def _result(doc: str | None, classes: set[str]) -> str:
    """The type after the arrow of a docstring, if it is a class here."""
    found = re.search(r"->\s*(?:\w+\.)*(\w+)", doc or "")
    if found and (found[1] in classes or found[1] in ("bool", "int", "str")):
        return found[1]
    return "Any"


def _parameters(function: Any, first: str | None) -> str:
    """Names and defaults in a docstring's first line; "" when it has none or several forms."""
    lines = (function.__doc__ or "").strip().splitlines()[:1]
    found = re.match(r"\w+\((.*)\)", lines[0]) if lines else None
    if found is None or "*args" in found[1]:
        return ""
    parts = re.split(r",\s*(?![^\[\]<>()]*[\]>)])", found[1]) if found[1] else []
    made: list[str] = []
    for part in parts:
        declared, _, default = part.partition("=")
        name = re.split(r"[:\s]", declared.split(":")[0].strip())[-1]
        defaults_end = bool(made) and made[-1].endswith("= ...") and not default
        if not name.isidentifier() or keyword.iskeyword(name) or defaults_end:
            return ""
        made.append(name if name == "self" else f"{name}: Any" + (" = ..." if default else ""))
    if first is not None and made[:1] != [first]:
        return ""
    return ", ".join(made)


def public_names(module: ModuleType) -> dict[str, list[str]]:
    """Names by class, inherited ones included; "" for those of the module."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    found = {name: sorted(n for n in dir(kind) if n[0] != "_") for name, kind in classes.items()}
    return {"": sorted(name for name in vars(module) if name[0] != "_"), **found}


if __name__ == "__main__":
    described = importlib.import_module(sys.argv[1])
    Path(sys.argv[2]).write_text("\n".join(describe(described)) + "\n")
    Path(sys.argv[3]).write_text(json.dumps(public_names(described)))
