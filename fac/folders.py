"""Where things are: this program's folders, and those of a workspace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = (PACKAGE / "home").is_dir()  # by pip, with what a clone has beside `fac`
REPOSITORY = PACKAGE / "home" if INSTALLED else PACKAGE.parent  # of app.py, pages and the demo
DEMO_INPUTS = REPOSITORY / "data" / "demo"
DEMO_SAE = DEMO_INPUTS / "sae"


@dataclass(frozen=True)
class Workspace:
    """The folders of one workspace; nothing is created before something is written."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def inputs(self) -> Path:
        """Files a person uploaded, before an ingest job reads them."""
        return self.root / "inputs"

    @property
    def models(self) -> Path:
        """Downloaded subject models; FAC_MODELS lets several workspaces share them."""
        return Path(os.environ.get("FAC_MODELS") or self.root / "models")

    @property
    def saes(self) -> Path:
        """SAEs that were trained here, a folder each."""
        return self.root / "saes"

    @property
    def queue(self) -> Path:
        return self.root / "queue.sqlite"

    @property
    def decisions(self) -> Path:
        """What people said: the one file of a workspace that cannot be computed again."""
        return self.root / "decisions.sqlite"

    @property
    def tasks(self) -> Path:
        """Task profiles of this workspace, beside the built-in ones."""
        return self.root / "tasks.toml"

    @property
    def endpoints(self) -> Path:
        """The operator's list of language-model servers; FAC_ENDPOINTS names another file."""
        return Path(os.environ.get("FAC_ENDPOINTS") or self.root / "endpoints.toml")

    @property
    def roles(self) -> Path:
        """Who may do what once they signed in; FAC_ROLES names another file."""
        return Path(os.environ.get("FAC_ROLES") or self.root / "roles.toml")

    @property
    def audit(self) -> Path:
        """Who did what, where people sign in."""
        return self.root / "audit.sqlite"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


def workspace(root: str | Path | None = None) -> Workspace:
    """The workspace named on the command line, else FAC_WORKSPACE, else `data/` of the clone, or of
    an installed package `fac-data/` in the folder one is in."""
    usual = Path("fac-data") if INSTALLED else REPOSITORY / "data"
    chosen = root or os.environ.get("FAC_WORKSPACE") or usual
    return Workspace(Path(chosen).resolve())
