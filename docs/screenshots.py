"""A screenshot of every page: `python docs/screenshots.py --workspace data --out docs/img`.

Starts the dashboard on the workspace, drives the distribution's Chromium through it and writes
one PNG a page, `coverage.png` and so on; `--scheme dark` writes `coverage-dark.png`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import Page  # noqa: E402

from fac import config  # noqa: E402
from fac.store.runs import Runs  # noqa: E402
from tests.browser import chromium_page, server, settle, visit  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HEADLINES = {
    "home": "Where things stand",
    "datasets": "Datasets",
    "features": "Features",
    "coverage": "Coverage",
    "compare": "Compare",
    "playground": "Playground",
    "review": "Review",
    "agreement": "Agreement",
    "pairs": "Pairs",
    "synthesis": "Synthesis",
    "experiments": "Experiments",
    "jobs": "Jobs",
}


def views(
    anchor: str, dataset: str, threshold: str | None, text: str | None, runs: Runs
) -> dict[str, dict[str, str]]:
    """Query parameters with which each page is shown: the newest pairs, to decide on if there are
    any left, and the newest synthesis."""
    pair = {"anchor": anchor, "dataset": dataset}
    if threshold:
        pair["threshold"] = threshold
    pairs, syntheses = runs.list("pairs"), runs.list("synthetic")
    experiments = runs.list("experiment")
    return {
        "home": pair,
        "datasets": {},
        "features": {"dataset": dataset, "anchor": anchor},
        "coverage": pair,
        "compare": {"before": dataset, "after": anchor, "anchor": anchor},
        "playground": {"dataset": dataset, **({"probe": text} if text else {})},
        "review": {**pair, "reviewer": "you"},
        "agreement": {"kind": "explanation"},
        "pairs": {
            "reviewer": "you",
            "show": "all",
            **({"pairs": pairs[0].run} if pairs else {}),
        },
        "synthesis": {"synthesis": syntheses[0].run} if syntheses else {},
        "experiments": {"experiment": experiments[0].run} if experiments else {},
        "jobs": {},
    }


def read_a_text(page: Page, address: str) -> str | None:
    """Sends the playground's example to the worker; the id of the run that comes back."""
    visit(page, f"{address}/playground", HEADLINES["playground"])
    page.get_by_role("button", name="Read its features").click()
    page.wait_for_url("**probe=*", timeout=600_000)
    return page.url.split("probe=")[1].split("&")[0]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workspace", type=Path, default=config.workspace().root)
    options.add_argument("--out", type=Path, default=config.REPOSITORY / "docs" / "img")
    options.add_argument("--scheme", choices=("light", "dark"), default="light")
    options.add_argument("--anchor", default="demo-anchor")
    options.add_argument("--dataset", default="demo-seed")
    options.add_argument("--threshold", help="by default clear firing")
    options.add_argument("--pages", nargs="*", choices=HEADLINES, default=[*HEADLINES])
    arguments = options.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        options.error("there is no Chromium on this machine: apt-get install chromium")
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = Runs(config.workspace(arguments.workspace))
    suffix = "-dark" if arguments.scheme == "dark" else ""
    with (
        server(config.workspace(arguments.workspace)) as address,
        chromium_page(browser, scheme=arguments.scheme) as page,
    ):
        visit(page, address, HEADLINES["home"])
        page.get_by_text("Coverage (FAC) of every dataset").wait_for(timeout=120_000)
        text = read_a_text(page, address) if "playground" in arguments.pages else None
        for name in arguments.pages:
            sides = (arguments.anchor, arguments.dataset)
            view = views(*sides, arguments.threshold, text, runs)[name]
            path = "" if name == "home" else name
            visit(page, f"{address}/{path}?{urlencode(view)}", HEADLINES[name])
            settle(page)
            page.wait_for_timeout(1500)  # charts draw themselves in after their data arrived
            target = arguments.out / f"{name}{suffix}.png"
            page.screenshot(path=target)
            sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
