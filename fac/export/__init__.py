"""A step: the kept samples of a synthesis as a file or folder for training, row by row with the
reason why it is there, and a dataset card.

lineage  why a row is there: all that led from a gap to a kept sample
people   what people's word does to it: which samples leave, and as what
forms    the columns of a row, by what a trainer learns from it
card     the dataset card
files    which rows leave, and how they are written
"""

from fac.export.card import awaited_in_words, counted, looked_at_in_words
from fac.export.files import (
    EXPORT_FORMATS,
    Exported,
    Plan,
    export,
    first_line,
    plan_export,
    refusals,
    selection,
)
from fac.export.forms import FORMS, forms_of
from fac.export.lineage import Provenance, provenance
from fac.export.people import Edit, Opinion, Selection

__all__ = ["EXPORT_FORMATS", "FORMS", "Edit", "Exported", "Opinion", "Plan", "Provenance"]
__all__ += ["Selection", "awaited_in_words", "counted", "export", "first_line", "forms_of"]
__all__ += ["looked_at_in_words", "plan_export", "provenance", "refusals", "selection"]
