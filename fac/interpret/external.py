"""Explanations made elsewhere: JSON lines in Neuronpedia's export form, read strictly."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from fac.errors import InputError

MAX_TEXT = 2000
"""Characters of an explanation; longer ones are refused rather than cut."""


def read(path: Path) -> tuple[dict[int, dict[str, Any]], str]:
    """Explanations by feature, and the file's digest.

    A line is an object with the feature as `feature` or Neuronpedia's `index` (a number or its
    digits) and the text as `description`, `explanation` or `text`; the author is kept from
    `explanationModelName` or `typeName` where given. `.gz` files are read as they are. Of several
    lines for one feature the last counts. Raises InputError with the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    content = data
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise InputError(f"{path} is no whole gzip file: {error}.") from error
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: a JSON object is expected, one explanation a line.")
        given: Any = row.get("feature", row.get("index"))
        if isinstance(given, bool) or not str(given).isascii() or not str(given).isdigit():
            raise InputError(f"{where}: `feature` or `index` must be a number, got {given!r}.")
        texts = (row.get(name) for name in ("description", "explanation", "text"))
        text = next((t.strip() for t in texts if isinstance(t, str) and t.strip()), None)
        if text is None:
            raise InputError(f"{where}: no text in `description`, `explanation` or `text`.")
        if len(text) > MAX_TEXT:
            raise InputError(f"{where}: the text has {len(text):,} characters, above {MAX_TEXT:,}.")
        author = row.get("explanationModelName") or row.get("typeName") or path.name
        found[int(given)] = {"text": text, "source": str(author)[:200], "status": "explained"}
        found[int(given)]["inputs"] = json.dumps({"file": path.name, "line": number})
    if not found:
        raise InputError(f"{path} holds no explanations.")
    return found, hashlib.sha256(data).hexdigest()[:12]
