"""``aurevoir sign``."""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="PATH", help="an engine file or a model folder")
    parser.add_argument("--key", required=True, metavar="F", help="an Ed25519 private key in PEM or OpenSSH form")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Sign, and write the signature."""
    from ..signing import sign

    return {"path": args.path, **sign(args.path, args.key)}


def describe(result: dict[str, Any]) -> str:
    """Say what was signed."""
    return f"{result['signature']}: {len(result['files'])} file(s) signed with the key {result['key']}"
