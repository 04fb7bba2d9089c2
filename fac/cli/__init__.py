"""Commands beyond the first few, and what all of them share."""
