"""Compile Triton's kernels for GPUs that need not be here."""

import triton


def compiled(kernel, capability, types, constants, options, aligned):
    """Compile a kernel; what is divisible by 16 is named."""
    names = kernel.arg_names
    source = triton.compiler.ASTSource(
        kernel,
        {name: types.get(name, "constexpr") for name in names},
        constexprs=constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", capability, 32), options=options)


# Blackwell's own int8 products; Triton before 3.8 takes Ampere's.
TCGEN05 = [int(part) for part in triton.__version__.split(".")[:2]] >= [3, 8]
INTEGER_TENSOR_CORES = {
    80: r"mma\.sync\.aligned\.m16n8k32\S*\.s32\.s8\.s8\.s32",
    89: r"mma\.sync\.aligned\.m16n8k32\S*\.s32\.s8\.s8\.s32",
    90: r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.s32\.s8\.s8",
    100: r"tcgen05\.mma\S*\.kind::i8" if TCGEN05 else r"mma\.sync\.aligned\.m16n8k32\S*\.s32\.s8\.s8\.s32",
    120: r"mma\.sync\.aligned\.m16n8k32\S*\.s32\.s8\.s8\.s32",
}
"""By compute capability what PTX has of an int8 product."""
