from __future__ import annotations

import pytest

from serving.api.accept import MAX_CHARS, preferred

SSE, LINES = "text/event-stream", "application/x-ndjson"


@pytest.mark.parametrize(
    ("accepts", "expected"),
    [
        # Nobody who does not name a stream gets one.
        ([], None),
        ([""], None),
        (["*/*"], None),
        (["text/*"], None),
        (["application/*"], None),
        (["application/json"], None),
        (["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], None),
        (["nonsense"], None),
        ([";"], None),
        ([';,="\\' * 9], None),
        ([f";, {SSE}"], SSE),
        (["text/event-streams"], None),
        # Who names one does.
        ([SSE], SSE),
        ([LINES], LINES),
        (["Text/Event-Stream"], SSE),
        ([f"{SSE}; charset=utf-8"], SSE),
        ([f"{SSE}, */*"], SSE),
        ([f"*/*, {SSE}"], SSE),
        ([f"{SSE};q=0.5"], SSE),
        # Weights decide.
        ([f"{SSE};q=0.5, application/json"], None),
        ([f"{SSE};q=0.5, */*;q=0.8"], None),
        ([f"{SSE};q=0.5, */*;q=0.8, application/json;q=0.1"], SSE),
        ([f"{SSE};q=0.5, application/*;q=0.4, */*"], SSE),
        ([f"{SSE};q=0.5, {LINES};q=0.501"], LINES),
        ([f"{LINES} ; Q=0.2 , {SSE};q=0.1"], LINES),
        ([f"{SSE};q=0"], None),
        ([f"{SSE};q=0.000, {LINES};q=0.001"], LINES),
        # Of equal weights, the first.
        ([f"{SSE}, application/json"], SSE),
        ([f"application/json, {SSE}"], None),
        ([f"{LINES}, {SSE}"], LINES),
        # Several headers are one.
        (["application/json;q=0.1", LINES], LINES),
        ([LINES, "application/json;q=1.000"], LINES),
        # What is quoted separates nothing.
        ([f'text/plain;a=", {SSE}", application/json'], None),
        ([f'text/plain;a="\\", {SSE}"'], None),
        ([f'{SSE};a=",;q=0"'], SSE),
        # A weight that is none makes its range none.
        *(
            ([f"{SSE};q={weight}"], None)
            for weight in ("", "2", "-1", "nan", "0.1234", "1.1", ".5")
        ),
        ([f"{SSE};q=0.5;q=0.6"], None),
        ([f'{SSE};a="unterminated'], SSE),
        ([f"{SSE}," + " " * MAX_CHARS], None),
    ],
)
def test_preferred(accepts: list[str], expected: str | None) -> None:
    assert preferred(accepts, (SSE, LINES)) == expected
