"""One text, token by token: which features fire where."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa

from fac.config import ProbeSpec
from fac.encoder import Encoder
from fac.manifest import ProbeFacts
from fac.models import ROLES
from fac.schema import ROLE_TYPE
from fac.store.runs import Runs, write_table

TOKENS = pa.schema(
    [("position", pa.int32()), ("token", pa.string()), ("role", ROLE_TYPE), ("turn", pa.int32())]
)
ACTIVATIONS = pa.schema(
    [("position", pa.int32()), ("feature", pa.int32()), ("value", pa.float32())]
)


def read_text(text: str, encoder: Encoder) -> tuple[pa.Table, pa.Table]:
    """Tokens of the rendered text (TOKENS) and their activations (ACTIVATIONS).

    A plain text is one user turn; scaffold tokens have no role.
    """
    (reading,) = encoder.read([[{"role": "user", "content": text}]])
    rendered = reading.rendered[0]
    n = len(rendered.ids)
    tokens: dict[str, Any] = {
        "position": np.arange(n),
        "token": rendered.pieces(0, n),
        "role": [ROLES[code] if code >= 0 else None for code in rendered.role],
        "turn": rendered.turn,
    }
    active = {"position": reading.position, "feature": reading.feature, "value": reading.value}
    return pa.table(tokens).cast(TOKENS), pa.table(active).cast(ACTIVATIONS)


def probe(spec: ProbeSpec, *, runs: Runs, encoder: Encoder, sae_run: str, doubt: str = "") -> str:
    """Read one text; returns the probe run's id."""
    run_id = spec.run_id(encoder.identity)
    if runs.find(run_id):
        return run_id
    with runs.exclusive(run_id):
        begun = time.monotonic()
        tokens, active = read_text(spec.text, encoder)
        scratch = runs.scratch(run_id)
        write_table(scratch / "tokens.parquet", tokens, TOKENS)
        write_table(scratch / "activations.parquet", active, ACTIVATIONS)
        facts = ProbeFacts(
            text=spec.text,
            sae_run=sae_run,
            n_features=encoder.n_features,
            encoder=encoder.identity,
            doubt=doubt or None,
        )
        runs.publish(run_id, spec=spec, inputs=[], facts=facts, seconds=time.monotonic() - begun)
    return run_id
