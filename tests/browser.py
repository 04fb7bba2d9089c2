"""What tests, and the script that takes screenshots, do with a dashboard in a real Chromium."""

from __future__ import annotations

from urllib.parse import urljoin

from playwright.sync_api import Page, expect

from benchmarks.dashboard import PATIENCE, chromium_page, server

__all__ = ["PATIENCE", "chromium_page", "server", "settle", "visit"]

# Playwright's own five seconds are too short where another process has the cores.
expect.set_options(timeout=PATIENCE)


def visit(page: Page, address: str, headline: str) -> None:
    """Opens an address and waits until the page of that headline is drawn to its end."""
    page.goto(address)
    page.get_by_role("heading", name=headline, exact=True).wait_for()
    settle(page)


def settle(page: Page) -> None:
    """Until Streamlit has finished running and nothing is a skeleton any more."""
    # What was done last is on its way. On a slow machine it has arrived when the server answers
    # what is asked after it; then the page needs a moment to say that it runs.
    page.request.get(urljoin(page.url, "/_stcore/health"), timeout=PATIENCE)
    page.wait_for_timeout(300)
    expect(page.locator("[data-test-script-state=running]")).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_test_id("stException")).to_have_count(0)
