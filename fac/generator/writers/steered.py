"""The model of this machine writes while it is pushed along the feature's decoder direction."""

from fac.generator.writer import WriterKind

WRITER = WriterKind(
    title="The same, steered from step 1 on",
    preference=2,
    open=lambda spec, means: means.local(spec),
    steers=True,
)
