"""What pages and commands ask of runs, caches and decisions, answered without a page."""
