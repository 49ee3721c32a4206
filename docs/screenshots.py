"""Pictures of the page at ``/`` for the documentation: ``python -m docs.screenshots``.

It needs a running server, Debian's Chromium and the environment for development, and writes
``docs/images/page-*.png``: the page while ever more cameras send beside one's own image.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZES = {"wide": (1280, 900, "light"), "narrow": (390, 844, "dark")}
"""Name of a picture -> width, height and color scheme of its window."""
_LONGEST_WAIT_MS = 120_000
_NUM_COLORS = 256
_NUM_REFINEMENTS = 3
"""Without any, most colors go to the photograph, and the charts get wrong ones."""


def _slide(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


def photograph(page: Page, budget: float, cameras: Sequence[int], seconds: float) -> None:
    """Bring the page to where each number of cameras has been there for so many seconds.

    ``budget`` is the position of that slider, 0 to 100.
    """
    page.goto("/")
    _slide(page, "budget", budget)
    page.locator("#samples button").nth(1).click()
    for count in cameras:
        _slide(page, "others", count)
        page.wait_for_timeout(seconds * 1e3)
        # One's own image, which was perhaps late, is asked about again and again beside them.
        page.locator("#exits .reached").first.wait_for(timeout=_LONGEST_WAIT_MS)


def main() -> None:
    """Take the pictures, and say what their figures are."""
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--budget", type=float, default=60, help="position of the slider, to 100")
    parser.add_argument("--cameras", type=int, nargs="+", default=[4, 12, 20])
    parser.add_argument("--seconds", type=float, default=7, help="with each number of cameras")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        for name, (width, height, scheme) in SIZES.items():
            page = browser.new_page(
                base_url=arguments.url,
                viewport={"width": width, "height": height},
                color_scheme="light" if scheme == "light" else "dark",
                reduced_motion="reduce",  # the browser should leave the server its processors
            )
            photograph(page, arguments.budget, arguments.cameras, arguments.seconds)
            path = IMAGES / f"page-{name}.png"
            taken = Image.open(io.BytesIO(page.screenshot(full_page=True)))
            few = taken.convert("RGB").quantize(_NUM_COLORS, kmeans=_NUM_REFINEMENTS)
            few.save(path, optimize=True)
            for lane in ("served", "fixed"):
                print(name, lane, *page.locator(f"#figures-{lane}").inner_text().split("\n"))
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
