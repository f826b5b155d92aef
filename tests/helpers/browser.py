"""A headless Chromium that shows one page, for the tests of what a reader sees."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def opened(page: Path, profile: Path, **context: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page in a browser with a fresh profile, and the list to which errors and requests are added.

    Skips where there is no Chromium.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=executable, headless=True, args=FLAGS, **context
        )
        try:
            view = browser.new_page()
            troubles: list[str] = []
            view.on("console", lambda said: troubles.append(said.text) if said.type != "log" else None)
            view.on("pageerror", lambda error: troubles.append(str(error)))
            view.on(
                "request",
                lambda asked: (
                    None if asked.url.startswith(("file:", "data:", "blob:")) else troubles.append(asked.url)
                ),
            )
            view.goto(page.resolve().as_uri())
            view.wait_for_selector("html[data-ready=yes]", state="attached")
            yield view, troubles
        finally:
            browser.close()
