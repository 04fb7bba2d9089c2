"""Explanations made elsewhere: JSON lines in Neuronpedia's export form, read strictly."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

from fac.config import ExplainSpec
from fac.datasets import unzipped
from fac.errors import InputError
from fac.interpret.parts import Explainer, FeatureExplanation, OpenExplainer, repeating
from fac.prompts.form import MAX_TEXT
from fac.store.runs import Runs


def _open(spec: ExplainSpec, runs: Runs) -> OpenExplainer:
    """The explanations of the spec's file; the file's digest is their version.

    A line is an object with the feature as `feature` or Neuronpedia's `index` (a number or its
    digits) and the text as `description`, `explanation` or `text`, of at most MAX_TEXT characters;
    the author is kept from `explanationModelName` or `typeName` where given. `.gz` files are read
    as they are. Of several lines for one feature the last counts. Raises InputError with the line.
    """
    path = Path(spec.source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    content = data
    if path.suffix == ".gz":
        try:
            with unzipped(io.BytesIO(data), len(data), path.name) as plain:
                content = plain.read()
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is no whole gzip file: {error}.") from error
    texts: dict[int, FeatureExplanation] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: a JSON object is expected, one explanation a line.")
        index: Any = row.get("feature", row.get("index"))
        if isinstance(index, bool) or not re.fullmatch(r"[0-9]{1,9}", str(index)[:10]):
            got = f"{index!r:.60}"
            raise InputError(f"{where}: `feature` or `index` must be a number, got {got}.")
        fields = (row.get(name) for name in ("description", "explanation", "text"))
        text = next((t.strip() for t in fields if isinstance(t, str) and t.strip()), None)
        if text is None:
            raise InputError(f"{where}: no text in `description`, `explanation` or `text`.")
        if len(text) > MAX_TEXT:
            raise InputError(f"{where}: the text has {len(text):,} characters, above {MAX_TEXT:,}.")
        author = row.get("explanationModelName") or row.get("typeName") or path.name
        inputs = json.dumps({"file": path.name, "line": number})
        texts[int(index)] = FeatureExplanation(text=text, source=str(author)[:200], inputs=inputs)
    if not texts:
        raise InputError(f"{path} holds no explanations.")
    return repeating(texts, version=hashlib.sha256(data).hexdigest()[:12])


EXPLAINER = Explainer(
    title="imported", job_title="from a file", preference=1, open=_open, needs_file=True
)
