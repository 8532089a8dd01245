"""``python -m``: whether a Ray cluster answers; Ray itself waits for minutes, and ends the process that waits."""

import logging
import os
import socket
import sys

SECONDS = 5


def main(address: str) -> int:
    """Connect to a cluster and leave it; print why that fails, and return 1."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
        except (OSError, OverflowError, UnicodeError) as error:
            return _failed(str(getattr(error, "strerror", None) or error).lower())
    import ray

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, logging_level=logging.CRITICAL)
    except Exception as error:
        return _failed(next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__))
    ray.shutdown()
    return 0


def _failed(why: str) -> int:
    sys.stdout.write(why)
    sys.stdout.flush()
    return 1


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
