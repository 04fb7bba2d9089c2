"""Every prompt and, right beside it, the parser of its reply. Text in, records out.

    form        texts from outside made unable to act, one question, the one object of its reply
    explaining  what a feature fires on, and the tests of an explanation
    relevance   tasks, and what matters for them
    connection  what shows whether a server can be worked with
    profiles    the forms of samples
    drafts      samples for a gap, part by part
    lists       the same as lists that any local model goes on with
    rows        samples like rows of the dataset, whatever the gap

A planted verdict that a model repeats word for word is not JSON, and an answer is read from nothing
but the one JSON object of a reply. Every prompt holds one worked example, because a small model
follows a form it has seen more surely than one it was told about; the form is named once more after
the material.
"""

from fac.prompts.form import Excerpt, Prompt

__all__ = ["Excerpt", "Prompt"]
