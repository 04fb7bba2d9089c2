"""Every prompt and, right beside it, the parser of its reply. Text in, records out.

    fences      text from outside, made unable to act
    form        one question to a chat model, and the one JSON object of its reply
    explaining  what a feature fires on             scoring     tests of an explanation
    relevance   tasks, and what matters for them    drafts      samples for a gap, and their forms

A planted verdict that a model repeats word for word is not JSON (`fences`), and an answer is read
from nothing but the one JSON object of a reply. Every prompt holds one worked example, because a
small model follows a form it has seen more surely than one it was told about; the form is named
once more after the material.
"""

from fac.prompts.fences import Excerpt
from fac.prompts.form import Prompt

__all__ = ["Excerpt", "Prompt"]
