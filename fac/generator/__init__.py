"""Text out of language models.

local           a Hugging Face model on this machine: seeded, steered continuations (torch)
chat            one question, one reply: any OpenAI-compatible server
completions     what the body of a response says
connection      whether a server and a model can be worked with
batch_chat      many questions, one by one: retries, nothing asked twice
provider_batch  many questions in one file, answered within a day
journal         the replies, as they came
allowance       what asking may cost
rate            how fast an endpoint may be asked
writer          many candidate texts from either of them: one protocol, seeded, resumable
"""

from fac.generator.local import LocalGenerator

__all__ = ["LocalGenerator"]
