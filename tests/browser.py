"""A headless Chromium for tests that look at pages, or a skip that says what is missing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser, driven by playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser tests")
    programs = [os.environ.get("CHROMIUM"), *map(shutil.which, PROGRAMS)]
    program = next(filter(None, programs), None)
    if program is None:
        pytest.skip(f"no Chromium here: none of {', '.join(PROGRAMS)} is on the path")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page opened from a file, and what went wrong or out on it."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.page = browser.new_page(**context)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self._heard(message))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def pixels(self) -> list[int]:
        """Colours of the map's canvas."""
        script = """() => { const c = document.getElementById("canvas");
            return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]; }"""
        pixels: list[int] = self.page.evaluate(script)
        return pixels

    def text(self, selector: str) -> str:
        """What stands in an element."""
        return str(self.page.inner_text(selector))
