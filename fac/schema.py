"""What a row is: the small records passed between rooms and the arrow schema of every table.

What the words mean (sample, feature, activation, span, run, relevant, gap) stands in the glossary
of docs/contributing.md.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 1
"""Part of every run's id; a workspace that names a larger one is refused."""

ROLES = ("system", "user", "assistant")
"""Index = the code used in arrays; the string is what tables hold."""

MEAN, END = range(2)
"""Of what a model makes of a role's text: mean nats of its tokens, nats of a mark where it ends."""

EVERY_ROLE = "all"
"""Asks for a sample's strongest activation over all its roles."""

EVERY_FEATURE = "all"
"""The relevance of every feature but those that fire nearly everywhere."""

LEVELS = ("yes", "probably", "maybe", "no")
"""The paper's scale for relevance and for a fitting explanation, best first."""

RELEVANT = LEVELS[:3]
"""Levels that are no "no": where a feature counts as relevant in the paper (App. K: at least
Maybe)."""

SURELY_RELEVANT = LEVELS[:2]
"""Levels at which a feature counts as relevant to a task, unless "maybe" is asked for."""

CANNOT_TELL = "cannot_tell"
"""An answer of its own, no level between others: the rater or explainer abstains."""

UNREADABLE = "unreadable"
"""A judge's reply that could not be parsed: counted, never guessed."""

Message = dict[str, str]
Chat = list[Message]

MAX_NESTING = 100
"""Lists and objects inside each other, in JSON from outside: whatever writes or reads it again
needs room on its stack for each."""


def nested_too_deeply(value: Any) -> bool:
    """Whether lists and dictionaries stand in each other to more than MAX_NESTING levels."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        inner = [[*each.values()] for each in level if isinstance(each, dict)]
        inner += [each for each in level if isinstance(each, list)]
        level = [*chain.from_iterable(inner)]
        if not level:
            return False
    return True


class Activations(NamedTuple):
    """Coordinates of everything that fired, one entry per (sample, role, feature)."""

    sample: np.ndarray  # int32 row in the dataset
    role: np.ndarray  # int8 index into ROLES: whose tokens
    feature: np.ndarray  # int32 index in the SAE's dictionary

    peak: np.ndarray
    """float32 largest activation over that role's content tokens (paper App. D, eq. 30)."""

    position: np.ndarray  # int32 token index of the peak in the rendered chat
    n_tokens: np.ndarray  # int32 content tokens of that role on which the feature fired


class CoverageResult(NamedTuple):
    """FAC of one dataset against one anchor at one threshold, for one set of relevant features."""

    fac: float  # |F(Q) ∩ F(P)| / |F(P)|; NaN where F(P) is empty (method choice M2)
    n_anchor: int  # |F(P)|: relevant features the anchor shows
    n_dataset: int  # |F(Q)|: relevant features the dataset shows
    n_covered: int  # |F(Q) ∩ F(P)|
    n_missing: int  # |F_miss| = |F(P) \ F(Q)| (eq. 6)

    kl_smoothed: float
    """Smoothed KL(P_F || Q_F) in nats (App. D), epsilon 0.01 over the relevant features."""

    missing: np.ndarray  # int feature ids of F_miss, ascending


ROLE_TYPE = pa.dictionary(pa.int8(), pa.string())

SAMPLES = pa.schema(
    [
        ("sample_id", pa.string()),  # sha256 of the canonical messages, 16 hex digits
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("label", pa.string()),  # null where the source had none
        ("meta", pa.string()),  # JSON object: source line, other columns
    ]
)

REJECTED = pa.schema([("line", pa.int64()), ("reason", pa.string())])

REJECTED_SAMPLES = pa.schema([("sample", pa.int32()), *REJECTED])
"""Samples that a measure leaves out; `line` is null where they were not read from a file."""

ACTIVATIONS = pa.schema(
    [
        ("sample", pa.int32()),
        ("role", ROLE_TYPE),
        ("feature", pa.int32()),
        ("peak", pa.float32()),
        ("position", pa.int32()),
        ("n_tokens", pa.int32()),
    ]
)
"""Sorted by (feature, peak descending, sample, role)."""

SPANS = pa.schema(
    [
        ("feature", pa.int32()),
        ("kind", pa.string()),  # "top": the best; "spread": over the quantiles of its peaks
        ("rank", pa.int32()),  # 0 is strongest within its kind
        ("quantile", pa.float32()),  # share of the feature's rows that are weaker
        ("sample", pa.int32()),
        ("role", ROLE_TYPE),
        ("position", pa.int32()),
        ("peak", pa.float32()),
        ("peak_index", pa.int32()),  # index of the peak token within `tokens`
        ("tokens", pa.list_(pa.string())),
        ("activations", pa.list_(pa.float32())),  # same length as tokens; 0 where silent
    ]
)
"""Sorted by (feature, kind descending, rank): "top" rows precede "spread" rows."""

NEAR = pa.schema(
    [
        ("feature", pa.int32()),
        ("rank", pa.int32()),  # 0 is the highest pre-activation of the dataset
        ("sample", pa.int32()),
        ("role", ROLE_TYPE),
        ("position", pa.int32()),
        ("pre", pa.float32()),  # SAE pre-activation, before any threshold
        ("peak_index", pa.int32()),
        ("tokens", pa.list_(pa.string())),
    ]
)
"""The dataset's highest pre-activations of every feature, also of features that never fire."""

SAMPLE_TOKENS = pa.schema(
    [
        ("sample", pa.int32()),
        ("n_tokens", pa.int32()),  # tokens of the rendered chat that were read
        ("n_content", pa.int32()),  # of those, content tokens in the measured roles
        ("n_cut", pa.int32()),  # tokens beyond the limit, not read
    ]
)

SAE_FEATURES = pa.schema(
    [
        ("feature", pa.int32()),
        ("threshold", pa.float32()),  # JumpReLU threshold; 0 for other architectures
        ("x", pa.float32()),  # UMAP of the decoder directions
        ("y", pa.float32()),
        ("promotes", pa.list_(pa.string())),  # logit lens: most promoted tokens
        ("suppresses", pa.list_(pa.string())),
        ("neighbours", pa.list_(pa.int32())),  # by cosine of decoder directions
        ("cosines", pa.list_(pa.float32())),
    ]
)

EXPLANATIONS = pa.schema(
    [
        ("feature", pa.int32()),
        ("explainer", pa.string()),  # a file of fac/interpret/explainers
        ("text", pa.string()),  # null where the explainer abstained or its reply was unreadable
        ("status", pa.string()),  # explained, cannot_tell, unreadable, failed
        ("reason", pa.string()),  # why there is no text; "" otherwise
        ("source", pa.string()),  # model, method version or file that it comes from
        ("prompt_hash", pa.string()),  # "" without a language model
        ("inputs", pa.string()),  # JSON: the spans, near misses and logit-lens tokens it saw
    ]
)
"""Sorted by feature; one row per feature and run."""

SCORES = pa.schema(
    [
        ("feature", pa.int32()),
        ("score", pa.string()),  # auroc, detection (balanced accuracy), fuzzing (the same)
        ("value", pa.float64()),  # null where undefined
        ("low", pa.float64()),  # 95 % interval
        ("high", pa.float64()),
        ("n", pa.int32()),  # held-out examples that were scored
        ("n_positive", pa.int32()),  # of those, examples on which the feature fires
        ("n_unreadable", pa.int32()),  # examples without a readable answer; not in n
    ]
)
"""Sorted by (feature, score). Scored on samples that the explanation was not made from."""

LEAST_SCORED = 10
"""Samples in which a feature must fire for an AUROC: half of them shape its explanation, so that of
fewer at most five test it, and there the length of a text tells nearly as much as the words."""

EXAMPLES = pa.schema(
    [
        ("feature", pa.int32()),
        ("number", pa.int32()),  # place in the shuffled test of this feature, from 0
        ("source_feature", pa.int32()),  # whose span of the measure run: (feature, kind, rank)
        ("source_kind", pa.string()),
        ("source_rank", pa.int32()),
        ("positive", pa.bool_()),  # whether `feature` fires in it
        ("hard", pa.bool_()),  # a negative taken from a decoder neighbour
        ("detected", pa.bool_()),  # what the language model said; null where it was not asked
        ("fuzzed", pa.bool_()),  # whether it called the marked tokens right; null likewise
        ("fuzz_right", pa.bool_()),  # whether the marks shown for fuzzing were the true ones
    ]
)
"""The held-out test of each feature, for language models and people alike."""

RELEVANCE = pa.schema(
    [
        ("feature", pa.int32()),
        ("level", pa.string()),  # one of LEVELS, cannot_tell, unreadable, or failed
        ("rationale", pa.string()),
        ("effect", pa.float64()),  # label contrast: firing rate with the label minus without
        ("p", pa.float64()),  # one-sided, given active features (Cochran-Mantel-Haenszel)
        ("q", pa.float64()),  # after Benjamini-Hochberg over all features with p
        ("n_with", pa.int32()),  # samples with the label in which it fires
        ("n_without", pa.int32()),  # samples without it in which it fires
        ("prompt_hash", pa.string()),
    ]
)
"""Sorted by feature; the effect columns are null for a language model's verdict."""

FAMILIES = pa.schema([("family", pa.int32()), ("feature", pa.int32())])
"""Sorted by (family, feature); features of no family are not here."""

FAMILY_NAMES = pa.schema(
    [
        ("family", pa.int32()),  # from 0, the largest first
        ("name", pa.string()),  # its most common peak words; "" where it has none in common
    ]
)
"""Sorted by family."""

FEATURE_MAP = pa.schema(
    [
        ("feature", pa.int32()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("neighbours", pa.list_(pa.int32())),  # those most like it, the most alike first
        ("likeness", pa.list_(pa.float32())),
    ]
)
"""Sorted by feature; what fires like no other feature is not here."""

EXPERIMENT_RESULTS = pa.schema(
    [
        ("outcome", pa.string()),  # what an arm is judged by, e.g. a head on raw activations
        ("size", pa.int32()),  # of the beginning: labelled rows, chats
        ("draw", pa.int32()),
        ("arm", pa.string()),
        ("figure", pa.string()),  # e.g. rows, tokens, fac, auprc
        ("value", pa.float64()),
    ]
)
"""One row a figure of an outcome, size, draw and arm, in the order of the first three."""

EXPERIMENT_EFFECTS = pa.schema(
    [
        ("outcome", pa.string()),
        ("size", pa.int32()),
        ("arm", pa.string()),
        ("against", pa.string()),  # the arm it is set beside; "" where a value stands alone
        ("value", pa.float64()),  # of the arm, mean over draws
        ("difference", pa.float64()),  # from the other's, mean over draws; else the value itself
        ("low", pa.float64()),  # 95 % interval of it
        ("high", pa.float64()),
        ("p", pa.float64()),  # of a permutation test; null where none was made
    ]
)
"""One row an outcome, size, arm and what it is set beside."""

REPLIES = pa.schema(
    [
        ("key", pa.string()),  # what was asked, of whom: digest of prompt, model and endpoint
        ("about", pa.string()),  # e.g. explain/123, detection/123/0, judge/123
        ("prompt", pa.string()),  # the exact messages, as JSON
        ("reply", pa.string()),  # null where none came
        ("finish", pa.string()),  # stop, length, ...
        ("failure", pa.string()),  # why none came, or why it could not be read; "" otherwise
        ("model", pa.string()),  # what the server says answered
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("estimated", pa.bool_()),  # the server counted no tokens, so we did
        ("cost", pa.float64()),  # US dollars; null where no price is known
        ("at", pa.string()),  # ISO time
    ]
)
"""Replies cannot be recomputed identically, so they are kept with the run they were asked for."""

CHAT_TYPE = SAMPLES.field("messages").type

CANDIDATES = pa.schema(
    [
        ("candidate", pa.string()),  # names feature, style and number; unique in a run
        ("feature", pa.int32()),  # the gap it was written for; -1 where it was for none
        ("pair", pa.string()),  # the approved pair it was written from; "" in step 1
        ("style", pa.string()),  # how it was asked for
        ("messages", CHAT_TYPE),  # empty where there is no text
        ("extra", pa.string()),  # JSON: label, rejected, choices, by profile
        ("problem", pa.string()),  # failed, unreadable, empty, refusal, cut off; "" otherwise
        ("tokens", pa.int32()),  # generated
        ("finished", pa.bool_()),  # whether it ended by itself
        ("prompt_hash", pa.string()),
        ("seed", pa.int64()),
    ]
)
"""Synthetic texts before any filter, in the order of `candidate`."""

HITS = pa.schema(
    [
        ("candidate", pa.string()),
        ("feature", pa.int32()),
        ("peak", pa.float32()),
        ("role", ROLE_TYPE),
        ("position", pa.int32()),
        ("own_peak", pa.float32()),  # the highest on its own words; null where nobody looked
    ]
)
"""Every candidate against every gap: one row where it fires, its strongest role."""

TRACES = pa.schema(
    [
        ("candidate", pa.string()),
        ("feature", pa.int32()),
        ("tokens", pa.list_(pa.string())),  # its content tokens, of every role
        ("activations", pa.list_(pa.float32())),  # same length as tokens; 0 where silent
        (
            "borrowed",
            pa.list_(pa.bool_()),
        ),  # likewise: whether it is from what its writer was shown
    ]
)
"""Every kept candidate token by token, one row for each gap that it fires; by (candidate, feature).
As it was measured alone, so a peak is that of HITS or a little above."""

PAIRS = pa.schema(
    [
        ("pair", pa.string()),  # digest of feature and both texts: an edited pair is another
        ("feature", pa.int32()),
        ("status", pa.string()),  # proposed, failed
        ("reason", pa.string()),  # why it failed; "" otherwise
        ("origin", pa.string()),  # of the positive: own, pool (of another gap), anchor, person
        ("candidate", pa.string()),  # the positive's candidate; "" for anchor and person
        ("positive", CHAT_TYPE),
        ("positive_peak", pa.float32()),
        ("positive_tokens", pa.list_(pa.string())),
        ("positive_activations", pa.list_(pa.float32())),
        ("negative", CHAT_TYPE),
        ("negative_origin", pa.string()),  # own, pool, dataset, anchor, edit (of it), person
        ("negative_peak", pa.float32()),  # 0 where it is silent, as measured
        ("negative_tokens", pa.list_(pa.string())),
        ("negative_activations", pa.list_(pa.float32())),
    ]
)
"""Sorted by feature; one proposed pair a gap."""

VERDICTS = pa.schema(
    [
        ("candidate", pa.string()),
        ("feature", pa.int32()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),  # why it was dropped; "" for kept ones
        ("peak", pa.float32()),  # g_i(x) for its own gap, 0 where silent
        ("rank", pa.int32()),  # by peak among its gap's candidates that pass, from 0; -1 else
        ("gains", pa.list_(pa.int32())),  # gaps that no better kept sample covers
    ]
)
"""One row for every candidate of a synthesis."""
