"""Reports of a load test: a table for the terminal, a JSON file, and an HTML page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from loadtest.load.open_loop import LoadResult
from loadtest.load.page import (
    BUDGET_HEAD,
    ap_text,
    budget_cells,
    digits,
    latency_texts,
    page,
)
from loadtest.load.summary import Summary
from reporting.files import write_whole

JSON_NAME = "load.json"
PAGE_NAME = "load.html"
REQUEST_FIELDS = {
    **{name: name for name in ("scheduled_s", "sent_s", "finished_s", "budget_s")},
    "picture": "image",
    **{name: name for name in ("outcome", "reason", "depth", "expected_ap", "operating_point")},
}
"""Field of every request in the JSON file -> attribute of ``RequestOutcome``.

Instants are seconds since the run's start.
"""


def write(result: LoadResult, summary: Summary, folder: Path) -> tuple[Path, Path]:
    """Write the JSON file and the HTML page into ``folder`` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "summary": dataclasses.asdict(summary),
        "server": result.server,
        "pictures": [image.name for image in result.settings.images],
        "request_fields": list(REQUEST_FIELDS),
        "requests": [
            [_short(getattr(request, name)) for name in REQUEST_FIELDS.values()]
            for request in result.outcomes
        ],
    }
    json_path, page_path = folder / JSON_NAME, folder / PAGE_NAME
    write_whole(json_path, json.dumps(content) + "\n")
    write_whole(page_path, page(result, summary))
    return json_path, page_path


def _short(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


def text(summary: Summary) -> str:
    """Return the report for the terminal."""
    p50, p90, p99 = latency_texts(summary.latency_ms)
    lag = summary.lag_ms
    served = ""
    if summary.served_with_misses is not None:
        served = (
            f"served AP        {ap_text(summary.served_in_time)} in time, "
            f"{ap_text(summary.served_with_misses)} with misses as nothing found\n"
        )
    points = "  ".join(f"{point}: {count:,}" for point, count in summary.points.items())
    verdict = "valid" if summary.is_valid else f"NOT VALID: {'; '.join(summary.invalid_because)}"
    return (
        f"{summary.model or 'unknown model'} at {summary.url}, target {summary.target}\n"
        f"{summary.arrivals} at {summary.target_hz:g}/s for {summary.duration_s:g} s, budgets "
        f"{summary.budgets} (full depth {summary.full_depth_ms:.1f} ms), seed {summary.seed}, "
        f"schedule {summary.schedule_digest}\n\n"
        f"in time          {summary.attainment:.1%} of {summary.count:,}\n"
        f"goodput          {summary.goodput_hz:.1f}/s of {summary.achieved_hz:.1f}/s sent\n"
        f"latency          p50 {p50}  p90 {p90}  p99 {p99} ms, of answers\n"
        f"expected AP      {digits(summary.expected_ap, 4)} in time; in-time accuracy "
        f"{digits(summary.in_time_accuracy, 4)}\n"
        f"{served}"
        f"depth            mean {digits(summary.mean_depth, 2)}   {points}\n"
        f"client's lag     p50 {lag.p50:.2f}  p99 {lag.p99:.2f}  max {lag.max:.2f} ms; "
        f"{summary.cpu_us_per_request:.0f} us of processor time a request\n"
        f"run              {verdict}\n\n"
        f"{_columns([BUDGET_HEAD, *map(budget_cells, summary.by_budget)])}\n\n"
        f"{accounting(summary)}\n"
    )


def accounting(summary: Summary) -> str:
    """Return lines that say how many requests ended in each way; the sum is spelled out."""
    lines = []
    for outcome, count in summary.outcomes.items():
        reasons = summary.reasons.get(outcome, {}).items()
        detail = ", ".join(f"{reason} {of_reason:,}" for reason, of_reason in reasons)
        lines.append(f"{outcome:17}{count:8,}  {detail}".rstrip())
    terms = " + ".join(f"{count:,}" for count in summary.outcomes.values())
    lines.append(
        f"{'sum':17}{sum(summary.outcomes.values()):8,}  = {terms}; to be sent: {summary.count:,}"
    )
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table whose cells are flush right in their columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
