"""What the processor offers for int8, as the runtimes on it see it."""

import os
import platform

# Instruction sets by LLVM's names, with those that Linux shows.
NAMES = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512vnni": "avx512_vnni",
    "avxvnni": "avx_vnni",
    "avx512bf16": "avx512_bf16",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
    "dotprod": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
}
ISA_LIMIT = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that keep oneDNN, and OpenVINO with it, from newer instruction sets; the first counts."""
_X86 = ("x86_64", "amd64", "i386", "i686")
# Limits under which there is no VNNI, and those that leave only that of AVX2; every other has that of AVX-512 too.
_WITHOUT_VNNI = ("sse41", "avx", "avx2", "avx512_core")
_ON_AVX2 = ("avx2_vnni", "avx2_vnni_2")


def has_int8_dot_product(runtime: str) -> bool:
    """Return whether a runtime on this processor sums products of bytes in 32 bits (VNNI or better)."""
    from ...kernels.backends.numba import features

    limit = isa_limit() if runtime == "openvino" else None
    if limit in _WITHOUT_VNNI:
        return False
    if limit in _ON_AVX2:
        return bool(features.host_features().get("avxvnni"))
    return features.has_int8_dot_product()


def saturates(runtime: str) -> bool:
    """Return whether int8 products of a runtime on this processor may saturate.

    x86 processors without VNNI add pairs of unsigned-by-signed products in 16 bits, where two large ones do not fit;
    the runtimes make signed activations unsigned for that. ARM's widen each pair of signed products before it is
    added to 32 bits, and AMX sums in 32 bits.
    """
    return platform.machine().lower() in _X86 and not has_int8_dot_product(runtime)


def isa_limit() -> str | None:
    """Return the instruction set that the environment limits oneDNN to, in lower case; None for no limit."""
    given = next((value for name in ISA_LIMIT if (value := os.environ.get(name))), "").lower()
    return given if given in (*_WITHOUT_VNNI, *_ON_AVX2) else None


def instruction_sets() -> dict[str, bool]:
    """Return which of the instruction sets that matter to engines the processor has."""
    from ...kernels.backends.numba.features import host_features

    found = host_features()
    arm = platform.machine().lower() not in _X86
    own = ("dotprod", "i8mm", "bf16") if arm else [name for name in NAMES if name.startswith(("avx", "amx"))]
    return {NAMES[name]: bool(found.get(name)) for name in own}


def describe_int8(runtime: str) -> str:
    """Say what the processor means for int8 engines of a runtime."""
    limit = isa_limit() if runtime == "openvino" else None
    why = f"{' or '.join(ISA_LIMIT)} is {limit}: " if limit else ""
    if saturates(runtime):
        return (
            f"{why}no VNNI: pairs of int8 products are summed in 16 bits and could saturate, so that engines built "
            "here have 63 levels of weights, which costs some signs, and those of 127 from elsewhere are refused"
        )
    return f"{why}int8 products are summed in 32 bits and cannot saturate: engines have all 127 levels of weights"
