"""Ways to explain features, one file each; see fac.interpret.parts.Explainer."""
