"""Checks of the arrays' dtypes and shapes as the kernels are called: an import hook, installed before their import."""

from pathlib import Path

from jaxtyping import install_import_hook

try:
    import beartype
except ImportError:  # a machine with a GPU has what runs on it, and not always what checks it
    beartype = None

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
# Read by compilers, which know no decorators; their `backend.py` is plain Python.
COMPILED = ("numba", "triton")

# An int is a float here, as it is to mypy.
typechecker = beartype and beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def checked_modules() -> list[str]:
    """Return the modules that are checked; a package's name would stand for all that is in it."""
    paths = [path.relative_to(KERNELS) for path in sorted(KERNELS.rglob("*.py")) if path.name != "__init__.py"]
    plain = [path for path in paths if path.parent.name not in COMPILED or path.name == "backend.py"]
    return [".".join(("aurevoir.kernels", *path.with_suffix("").parts)) for path in plain]


def install() -> None:
    """Check the arguments and results of every kernel that is imported from now on, where beartype is installed."""
    if beartype:
        install_import_hook(checked_modules(), "array_checks.typechecker")
