"""Weights on disk -> a subject model whose residual stream can be read.

Owns: finding, verifying and loading models; rendering chats and knowing which token belongs to
whom; the truncated forward pass; device and dtype.
Does not own: what is stored, what counts as active, where texts come from.

torch and transformers are imported inside the functions that need them, because the dashboard
imports this package and must start without them.
"""

from fac.models.chats import (
    ROLES,
    SCAFFOLD,
    Chat,
    ChatRenderer,
    Checked,
    Rendered,
    apply_template,
)
from fac.models.hub import hub_unless_offline
from fac.models.locating import Located, demo_model, fetch_wheel, knows_chats, locate_model
from fac.models.subject import (
    QUANTISED,
    SubjectModel,
    batches_by_length,
    by_beginning,
    decoder_blocks,
    keep_freed_memory,
    pick_device,
    pretrained,
    pretrained_config,
    pretrained_tokenizer,
    shared_tokens,
    tensor_device,
)
from fac.models.wheels import DEMO_MODEL, WHEELS, Wheel, wheel_here

__all__ = [
    "DEMO_MODEL",
    "QUANTISED",
    "ROLES",
    "SCAFFOLD",
    "Chat",
    "ChatRenderer",
    "Checked",
    "Located",
    "Rendered",
    "SubjectModel",
    "WHEELS",
    "Wheel",
    "apply_template",
    "batches_by_length",
    "by_beginning",
    "decoder_blocks",
    "demo_model",
    "fetch_wheel",
    "hub_unless_offline",
    "keep_freed_memory",
    "knows_chats",
    "locate_model",
    "pick_device",
    "pretrained",
    "pretrained_config",
    "pretrained_tokenizer",
    "shared_tokens",
    "tensor_device",
    "wheel_here",
]
