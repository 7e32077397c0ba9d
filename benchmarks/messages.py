"""What is sent through the queues, and the proof that it came out again."""

import itertools
import random
from collections.abc import Sequence

from hq_cli.video import packet_sizes, packets

__all__ = ["PACKETS", "SIZES", "faults", "make", "mean_size", "numbered"]

PACKETS = "packets"
"""The size of the messages that are the packets of a real stream, in their order."""
SIZES = ("128", "1316", "65536", "1048576", PACKETS)
"""A telemetry record, seven transport-stream packets, a block of `hq pipe`, a large key frame."""
_NUMBER_BYTES = 8
_PAYLOAD = bytes(1316 - _NUMBER_BYTES)


def numbered(number: int) -> bytes:
    """A message of 1,316 bytes, for those that are not kept but made again to compare."""
    return number.to_bytes(_NUMBER_BYTES) + _PAYLOAD


def make(size: str, count: int) -> list[bytes]:
    """`count` messages, each with its number in front; nothing that a store could compress."""
    if size == PACKETS:
        return list(packets(count))
    rest = random.Random(0).randbytes(int(size) - _NUMBER_BYTES)
    return [number.to_bytes(_NUMBER_BYTES) + rest for number in range(count)]


def mean_size(size: str) -> float:
    """Bytes of an average message."""
    if size != PACKETS:
        return int(size)
    sizes = packet_sizes()
    return sum(sizes) / len(sizes)


def faults(sent: Sequence[bytes], received: Sequence[bytes | None]) -> str:
    """What is wrong with `received`; nothing if it is exactly `sent`, in that order."""
    if list(sent) == received:
        return ""
    there = [message for message in received if message]
    numbers = [int.from_bytes(message[:_NUMBER_BYTES]) for message in there]
    known = [number for number in numbers if number < len(sent)]
    damaged = len(there) - sum(
        number < len(sent) and sent[number] == message
        for number, message in zip(numbers, there, strict=True)
    )
    overtaken = sum(later < earlier for earlier, later in itertools.pairwise(known))
    found = {
        "lost": len(sent) - len(set(known)),
        "twice": len(known) - len(set(known)),
        "out of order": overtaken,
        "damaged": damaged,
    }
    return ", ".join(f"{count:,} of {len(sent):,} {what}" for what, count in found.items() if count)
