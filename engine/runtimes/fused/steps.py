"""What the steps of a plan are, in words and bytes."""

from collections.abc import Iterator

from .plan import Import, Other, Plan, Step, Tail

_WORDS = {"int8": "int8", "float16": "fp16", "uint8": "uint8"}


def described(plan: Plan) -> Iterator[tuple[str, str, str | None]]:
    """Yield each step's name, what it computes, and what it reads and writes."""
    for step in plan.steps:
        if isinstance(step, Step):
            before = "" if step.source.chain.is_empty else "its input by channel, "
            kind = before + ", ".join([step.kind, *step.nodes[1:]])
            yield step.name, kind, f"{_WORDS[step.source.stored.kind]} to {_WORDS[step.output.kind]}"
        elif isinstance(step, Tail):
            yield "features", "features, sign bits, channel means", f"{_WORDS[step.source.stored.kind]} to fp32"
        elif isinstance(step, Import):
            yield step.tensor, "copy", "fp32 to fp16"
        else:
            assert isinstance(step, Other)
            yield step.node.name or step.node.output[0], f"torch: {step.node.op_type}", None


def traffic(plan: Plan, batch: int) -> Iterator[tuple[str, int]]:
    """Yield each fused step's name and the bytes that it must at least move between memory and processor.

    Parameters
    ----------
    plan : Plan
    batch : int
        Images; weights are read once a batch.
    """
    for step in plan.steps:
        if isinstance(step, Step):
            moved, weights = step.bytes
            yield step.name, batch * moved + weights
        elif isinstance(step, Tail):
            stored = step.source.stored
            features = stored.channels * stored.height * stored.width
            written = {"features": 4 * features, "bits": features // 8, "pooled": 4 * stored.channels}
            outputs = sum(size for name, size in written.items() if name in plan.outputs)
            yield "features", batch * (stored.bytes + outputs)
