"""What reviewers are shown and when, and what their word does.

items    what is decided on, in which order it is shown, and what people's verdicts amount to
pairs    which pairs may be written from
families what families of features are called
samples  which of the samples that a synthesis kept people would train on

A person sees one item at a time, without others' verdicts, scores or models. What is decided is the
exact content, so the functions `*_content` make what is hashed and nobody else does.
"""

from fac.review.families import GivenName, call_family, given_names, take_name_back
from fac.review.items import (
    NOT_RELEVANT,
    REASONS,
    SCALE,
    Item,
    Pace,
    Standing,
    Wording,
    by_wording,
    corrections,
    detection_content,
    explanation_content,
    item,
    pace,
    queue,
    read_subject,
    relevance_content,
    relevance_overrides,
    standing,
    subject,
)
from fac.review.pairs import (
    APPROVE,
    PAIR_STATES,
    REJECT,
    UNSEEN,
    PairState,
    PairVersion,
    approved_of,
    approved_pairs,
    pair_content,
    pair_family,
    pair_item,
    pair_states,
    pair_versions,
)
from fac.review.samples import looked, sample_item, sample_states

__all__ = ["APPROVE", "NOT_RELEVANT", "PAIR_STATES", "REASONS", "REJECT", "SCALE", "Item", "Pace"]
__all__ += ["UNSEEN", "PairState", "PairVersion", "Standing", "Wording", "approved_of"]
__all__ += ["approved_pairs", "by_wording"]
__all__ += ["corrections", "detection_content", "explanation_content", "item", "looked", "pace"]
__all__ += ["pair_content", "pair_family", "pair_item", "pair_states", "pair_versions", "queue"]
__all__ += ["read_subject", "relevance_content", "relevance_overrides", "sample_item"]
__all__ += ["sample_states", "standing", "subject"]
__all__ += ["GivenName", "call_family", "given_names", "take_name_back"]
