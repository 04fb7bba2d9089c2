"""Gaps -> pairs -> (a person's approval) -> candidates -> verdicts -> kept samples.

plan        what is asked of a writer for a gap    methods     two steps, and their baselines
writing     texts as they come, and the run of a step that asks for them
answers     the later parts of samples, once there is a message
own_words   what a text has from what its writer was shown
scoring     what texts fire, anywhere and on their own words
pairs       step 1: a text that fires each gap, and its near-twin that does not
sides       a text token by token, and with less of what fires
negatives   of what was written, the dataset and the anchor the nearest silent texts
approvals   which pairs may be written from
synthesize  step 2, from approved pairs to what is kept
docket      every candidate so far, and what became of it
ledger      what it changes beside its gaps, what it took, what was tried in vain
retouch     a kept sample as a person edited it, measured again
checks      what is asked of a text beside what it fires
gates       whether a text reads like one of the dataset's
labels      whether a text deserves its label
filter      what becomes of each candidate, figures, forecast

Every text is on disk before it counts; every candidate ends as kept or dropped with a reason; and
no text that nobody approved reaches a writer.
"""

from fac.synthesis.filter import PILOT, Forecast, forecast, pilot_pairs
from fac.synthesis.pairs import edited_turn, make_pairs, rescore
from fac.synthesis.retouch import retouch
from fac.synthesis.synthesize import first_asked, synthesize

__all__ = ["PILOT", "Forecast", "edited_turn", "first_asked", "forecast", "make_pairs"]
__all__ += ["pilot_pairs", "rescore", "retouch", "synthesize"]
