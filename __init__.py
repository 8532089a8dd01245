"""Image classifiers trained without backprop: low-precision engines, optical projections, ridge.

The names below load what they need when they are first used; ``import aurevoir`` itself loads
neither a deep-learning library nor a runtime, and touches no device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .cluster.spec import Cluster
    from .engine.build import build_engine
    from .engine.delivery import export_engine
    from .engine.engine import Engine
    from .engine.load import load_engine
    from .transfer.estimator import OpticalClassifier, load

_HOMES = {
    "Cluster": ".cluster.spec",
    "build_engine": ".engine.build",
    "Engine": ".engine.engine",
    "export_engine": ".engine.delivery",
    "load_engine": ".engine.load",
    "OpticalClassifier": ".transfer.estimator",
    "load": ".transfer.estimator",
}

__all__ = ["Cluster", "Engine", "OpticalClassifier", "build_engine", "export_engine", "load", "load_engine"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
