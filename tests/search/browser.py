"""A real browser for tests: Debian's chromium, headless, driven by playwright; tests skip where either is missing.

from tests.search.browser import page  # a fixture: a new playwright page, 1280 x 900; its errors fail the test
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

SIZE = {"width": 1280, "height": 900}


def chromium() -> str:
    """Where chromium is; the test skips, and says why, where it is not."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs a browser: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One chromium for the tests of a file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'archsearch[test]'")
    place = chromium()
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=place, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """An empty page in a profile of its own. A script that throws fails the test that opened it."""
    context = browser.new_context(viewport=SIZE, device_scale_factor=1)
    opened = context.new_page()
    thrown: list[str] = []
    opened.on("pageerror", lambda error: thrown.append(str(error)))
    yield opened
    context.close()
    assert not thrown, thrown
