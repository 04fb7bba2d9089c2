"""How far people agree, and how far a judge can be believed."""
