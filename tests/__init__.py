"""Tests mirror fac/; each is a sentence about behaviour."""

from hypothesis import settings

# A shared machine is slow at times; a property is about results.
settings.register_profile("fac", deadline=None, max_examples=60)
settings.load_profile("fac")
