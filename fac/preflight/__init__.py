"""Whether an SAE belongs to a model and layer, in words: a wrong pairing gives no error anywhere,
only wrong numbers.

metadata  what the SAE says of itself, asked before any text is read
numbers   what it makes of a stream, and what would make it fit
"""

from fac.preflight.metadata import (
    Finding,
    LayerFit,
    ModelCard,
    card_of,
    doubt_of,
    match,
    must_match,
    same_family,
)
from fac.preflight.numbers import diagnose, preflight, verdict

__all__ = [
    "Finding",
    "LayerFit",
    "ModelCard",
    "card_of",
    "diagnose",
    "doubt_of",
    "match",
    "must_match",
    "preflight",
    "same_family",
    "verdict",
]
