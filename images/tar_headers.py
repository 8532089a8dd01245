"""Headers of tar archives: which regular files there are, and where their bytes lie.

The forms are those of POSIX (ustar and pax) and of GNU tar. Python's tarfile reads more than is wanted, takes more
than twice as long, and for some pax records time in the square of their length.
"""

from collections.abc import Callable, Iterator

_BLOCK = 512
_NOTHING = bytes(_BLOCK)
_LONGEST = 1 << 20
"""Bytes of names and pax records, with their headers, that may stand before a file."""
_NAME, _SIZE, _SUM, _MAGIC, _PREFIX = slice(0, 100), slice(124, 136), slice(148, 156), slice(257, 263), slice(345, 500)
_KIND, _MAP_FOLLOWS, _MORE_FOLLOWS = 156, 482, 504
_LONG_NAME, _PAX = b"L", b"xX"
_OF_OTHERS = b"LKxXg"
"""Kinds of headers that say something of the file behind them, or of all."""
_WITHOUT_BYTES = b"123456"
"""Links, devices, folders and FIFOs, whatever size they say."""
_PLAIN, _WITH_HOLES = b"\x0007", b"S"
_HOLES = b"GNU.sparse."


class TarError(Exception):
    """What is wrong with an archive."""


ReadAt = Callable[[int, int], bytes]
"""Returns so many bytes from a place in a file on, as ``os.pread`` does: fewer at its end."""


def tar_files(read_at: ReadAt, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield the regular files of an archive in its order: name, and where its bytes begin and how many they are.

    Names are as they are there; bytes that are not UTF-8 are escaped. Files with holes are left out.

    Parameters
    ----------
    read_at : callable
        Reads the archive.
    end : int
        Its bytes.

    Raises
    ------
    TarError
        If it is empty, there is no header where one must be, more than 1 MiB of names and records stand before a file,
        or a file does not end within the archive.
    """
    at = 0
    if not end:
        raise TarError("empty file")
    said: dict[bytes, bytes] = {}
    before = 0
    while at < end and (block := read_at(_BLOCK, at)) != _NOTHING:
        kind, size, begins = _checked(block, at), _size(block, at), at + _BLOCK
        if kind in _OF_OTHERS:
            before += _BLOCK + size
            if before > _LONGEST:
                raise TarError(f"a header of {before:,d} bytes at byte {at:,d}")
            data, at = read_at(size, begins), _behind(begins, size, end)
            _note(said, kind, data, begins)
            continue
        name = _name(block)
        if kind in _WITH_HOLES:
            begins = _behind_map(read_at, block, begins)
        if said:
            name, size = said.get(b"path", name), _said_size(said, size, at)
        at = _behind(begins, 0 if kind in _WITHOUT_BYTES else size, end)
        # A name that ends in a slash is a folder's.
        if kind in _PLAIN and not name.endswith(b"/") and not (said and any(key.startswith(_HOLES) for key in said)):
            yield name.decode("utf-8", "surrogateescape"), begins, size
        said, before = {}, 0


def _checked(block: bytes, at: int) -> int:
    """Return the kind of a header whose sum is right: of its bytes, which some programs take as signed."""
    if len(block) < _BLOCK:
        raise TarError(f"truncated header at byte {at:,d}")
    own = block[_SUM]
    said, found = _octal(own), sum(block) - sum(own) + 8 * ord(" ")
    if said != found and said != found - 256 * sum(byte > 127 for byte in block[: _SUM.start] + block[_SUM.stop :]):
        raise TarError(f"no header at byte {at:,d}")
    return block[_KIND]


def _octal(field: bytes) -> int | None:
    digits = field.partition(b"\0")[0].strip(b" ")
    return None if digits.strip(b"01234567") else int(digits or b"0", 8)


def _size(block: bytes, at: int) -> int:
    """Return the size in octal digits, or, behind a first bit of 1, in binary."""
    field = block[_SIZE]
    found = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
    if found is None:
        raise TarError(f"no size in the header at byte {at:,d}")
    return found


def _name(block: bytes) -> bytes:
    name = block[_NAME].partition(b"\0")[0]
    # GNU tar, whose magic is another one, may have times in the place of the prefix.
    prefix = block[_PREFIX].partition(b"\0")[0] if block[_MAGIC] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _note(said: dict[bytes, bytes], kind: int, data: bytes, at: int) -> None:
    """Note what a header says of the file behind it; what came before it counts."""
    if kind in _LONG_NAME:
        said.setdefault(b"path", data.partition(b"\0")[0])
    elif kind in _PAX:
        for key, value in _records(data, at):
            said.setdefault(key, value)


def _records(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a pax header: its length in bytes, a space, key, equals sign, value, line feed."""
    data, start = data.rstrip(b"\0"), 0
    while start < len(data):
        digits = data[start : start + 8].partition(b" ")[0]
        stop = start + int(digits) if digits.isdigit() else start
        record = data[start + len(digits) + 1 : stop]
        if stop > len(data) or not record.endswith(b"\n") or b"=" not in record:
            raise TarError(f"no record at byte {at + start:,d}")
        key, _, value = record[:-1].partition(b"=")
        yield key, value
        start = stop


def _said_size(said: dict[bytes, bytes], size: int, at: int) -> int:
    digits = said.get(b"size")
    if digits is None:
        return size
    if not digits.isdigit() or len(digits) > 20:
        raise TarError(f"no size in the records before byte {at:,d}")
    return int(digits)


def _behind_map(read_at: ReadAt, block: bytes, begins: int) -> int:
    """Return where the bytes of a file with holes begin: behind the blocks of the map of its holes."""
    more = block[_MAP_FOLLOWS]
    while more:
        following = read_at(_BLOCK, begins)
        more = len(following) == _BLOCK and following[_MORE_FOLLOWS]
        begins += _BLOCK
    return begins


def _behind(begins: int, size: int, end: int) -> int:
    """Return where the block behind some bytes begins."""
    stop = begins + -(-size // _BLOCK) * _BLOCK
    if stop > end:
        raise TarError(f"what begins at byte {begins:,d} ends behind the archive's {end:,d} bytes")
    return stop
