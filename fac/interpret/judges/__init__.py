"""Judges of relevance, one file each; see fac.interpret.parts.Judge."""
