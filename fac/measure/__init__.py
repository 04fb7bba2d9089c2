"""A dataset -> which features fire where: activations, examples and near misses, as one run.

First comes a look at what the model's chat template refuses: without tokens, so that nothing large
has begun when a sample ends the measure. A sample that is left out keeps its number and has no
tokens.

The dataset is cut into parts of a fixed number of samples. A part is a unit of its own: `read_part`
turns its chats into tables, on whatever machine; the parts' results merge to the same run in
whatever order they come. A finished part lies on disk and is never computed again, so a killed
measure continues and ends in the same bytes. Re-measuring an export is this same function.

Memory does not grow with the dataset: what is held across parts is bounded by the dictionary (a few
examples a feature), and the parts become sorted tables by way of files, one range of features each.
"""

from fac.measure.screening import Check, Screened, screen
from fac.measure.tables import measure

__all__ = ["Check", "Screened", "measure", "screen"]
