"""Argument types for argparse: text in, value out, or a message that says what to write."""

import argparse
import math

from hq_cli.sizes import format_size, parse_size
from hq_core import MAX_MESSAGE_BYTES

__all__ = ["address", "block_size", "seconds", "size"]


def address(text: str) -> tuple[str, int]:
    """A host and a port to listen at; an IPv6 address is in brackets."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (colon and bare and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT, such as 127.0.0.1:9100 or [::1]:0 for any free port"
        )
    if ":" in host and bare == host:
        raise argparse.ArgumentTypeError(f"{text!r} is ambiguous: write [{host}]:{port}")
    return bare, int(port)


def size(text: str) -> int:
    """A number of bytes, at least 1."""
    try:
        value = parse_size(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is too small: at least one byte is needed")
    return value


def block_size(text: str) -> int:
    """A number of bytes that fits into one message."""
    value = size(text)
    if value > MAX_MESSAGE_BYTES:
        limit = format_size(MAX_MESSAGE_BYTES)
        raise argparse.ArgumentTypeError(f"{text!r} is too large: a block is at most {limit}")
    return value


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
