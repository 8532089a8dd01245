"""Emit LLVM code for loops that Numba does not vectorize itself."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()


def constant(value: int) -> ir.Constant:
    """Return a 64-bit constant."""
    return ir.Constant(I64, value)


def zeros(vector: ir.VectorType) -> ir.Constant:
    """Return a vector of zeros."""
    return ir.Constant(vector, [0] * vector.count)


def splat(builder: Any, value: Any, count: int) -> Any:
    """Return a vector of so many times a value."""
    vector = ir.VectorType(value.type, count)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, count), [0] * count))


def offset(builder: Any, address: Any, index: Any, bytes_each: int) -> Any:
    """Return ``address + index * bytes_each``."""
    return builder.add(address, builder.mul(index, constant(bytes_each)))


def load(builder: Any, address: Any, kind: ir.Type) -> Any:
    """Load from an address that need not be aligned."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def store(builder: Any, value: Any, address: Any) -> None:
    """Store to an address that need not be aligned."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def loop(
    builder: Any, count: Any, step: int, starts: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Emit a loop from 0 to `count`, with at least one iteration and carried values; return the final values."""
    before, head, done = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    carried = [builder.phi(start.type) for start in starts]
    results = body(index, carried)
    following = builder.add(index, constant(step))
    for phi, start, result in zip([index, *carried], [constant(0), *starts], [following, *results], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), head, done)
    builder.position_at_end(done)
    return results


def when(builder: Any, condition: Any, starts: list[Any], body: Callable[[], list[Any]]) -> list[Any]:
    """Emit `body` under a condition; return its values, or where it does not hold `starts`."""
    before, then, done = builder.block, builder.append_basic_block("then"), builder.append_basic_block("done")
    builder.cbranch(condition, then, done)
    builder.position_at_end(then)
    results, end = body(), builder.block
    builder.branch(done)
    builder.position_at_end(done)
    merged = [builder.phi(start.type) for start in starts]
    for phi, start, result in zip(merged, starts, results, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, end)
    return merged
