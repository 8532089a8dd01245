"""How libraries are set while they are timed."""

from ...engine.runtimes import installed
from ..contract import Cells


def describe_settings() -> Cells:
    """Return the threads of each library in this process, and torch's memory layout in training."""
    from threadpoolctl import threadpool_info

    pools = [{key: pool.get(key) for key in ("internal_api", "version", "num_threads")} for pool in threadpool_info()]
    if not installed("torch"):
        return {"thread_pools": pools}
    import torch

    return {
        "thread_pools": pools,
        "torch_threads": torch.get_num_threads(),
        "torch_interop_threads": torch.get_num_interop_threads(),
        "training_memory_format": "channels_last",
    }
