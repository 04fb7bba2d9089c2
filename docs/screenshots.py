"""Takes the screenshots of the README: every page of the demo, in a real browser.

    python -m docs.screenshots [--workspace DIR] [--out docs/img] [--dark]

Starts the app on a free port of 127.0.0.1; the workspace is a fresh one unless named.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from fac import demo
from fac.config import REPOSITORY, Workspace
from tests.browser import chromium_page, server, settle

TEXT = "Whisk the eggs with sugar until pale, then prove that the sum of two odd numbers is even."

PAGES = {
    "home": ("/", "From the dictionary to what is covered"),
    "datasets": ("/datasets", "Provenance"),
    "features": ("/features?dataset=demo-anchor", "Neighbours"),
    "coverage": ("/coverage?dataset=demo-seed&anchor=demo-anchor", "Nearest in the dataset"),
    "compare": ("/compare", "Samples that show each feature"),
    "playground": ("/playground?dataset=demo-seed", "Read its features"),
    "jobs": ("/jobs", "Worker alive"),
}


def main() -> None:
    """Parse the arguments, serve, walk, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "img")
    parser.add_argument("--dark", action="store_true")
    asked = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium on this machine: apt-get install chromium.")
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        place = Workspace((asked.workspace or Path(scratch) / "workspace").resolve())
        demo.materialise(place, lambda *_: None)
        scheme = "dark" if asked.dark else "light"
        with server(place) as address, chromium_page(chromium, scheme=scheme) as page:
            for name, (path, landmark) in PAGES.items():
                page.goto(address + path)
                page.get_by_text(landmark).first.wait_for()
                if name == "playground":
                    page.locator("textarea").first.fill(TEXT)
                    page.get_by_role("button", name="Read its features").click()
                    page.locator(".fac-text").first.wait_for(timeout=300_000)
                settle(page)
                page.wait_for_timeout(800)  # charts fade in
                suffix = "-dark" if asked.dark else ""
                page.screenshot(path=asked.out / f"{name}{suffix}.png")


if __name__ == "__main__":
    main()
