"""Scores of explanations, one file each; see fac.interpret.parts.Scorer."""
