"""Optional signatures of engine files and model folders: Ed25519 over the SHA-256 of every file.

A signature is a JSON file: `SIGNATURE` in a model folder, and a file with the suffix `SUFFIX` beside an engine file.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import AurevoirError, MissingPackageError, UsageError
from .files import file_digest, read_file
from .saving import replacing_only, write_atomically
from .schema import DIGEST, mapping, parse_object, record, refusing, require_version, text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SCHEMA = "aurevoir-signature/1"
SIGNATURE = "signature.json"
"""Name of the signature in a model folder; no other file of a folder is left unsigned."""
SUFFIX = ".sig"
PASSWORD = "AUREVOIR_KEY_PASSWORD"
"""Environment variable with the password of an encrypted private key."""
# Keys take hundreds of bytes and signatures about a hundred for each file.
_LONGEST = 2**20
_FILE = "."
_SIGNED = record(
    {
        "schema": text(),
        "key": DIGEST,
        "files": mapping(DIGEST, "digest"),
        "signature": text(88, "[A-Za-z0-9+/]{86}==", "the base64 of the 64 bytes of a signature"),
    }
)


def signature_path(path: Path | str) -> Path:
    """Return where the signature of an engine file or model folder is."""
    return Path(path) / SIGNATURE if Path(path).is_dir() else Path(f"{path}{SUFFIX}")


def sign(path: Path | str, key: Path | str) -> dict[str, Any]:
    """Sign an engine file or a model folder, and write the signature.

    Parameters
    ----------
    path : path
        An engine file, or a model folder.
    key : path
        File of an Ed25519 private key in PEM (PKCS 8) or OpenSSH form. An encrypted one takes its password from the
        environment variable ``AUREVOIR_KEY_PASSWORD``.

    Returns
    -------
    signed : dict
        ``signature``, its path; ``key``, the SHA-256 of the public key; ``files``, name to SHA-256.

    Raises
    ------
    UsageError
        If there is no such file or model folder, or the key file is no such key.
    AurevoirError
        If the folder holds links or special files, or something else stands where the signature belongs.
    MissingPackageError
        If cryptography is not installed.
    """
    private = _private_key(Path(key))
    digests, target = _digests(Path(path)), signature_path(path)
    fingerprint = _fingerprint(private.public_key())
    signed = {"schema": SCHEMA, "key": fingerprint, "files": digests}
    signature = base64.b64encode(private.sign(_message(signed))).decode()
    with replacing_only(lambda head: f'"schema": "{SCHEMA.rpartition("/")[0]}/'.encode() in head):
        write_atomically(target, json.dumps({**signed, "signature": signature}, indent=1).encode())
    return {"signature": str(target), "key": fingerprint, "files": digests}


def verify(path: Path | str, key: Path | str) -> dict[str, Any]:
    """Check that an engine file or model folder is, to the last byte, what the owner of a key signed.

    Parameters
    ----------
    path : path
    key : path
        File of an Ed25519 public key in PEM or OpenSSH form.

    Returns
    -------
    signed : dict
        As of `sign`.

    Raises
    ------
    AurevoirError
        If the signature is missing, damaged or of another key, or a file was changed, added or removed.
    UsageError, MissingPackageError
        As for `sign`.
    """
    public, source = _public_key(Path(key)), signature_path(path)
    names = _named(Path(path))
    signed, signature = _read(source)
    if signed["key"] != _fingerprint(public):
        raise AurevoirError(
            f"{path} was signed with the key {signed['key']}, and {key} is {_fingerprint(public)}; "
            "give the signer's public key, or do not trust it"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, _message(signed))
    except InvalidSignature:
        raise AurevoirError(
            f"{source} is not a signature by {key}, or was changed; get it again from its signer"
        ) from None
    # No file is read that nobody signed.
    _compare(path, dict.fromkeys(names), dict.fromkeys(signed["files"]))
    digests = _digests(Path(path))
    _compare(path, digests, signed["files"])
    return {"signature": str(source), "key": signed["key"], "files": digests}


def _message(signed: dict[str, Any]) -> bytes:
    """Return the bytes that are signed: JSON with sorted keys and no spaces."""
    return json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()


def _digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a model folder but its signature, or of an engine file, named ``.``."""
    return {name: file_digest(path if name == _FILE else path / name) for name in _named(path)}


def _named(path: Path) -> list[str]:
    """Return the names of what is signed."""
    if not path.is_dir():
        if not path.is_file():
            raise UsageError(f"{path} is no file or folder; give an engine file or a model folder")
        return [_FILE]
    if not (path / "model.json").is_file():
        raise UsageError(f"{path} is not a model folder (no model.json); give an engine file or a model folder")
    return sorted(name for name in _names(path) if name != SIGNATURE)


def _names(folder: Path, prefix: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _names(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield f"{prefix}{entry.name}"
            else:
                raise AurevoirError(f"{entry.path} is a link or a special file, which cannot be signed; remove it")


def _compare(path: Path | str, found: Mapping[str, str | None], signed: Mapping[str, str | None]) -> None:
    for name in sorted({*found, *signed}):
        if name not in found or name not in signed or found[name] != signed[name]:
            how = "was removed" if name not in found else "was added" if name not in signed else "was changed"
            where = path if name == _FILE else Path(path) / name
            raise AurevoirError(
                f"{where} {how} after it was signed; do not use {path}, and get it again from its signer"
            )


def _read(source: Path) -> tuple[dict[str, Any], bytes]:
    """Return what a signature file says was signed, and the signature."""
    if not source.is_file():
        raise AurevoirError(f"{source} is missing: there is no signature; get it, or sign with `aurevoir sign`")
    with refusing(f"{source} is not a signature: it", "get it again"):
        content = parse_object(read_file(source, _LONGEST, "signature", "get it again"))
        require_version(content.get("schema"), (SCHEMA,))
        _SIGNED(content, "")
    return content, base64.b64decode(content.pop("signature"))


def _bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST} bytes")
    return data


def _fingerprint(key: "Ed25519PublicKey") -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def _private_key(path: Path) -> "Ed25519PrivateKey":
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    password = os.environ.get(PASSWORD)
    key = _load(path, "private", load_pem_private_key, load_ssh_private_key, password.encode() if password else None)
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is a {type(key).__name__}, not Ed25519; {_MAKE}")
    return key


def _public_key(path: Path) -> "Ed25519PublicKey":
    _require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    key = _load(path, "public", load_pem_public_key, load_ssh_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is a {type(key).__name__}, not Ed25519; {_MAKE}")
    return key


_MAKE = "make a pair with `ssh-keygen -t ed25519 -f KEY`"


def _load(path: Path, kind: str, pem: Any, ssh: Any, *password: bytes | None) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    if not path.is_file():
        raise UsageError(f"{kind} key {path} is not a file; {_MAKE}")
    try:
        data = _bounded(path)
        is_ssh = b"OPENSSH" in data[:64] or data.startswith(b"ssh-")
        return (ssh if is_ssh else pem)(data, *password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        problem = " ".join(str(error).split())
        raise UsageError(
            f"{path} cannot be read as {kind} key ({problem}); {_MAKE}, or set {PASSWORD} for an encrypted one"
        ) from None


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"signatures need cryptography ({error}); install it with: pip install 'aurevoir[sign]'"
        ) from error
