"""What people decide: what each reviewer is shown and when, and what their verdicts amount to.

items      what is shown and asked, and the exact content that a decision is bound to
order      what a reviewer does next, and how fast
standings  which verdict stands, what overrides a judge, what corrects a text
raters     how well people agree, with each other and with a judge
pairs      which pairs may be written from

A person sees one item at a time, without others' verdicts, scores or models.
"""

from fac.review.items import (
    APPROVE,
    NOT_RELEVANT,
    REASONS,
    REJECT,
    SCALE,
    Item,
    Wording,
    detection_content,
    explanation_content,
    item,
    read_subject,
    relevance_content,
    subject,
)
from fac.review.order import pace, queue, undo
from fac.review.pairs import (
    PAIR_STATES,
    PairState,
    PairVersion,
    approved_pairs,
    pair_content,
    pair_family,
    pair_item,
    pair_states,
    pair_versions,
)
from fac.review.raters import (
    TABLE_5,
    Disagreement,
    HumanCheck,
    calibration,
    disagreements,
    human_check,
    human_detection,
    ratings_matrix,
    records,
)
from fac.review.standings import Standing, corrections, relevance_overrides, standing

__all__ = [
    "APPROVE",
    "NOT_RELEVANT",
    "PAIR_STATES",
    "REASONS",
    "REJECT",
    "SCALE",
    "TABLE_5",
    "Disagreement",
    "HumanCheck",
    "Item",
    "PairState",
    "PairVersion",
    "Standing",
    "Wording",
    "approved_pairs",
    "calibration",
    "corrections",
    "detection_content",
    "disagreements",
    "explanation_content",
    "human_check",
    "human_detection",
    "item",
    "pace",
    "pair_content",
    "pair_family",
    "pair_item",
    "pair_states",
    "pair_versions",
    "queue",
    "ratings_matrix",
    "read_subject",
    "records",
    "relevance_content",
    "relevance_overrides",
    "standing",
    "subject",
    "undo",
]
