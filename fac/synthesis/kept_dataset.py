"""What a synthesis keeps, as a dataset run like any other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from fac import datasets
from fac.config import WRITERS, IngestSpec, SynthesizeSpec
from fac.generator.chat import public_name
from fac.schema import SAMPLES
from fac.store.runs import Runs
from fac.store.samples import publish_samples
from fac.synthesis.filter import CandidateVerdict
from fac.synthesis.plan import Row, seed_of
from fac.synthesis.writing import Candidate

SYNTHETIC, PILOT = "synthetic", "pilot"  # kinds of datasets; a pilot's is none to choose


def publish_dataset(
    kept: Sequence[tuple[Candidate, CandidateVerdict]],
    *,
    spec: SynthesizeSpec,
    run: str,
    name: str,
    encoder: str,
    writer: str,
    approvers: Mapping[str, str],
    probability: Mapping[str, float],
    runs: Runs,
) -> str:
    """The id of the dataset run of a synthesis's kept samples, to be measured and compared like any
    other; "" where nothing is. `name` is that of the dataset that has the gaps, `encoder` and
    `writer` are identities, `approvers` says by pair who approved it, `probability` by candidate
    how sure the label check is of its label."""
    if not kept:
        return ""
    # A dataset may leave this machine; where a server stands means nothing there.
    generator = public_name(spec.model if WRITERS[spec.writer].server else writer)
    rows: list[Row] = []
    for candidate, verdict in kept:
        ask, messages = candidate.ask, candidate.messages
        answered = sorted({public_name(answer.model) for answer in candidate.answers})
        lineage = {
            "synthetic": run,
            "candidate": candidate.name,
            "feature": ask.feature,
            "activation": verdict.peak,
            "own_activation": verdict.own_peak,
            "threshold": spec.threshold,
            "encoder": encoder,
            "method": spec.method,
            "style": ask.style,
            "pair": ask.pair,
            "approver": approvers.get(ask.pair, ""),
            "prompt_hash": ask.prompt_hash,
            "generator": generator,
            "writer": spec.writer,
            **({"answered_by": ", ".join(answered)} if answered else {}),
            "seed": seed_of(spec),
            **candidate.extra,
            **_sureness(candidate, probability),
        }
        meta = json.dumps(lineage, ensure_ascii=False, sort_keys=True)
        sample = (datasets.sample_id(messages), messages, candidate.extra.get("label"), meta)
        rows.append(dict(zip(SAMPLES.names, sample, strict=True)))
    title = f"{name} {spec.method} {run.rsplit('-', 1)[1][:6]}"
    return publish_samples(
        runs,
        IngestSpec(name=title[-80:], source=run),
        rows,
        made_from=run,
        kind=PILOT if spec.pilot else SYNTHETIC,
        source=run,
    )


def _sureness(candidate: Candidate, probability: Mapping[str, float]) -> Row:
    """What the label check says of a sample's label, where it says something."""
    if candidate.name not in probability:
        return {}
    return {"label_probability": round(probability[candidate.name], 4)}
