"""Debian's Chromium, driven by Playwright, in front of the real server over a fake engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.process import PATIENCE_S, Server, fake_server


def slide(page: Page, id: str, value: float) -> None:
    """Move a slider as a person does: its value changes, and the page hears of it."""
    page.locator(f"#{id}").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }",
        value,
    )


@pytest.fixture(scope="session")
def site() -> Iterator[Server]:
    """One server for all tests: none changes it."""
    with fake_server() as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium, for one module: while it is driven an event loop runs in this thread, so that no
    test could start one of its own."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium (Debian: chromium)")
    # A camera that anybody may use.
    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if os.geteuid() == 0:  # Chromium's own sandbox needs what containers and root do not have
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=arguments)
        yield started
        started.close()


@pytest.fixture
def page(fresh: Page) -> Page:
    """The page with the largest budget, so that whatever else this machine does delays nothing."""
    slide(fresh, "budget", 100)
    return fresh


@pytest.fixture
def fresh(browser: Browser, site: Server) -> Iterator[Page]:
    """The page, opened and connected. An error in its script fails the test."""
    expect.set_options(timeout=PATIENCE_S * 1e3)
    with browser.new_context(base_url=site.url) as context:
        opened = context.new_page()
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto("/")
        expect(opened.locator("#model")).to_contain_text("cells")
        yield opened
        assert not errors
