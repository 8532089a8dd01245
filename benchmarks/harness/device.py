"""The device that a benchmark's engines and ridge run on."""

import argparse

import numpy as np

from ...engine.runtimes import builds_plans, check_device, installed, runtime
from ...engine.runtimes.base import RUNTIMES
from ...kernels.arrays import on_device

RUNTIME = {"cpu": "openvino", "cuda": "torch"}


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device``."""
    parser.add_argument(
        "--device", choices=list(RUNTIME), default="cpu", help="of engines and ridge: cuda is the current NVIDIA GPU"
    )


def runtime_of(args: argparse.Namespace) -> str:
    """Return the runtime that the arguments name, by default the device's own, once the device is known to be here.

    Raises
    ------
    UsageError
        If there is no such device, or the runtime does not use it.
    MissingPackageError
        If CuPy, which the ridge needs on a GPU, is not installed.
    """
    name: str = args.runtime or RUNTIME[args.device]
    on_device(np.zeros(0), args.device)
    if installed(name):
        check_device(name, args.device)
    return name


def runtimes_of(device: str) -> list[str]:
    """Return the installed runtimes that run on a device."""
    return [name for name in RUNTIMES if installed(name) and _runs_on(name, device)]


def _runs_on(name: str, device: str) -> bool:
    there = device != "cpu" if builds_plans(name) else device in runtime(name).devices()
    return there and bool(runtime(name).precisions())
