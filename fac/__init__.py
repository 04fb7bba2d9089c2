"""FAC Explorer: what a dataset lacks in the feature space of a model, and how to fill it."""

__version__ = "0.1.0"
