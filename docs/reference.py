"""What the site says by itself, from what it describes: settings, commands, metrics and problem
types, from the code; the default model, from its catalogue. Each is Markdown, for the mark of its
name in a page (``docs.build``)."""

from __future__ import annotations

import argparse
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from serving.__main__ import SERVE_OPTIONS, create_parser
from serving.api.problems import PROBLEMS, TYPE_PREFIX
from serving.artifacts.model_folders import find_model, read_entry
from serving.core.catalog import Catalog
from serving.core.errors import ShedReason
from serving.core.segment import fused_exit
from serving.observability.metrics import Metrics
from serving.settings import Settings, variable

Parser = argparse.ArgumentParser
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


# ---- settings -----------------------------------------------------------------------------------


def settings() -> str:
    """Return every field of ``Settings``, as a definition list."""
    options = {option.setting for option in SERVE_OPTIONS}
    return "\n".join(
        _definition(
            f"`{variable(name)}`",
            _escaped(str(field.description)),
            _facts(field),
            f"Option of `punctual serve`: `{_flag(name)}`." if name in options else "",
        )
        for name, field in Settings.model_fields.items()
    )


def _facts(field: Any) -> str:
    choices = [value for value in _literals(field.annotation) if value is not None]
    bounds = [
        f"{word} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, word in _BOUNDS.items()
        if getattr(limit, name, None) is not None
    ]
    facts = [f"Default: {'none' if field.default is None else f'`{_shown(field.default)}`'}"]
    if choices:
        facts.append("one of " + ", ".join(f"`{choice}`" for choice in choices))
    return "; ".join(facts + bounds) + "."


def _literals(annotation: Any) -> Iterator[Any]:
    """Return the values of every ``Literal`` in a type."""
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        else:
            yield from _literals(part)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")


# ---- commands -----------------------------------------------------------------------------------


def commands() -> str:
    """Return what holds for every command, then each with its arguments, one section each."""
    sections = [_section(name, parser) for name, parser in parsers()]
    return "\n".join([*_epilog(create_parser()), *sections])


def parsers() -> Iterator[tuple[str, Parser]]:
    """Yield every command that does something, with its parser, in the order of the help."""
    yield from _leaves("punctual", create_parser())


def _leaves(name: str, parser: Parser) -> Iterator[tuple[str, Parser]]:
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for word, child in action.choices.items():
            yield from _leaves(f"{name} {word}", child)


def arguments(parser: Parser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Yield the groups of a command's arguments, without ``--help``: title and members."""
    for group in parser._action_groups:
        shown = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
        ]
        if shown:
            yield str(group.title), shown


def _section(name: str, parser: Parser) -> str:
    lines = [f"## {name}", "", _sentences(parser.description), ""]
    for title, members in arguments(parser):
        if title not in ("options", "positional arguments"):
            lines += [f"*{title[0].upper()}{title[1:].rstrip(':')}:*", ""]
        lines += [_argument(parser, action) for action in members]
    return "\n".join([*lines, *_epilog(parser)])


def _epilog(parser: Parser) -> list[str]:
    """Return what a parser's help ends with, as it is set there."""
    return ["```text", parser.epilog.strip(), "```", ""] if parser.epilog else []


def _argument(parser: Parser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    text = formatter._expand_help(action) if action.help else ""
    default = action.default
    unsaid = "default: " not in text and default not in (None, False, [])
    return _definition(
        f"`{invocation(action)}`",
        _sentences(_home(re.sub(r"\s*\(default: (None|False|\[\])\)$", "", text))),
        "" if action.choices is None else f"One of {', '.join(f'`{c}`' for c in action.choices)}.",
        f"Default: `{_default(default)}`." if unsaid else "",
        "Required." if action.required else "",
    )


def invocation(action: argparse.Action) -> str:
    """Return an argument as one writes it, with the longest of its names."""
    if not action.option_strings:
        return action.dest
    flag = max(action.option_strings, key=len)
    if action.nargs == 0:
        return flag
    value = action.metavar or action.dest.upper()
    return f"{flag} {value}" + (" ..." if action.nargs in ("+", "*") else "")


def _default(value: Any) -> str:
    values = value if isinstance(value, (list, tuple)) else [value]
    return _home(" ".join(map(str, values)))


def _home(text: str) -> str:
    """Paths of the machine that builds the site, as of anybody's."""
    return text.replace(str(Path.home()), "~")


def _sentences(text: str | None) -> str:
    """Help as a sentence of its own: a capital unless it begins with values, a full stop, no
    mark-up by accident."""
    words = _escaped(re.sub(r"\s+", " ", text or "").strip())
    if not words:
        return ""
    first = words[0].upper() if re.match(r"[a-z]+ (?!or )", words) else words[0]
    return first + words[1:] + ("" if words[-1] in ".:" else ".")


def _escaped(text: str) -> str:
    return re.sub(r"([*_|])", r"\\\1", text.replace("<", "&lt;"))


# ---- metrics ------------------------------------------------------------------------------------


def metrics() -> str:
    """Return every metric of the gateway: type, labels with their values, buckets."""
    return "\n".join(_metric(metric) for metric in sorted(families(), key=lambda m: m.name))


def families() -> list[Metric]:
    """Return what an idle gateway exports."""
    registry = CollectorRegistry()
    told = Metrics(registry, clock=lambda: 0.0)
    family = SimpleNamespace(
        name="MODEL",
        names=("MODEL",),
        ladder=SimpleNamespace(points=((0, "DEPTH"),)),
        label=lambda *_: "POINT",
        front=lambda _: SimpleNamespace(points=(SimpleNamespace(latency_s=0.0),)),
    )
    idle: Any = SimpleNamespace(
        ready=True,
        num_waiting=0,
        num_in_flight=0,
        num_held=0,
        num_instances=1,
        family=family,
        predicted_s=lambda *_: 0.0,
    )
    told.describe(idle, version="VERSION", runtime="RUNTIME")
    return list(registry.collect())


def _metric(metric: Metric) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    labels: dict[str, list[str]] = {}
    for sample in metric.samples:
        for name, value in sample.labels.items():
            if name != "le" and value not in labels.setdefault(name, []):
                labels[name].append(value)
    buckets = dict.fromkeys(s.labels["le"] for s in metric.samples if "le" in s.labels)
    return _definition(
        f"`{metric.name}{suffix}`",
        _escaped(metric.documentation),
        f"Type: {metric.type}.",
        *(f"Label `{name}`: {', '.join(f'`{v}`' for v in of)}." for name, of in labels.items()),
        f"Buckets: {', '.join(f'{float(b):g}' for b in list(buckets)[:-1])}." if buckets else "",
    )


# ---- problems -----------------------------------------------------------------------------------


def problems() -> str:
    """Return the problem types as a table, in the order of their status."""
    rows = ["| status | type | title |", "|---|---|---|"]
    ordered = sorted(PROBLEMS.items(), key=lambda item: item[1].status)
    rows += [f"| {problem.status} | `{slug}` | {problem.title} |" for slug, problem in ordered]
    return (
        "\n".join(rows)
        + f"\n\nIn a reply, the member `type` is `{TYPE_PREFIX}` followed by the type."
    )


def shed_reasons() -> str:
    """Return why a request may be refused or evicted, from the code's own words."""
    documented = re.findall(
        r'^    [A-Z_]+ = "(?P<value>[a-z-]+)"\n    """(?P<text>.*?)"""',
        inspect.getsource(ShedReason),
        re.MULTILINE | re.DOTALL,
    )
    texts = {value: re.sub(r"\s+", " ", text) for value, text in documented}
    return "\n".join(_definition(f"`{reason}`", texts[reason.value]) for reason in ShedReason)


# ---- the default model --------------------------------------------------------------------------

MODEL_REPOSITORY = Path(__file__).resolve().parents[1] / "model_repo"
_RUNTIME = "openvino"


def default_model() -> str:
    """Return the operating points of the default model as a table, from its catalogue: accuracy,
    time, and pairs whose answers are merged and better than either alone."""
    entry = read_entry(find_model(MODEL_REPOSITORY, None))
    rows = ["| operating point | AP | AP50 | ms (p50) |", "|---|---|---|---|"]
    for catalog in entry.catalogs:
        rows += [
            f"| `{catalog.size}/{each.depth}` | {_ap(each.ap)} | {_ap(each.ap50)} "
            f"| {_ms(_exit_s(catalog, each.depth))} |"
            for each in catalog.exits
        ]
    for pair in entry.merged:
        points = (pair.first, pair.then)
        if pair.ap <= max(entry.size(point.size).expected_ap(point.depth) for point in points):
            continue
        total_s = sum(_exit_s(entry.size(point.size), point.depth) for point in points)
        label = "+".join(f"{point.size}/{point.depth}" for point in points)
        rows.append(f"| `{label}` | {_ap(pair.ap)} | {_ap(pair.ap50)} | {_ms(total_s)} |")
    return "\n".join([*rows, "", _circumstances(entry.catalogs[0])])


def _exit_s(catalog: Catalog, depth: int) -> float:
    """Seconds of one image, half of the time; NaN where that was not measured."""
    profile = catalog.profiles.get(_RUNTIME)
    measured = profile.table.get((fused_exit(depth), 1)) if profile else None
    return measured.p50_s if measured else math.nan


def _ap(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value else "not measured"


def _ms(seconds: float) -> str:
    return "not measured" if math.isnan(seconds) else f"{seconds * 1e3:.1f}"


def _circumstances(catalog: Catalog) -> str:
    """Return what the figures of a catalogue were measured on."""
    sentences = []
    if measured := catalog.evaluation:
        sentences.append(
            f"Accuracy: `punctual evaluate` on the {measured.num_images} images of "
            f"{measured.dataset}, {measured.split}; {measured.runtime}, {measured.date}."
        )
    if profile := catalog.profiles.get(_RUNTIME):
        threads = "one thread" if profile.threads == 1 else f"{profile.threads} threads"
        sentences.append(
            f"Time of one image in the engine: `punctual profile` on {profile.machine}, {threads}; "
            f"{profile.runtime}, {profile.date}."
        )
    return " ".join(sentences)


def _definition(term: str, *sentences: str) -> str:
    text = " ".join(filter(None, sentences))
    return f"{term}\n:   {text}\n"


GENERATED: Mapping[str, Callable[[], str]] = {
    "settings": settings,
    "commands": commands,
    "metrics": metrics,
    "problems": problems,
    "shed-reasons": shed_reasons,
    "default-model": default_model,
}
"""By the name that a page's mark gives."""
