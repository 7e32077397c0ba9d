"""What callers hand in, as messages: checked, and copied unless it is immutable. Pure."""

from collections.abc import Iterable

from hq_core.errors import MessageTooLargeError

__all__ = ["Buffer", "as_message", "as_messages"]

Buffer = bytes | bytearray | memoryview
"""What `enqueue` takes; at run time any object with the buffer protocol."""


def as_message(data: Buffer, largest: int) -> bytes:
    """`data` as bytes that nobody else can change, at most `largest` long.

    Raises `TypeError` and `MessageTooLargeError`.
    """
    if type(data) is bytes:
        if len(data) > largest:
            raise _too_large(len(data), largest)
        return data
    try:
        view = memoryview(data)
    except TypeError:
        kind = type(data).__name__
        hint = "; encode it first" if isinstance(data, str) else ""
        raise TypeError(f"a message must be bytes or another buffer, not {kind}{hint}") from None
    with view:
        if view.nbytes > largest:
            raise _too_large(view.nbytes, largest)
        return view.tobytes()


def as_messages(items: Iterable[Buffer], largest: int) -> list[bytes]:
    """Every one of `items` as `as_message` gives it."""
    if isinstance(items, (bytes, bytearray, memoryview, str)):
        raise TypeError("enqueue_many takes an iterable of messages; for one, use enqueue")
    batch = list(items)
    if {*map(type, batch)} == {bytes} and sum(map(len, batch)) <= largest:
        return batch  # type: ignore[return-value] # as was just seen
    return [as_message(data, largest) for data in batch]


def _too_large(size: int, largest: int) -> MessageTooLargeError:
    return MessageTooLargeError(f"{size} bytes in one message; this queue takes up to {largest}")
