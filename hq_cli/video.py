"""A synthetic video stream: the packet sizes of a real one, made-up contents, the same every time.

The sizes are those of H.264 video, 1080p at 25 frames a second and 6 Mb/s, with AAC audio: many
short packets, a few that are a thousand times longer.
"""

import hashlib
import importlib.resources
import itertools
import json
import random
from collections.abc import Iterator
from typing import Final

__all__ = ["PACKETS_PER_SECOND", "Tally", "packet_sizes", "packets"]

PACKETS_PER_SECOND: Final = 71.9
_SEQUENCE_BYTES: Final = 8


def packet_sizes() -> list[int]:
    """Sizes in bytes, in stream order, of about ten seconds; repeat them for more."""
    data = importlib.resources.files("hq_cli") / "data" / "av_6mbps_1080p25.json"
    sequence: str = json.loads(data.read_text(encoding="utf-8"))["seq"]
    return [int(packet[1:]) for packet in sequence.split()]  # "K384494": a letter for the kind


def packets(count: int, seed: int = 1) -> Iterator[bytes]:
    """The first `count` packets: an 8-byte sequence number, big-endian, and random bytes."""
    rng = random.Random(seed)
    for number, size in enumerate(itertools.islice(itertools.cycle(packet_sizes()), count)):
        yield number.to_bytes(_SEQUENCE_BYTES) + rng.randbytes(size - _SEQUENCE_BYTES)


class Tally:
    """What passed at one end of the stream, packet by packet."""

    def __init__(self) -> None:
        self.items = 0
        """Packets so far."""
        self.inversions = 0
        """How many of them did not have a higher sequence number than the one before."""
        self.last = -1
        """The sequence number of the last one."""
        self._digest = hashlib.sha256()

    def add(self, packet: bytes) -> None:
        """Count `packet` in."""
        number = int.from_bytes(packet[:_SEQUENCE_BYTES])
        self.items += 1
        self.inversions += number <= self.last
        self.last = number
        self._digest.update(packet)

    @property
    def checksum(self) -> str:
        """SHA-256 of all packets, end to end, in hexadecimal."""
        return self._digest.hexdigest()
