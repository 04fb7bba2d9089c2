"""Whether filling gaps helps: experiments on a person's labelled data, as immutable runs.

Owns: which rows test and which are learned from, the arms, the heads, what a difference is worth.
Does not own: models (their states come through a door), what a gap is, where data come from.
"""

from fac.experiments.material import Material, States, material
from fac.experiments.run import Experiment, experiment

__all__ = ["Experiment", "Material", "States", "experiment", "material"]
