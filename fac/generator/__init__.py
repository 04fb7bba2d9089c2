"""Text out of language models.

local   a Hugging Face model on this machine: seeded continuations (torch)
chat    one question, one reply: any OpenAI-compatible server
asking  many questions: limits, retries, a journal, nothing asked twice
"""

from fac.generator.local import LocalGenerator

__all__ = ["LocalGenerator"]
