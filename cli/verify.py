"""``aurevoir verify``."""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="PATH", help="an engine file or a model folder")
    parser.add_argument("--key", required=True, metavar="F", help="the signer's public key in PEM or OpenSSH form")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check the signature."""
    from ..signing import verify

    return {"path": args.path, **verify(args.path, args.key)}


def describe(result: dict[str, Any]) -> str:
    """Say what was checked."""
    return f"{result['path']}: {len(result['files'])} file(s) as signed with the key {result['key']}"
