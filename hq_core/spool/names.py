"""Stream ids as file names: any text, one safe name each. Pure.

Rules:

- ``a-z 0-9 . _ -`` stand for themselves; every other UTF-8 byte is ``%`` and two hex digits.
  Upper-case letters are escaped too, since some file systems fold case.
- A leading dot is escaped: no ``..``, no hidden file.
- So is the dot of ``.quarantine-`` and ``.backup-``, which begin what is set aside: no stream's own
  files look like what another stream has set aside, or like what belongs to that.
- The empty id is ``%``, which no other id yields.
- A name longer than `MAX_NAME` is cut to a readable start, ``%%``, and the id's SHA-256.
  ``%%`` occurs in no other name. Only these names cannot be turned back into their id.
"""

import hashlib
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = ["MAX_NAME", "file_name", "stream_id"]

MAX_NAME: Final = 200
"""Longest file name made, in characters: 55 of the usual 255 are left for suffixes."""

_SPELLED_OUT: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_ASIDE: Final = (".quarantine-", ".backup-")
_ESCAPES: Final = [chr(b) if b in _SPELLED_OUT else f"%{b:02x}" for b in range(256)]


def file_name(stream_id: str) -> str:
    """The file name for `stream_id`, made of ``a-z0-9._-%``, 1 to `MAX_NAME` characters.

    Raises `TypeError` if `stream_id` is not a str.
    """
    if not isinstance(stream_id, str):
        raise TypeError(f"stream_id must be a str, not {type(stream_id).__name__}")
    raw = stream_id.encode("utf-8", "surrogatepass")
    name = "".join([_ESCAPES[b] for b in raw]) or "%"
    if name.startswith("."):
        name = "%2e" + name[1:]
    for word in _ASIDE:
        name = name.replace(word, "%2e" + word[1:])
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(raw).hexdigest()
    return f"{name[: MAX_NAME - 2 - len(digest)]}%%{digest}"


def stream_id(name: str) -> str | None:
    """The id that the file name `name` stands for; None if it is a cut name or none of ours."""
    if name == "%":
        return ""
    try:
        original = unquote_to_bytes(name).decode("utf-8", "surrogatepass")
    except UnicodeError:
        return None
    return original if file_name(original) == name else None
