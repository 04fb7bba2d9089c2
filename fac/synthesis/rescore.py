"""A pair as a person edited it, measured again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from fac.config import RescoreSpec
from fac.encoder import Encoder
from fac.errors import InputError
from fac.manifest import PairsFacts
from fac.schema import PAIRS, Chat
from fac.store.runs import Runs, write_table
from fac.synthesis.edits import trace
from fac.synthesis.pairs import PERSON, PROPOSED, pair_row, problem
from fac.synthesis.plan import Progress
from fac.synthesis.step import same_encoder


def rescore(spec: RescoreSpec, *, runs: Runs, encoder: Encoder, progress: Progress) -> str:
    """One pair as a person edited it, measured; a run with that one pair, whose input is the old
    run. Raises InputError for a pair that the old run does not have."""
    facts: PairsFacts = runs.manifest(spec.pairs).facts
    same_encoder(runs, [facts.anchor], encoder)
    run_id = spec.run_id(spec.pairs, encoder.identity)
    if runs.find(run_id):
        return run_id
    rows = runs.rows(spec.pairs, "pairs", [spec.feature]).to_pylist()
    if not rows or rows[0]["status"] != PROPOSED:
        raise InputError(
            f"Run {spec.pairs} has no pair for feature {spec.feature} that could be edited."
        )
    (old,) = rows
    with runs.exclusive(run_id):
        progress(0, 1, "measuring the edited pair")
        chats = [_edited(old["positive"], spec.positive), _edited(old["negative"], spec.negative)]
        sides = trace(encoder, [(chat, spec.feature) for chat in chats])
        reason = problem(*sides, threshold=facts.threshold, margin=facts.margin)
        row = pair_row(spec.feature, sides, (PERSON, "", PERSON), reason)
        folder = runs.scratch(run_id)
        write_table(folder / "pairs.parquet", pa.Table.from_pylist([row], PAIRS), PAIRS)
        facts = replace(
            facts,
            writer=None,
            features=[spec.feature],
            pairs=int(not reason),
            failed={reason: 1} if reason else {},
        )
        runs.publish(run_id, spec=spec, inputs=[spec.pairs], facts=facts, seconds=0.0)
    return run_id


def user_text(messages: Sequence[Mapping[str, str]]) -> str:
    """The turn of a chat that a person edits: the user's last."""
    return messages[_user_turn(messages)]["content"]


def _user_turn(messages: Sequence[Mapping[str, str]]) -> int:
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return turns[-1] if turns else len(messages) - 1


def _edited(messages: Sequence[Mapping[str, str]], text: str) -> Chat:
    turn = _user_turn(messages)
    return [
        {"role": m["role"], "content": text if i == turn else m["content"]}
        for i, m in enumerate(messages)
    ]
