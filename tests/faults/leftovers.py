"""Overflow files and positions, damaged, and what they hold by the rules in their document."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final

from hq_backends.file import recovery
from hq_backends.file.checked import Checked
from hq_backends.file.format import Format, Plain
from hq_backends.file.position import SLOT_SPACING, Position, encode
from hq_backends.file.proof import around_head, before_tail
from tests.faults.fuzzing import SEED, damaged, spool

__all__ = [
    "BOOT",
    "FORMATS",
    "PAGE",
    "Case",
    "Noted",
    "is_part",
    "leave",
    "make_case",
    "two_slots",
    "untouched",
]

FORMATS: Final[list[Format]] = [Plain(), Checked(SEED)]
BOOT: Final = recovery.boot_id()
ANOTHER_BOOT: Final = b"another boot id!"
PAGE: Final = 4096


def two_slots(written: Sequence[tuple[int, Position]]) -> bytes:
    """A sidecar with these in its two slots."""
    return b"".join(
        encode(place, sequence).ljust(SLOT_SPACING, b"\0") for sequence, place in written
    )


@dataclass
class Case:
    """A data file and its sidecar, and what they were before they were damaged."""

    form: Format
    written: list[bytes]
    intact: bytes
    data: bytes
    positions: list[Position]
    """What the sidecar says, the older first; their inode is not known yet."""
    sidecar_damage: int | None
    """Seed of what is done to the sidecar."""


def make_case(random: Random) -> Case:
    form = random.choice(FORMATS)
    written, intact = spool(form, random)
    ends = [*accumulate((form.header_bytes + len(r) for r in written), initial=len(form.preamble))]
    boot = random.choice([BOOT, ANOTHER_BOOT])
    positions = []
    head = tail = committed = 0
    for _ in range(random.choice([0, 1, 2, 2])):
        head = random.randrange(head, len(ends))
        tail = random.randrange(max(head, tail), len(ends))
        committed = random.choice([committed, random.randrange(committed, tail + 1)])
        at = ends[head], ends[tail]
        read = partial(_bytes_of, intact)
        proof = around_head(read, len(form.preamble), *at), before_tail(read, *at)
        place = Position(boot, 0, form.seed, *at, tail - head, ends[committed], *proof)
        positions.append(place)
    return Case(
        form,
        written,
        intact,
        random.choice([intact, *[damaged(intact, random) for _ in range(3)]]),
        positions,
        random.choice([None, None, random.randrange(1 << 32)]),
    )


@dataclass
class Noted:
    """What the sidecar says."""

    positions: list[Position]
    """Those that are whole in it, the newer one first."""

    def start(self, case: Case) -> int:
        """Offset from which on a record may be one that is not done."""
        heads = [place.head for place in self.positions if place.head <= len(case.data)]
        return max(heads, default=0)


def leave(case: Case, directory: Path, random: Random) -> Noted:
    """Write the files of `case`; what the sidecar says then."""
    data = directory / "s.overflow"
    data.write_bytes(case.data)
    own = data.stat().st_ino
    inode = random.choice([own, own, own, own + 1])
    placed = [place._replace(inode=inode) for place in case.positions]
    if not placed:
        return Noted([])
    sidecar = two_slots(list(enumerate(placed, start=1)))
    if case.sidecar_damage is not None:
        how = Random(case.sidecar_damage)
        start = how.choice([0, SLOT_SPACING])
        slot = damaged(sidecar[start : start + 100], how).ljust(100, b"\0")
        sidecar = sidecar[:start] + slot + sidecar[start + len(slot) :]
        sidecar = sidecar[: how.choice([len(sidecar), SLOT_SPACING + 50, how.randrange(200)])]
    data.with_name("s.overflow.pos").write_bytes(sidecar)
    slots = [sidecar[:SLOT_SPACING], sidecar[SLOT_SPACING:]]
    whole = [
        place
        for number, place in enumerate(placed, start=1)
        if any(slot.startswith(encode(place, number)) for slot in slots)
    ]
    return Noted(whole[::-1])


def _bytes_of(data: bytes, size: int, offset: int) -> bytes:
    return data[offset : offset + size]


def untouched(case: Case, start: int) -> list[bytes]:
    """The records from offset `start` on in front of the first byte that was changed."""
    records = []
    pairs = zip(case.intact, case.data, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(case.data))
    at = len(case.form.preamble)
    for record in case.written:
        end = at + case.form.header_bytes + len(record)
        if at >= start and end <= same:
            records.append(record)
        at = end
    return records


def is_part(few: Sequence[bytes], many: Sequence[bytes]) -> bool:
    """Whether `few` are among `many`, in that order."""
    rest = iter(many)
    return all(record in rest for record in few)
