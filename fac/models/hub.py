"""The Hugging Face hub where it cannot be reached: what its cache holds is read at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fac.errors import FacError, ServiceError
from fac.models.wheels import WHEELS

PATIENCE = 3.0
"""Seconds in which the hub must answer a connection."""


def is_of_hub(reference: str) -> bool:
    """Whether a model or an SAE would be fetched from the hub."""
    if not reference or reference in WHEELS or reference.startswith((".", "/", "~")):
        return False
    return not Path(reference).expanduser().exists()


@contextmanager
def hub_unless_offline(*references: str) -> Iterator[None]:
    """While references of the hub are read: where it cannot be reached its library is told so,
    which otherwise tries again for most of a minute before it looks into its cache.

    Raises ServiceError where something is not in that cache either.
    """
    of_hub = [reference for reference in references if is_of_hub(reference)]
    if not of_hub or _answers():
        yield
        return
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    except FacError as error:
        if not _is_absence(error):
            raise
        raise ServiceError(
            f"The hub ({constants.ENDPOINT}) cannot be reached from this machine and its cache "
            f"does not hold all of {' and '.join(of_hub)}: check the network, or give a folder."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_absence(error: BaseException | None) -> bool:
    """Whether an error comes of a file that is not in the cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


def _answers() -> bool:
    """Whether the hub can be reached. Behind a proxy only a request can tell: yes."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), PATIENCE).close()
    except OSError:
        return False
    return True
