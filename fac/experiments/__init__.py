"""Whether filling gaps helps: experiments on a person's own data, as immutable runs.

Owns: which rows test and which are learned from, the arms, the heads, what a difference is worth.
Does not own: models (their states come through a door), what a gap is, where data come from.
"""

from fac.experiments.run import Doors, Experiment, Piece, Says, experiment

__all__ = ["Doors", "Experiment", "Piece", "Says", "experiment"]
