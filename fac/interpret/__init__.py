"""Spans -> explanations -> their scores -> relevance to a task. Each is one immutable run.

    explaining, judging  the two steps             step_run  what both share
    parts                what explainers, scorers and judges are
    explainers, scorers, judges                    one file each
    evidence             what is known of a feature, and its held-out test
    exam                 the test as a language model takes it

A run holds the explanations, the held-out test of every feature, the scores, and every reply that
was paid for.
"""

from fac.interpret.explaining import explain
from fac.interpret.judging import judge

__all__ = ["explain", "judge"]
