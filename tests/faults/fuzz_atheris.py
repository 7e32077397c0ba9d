"""Coverage-guided fuzzing of the file backend's parsers: what `test_fuzz` does at random.

``python -m tests.faults.fuzz_atheris -runs=1000000 -max_len=400``; `atheris` comes with the
dependency group ``fuzz``. All options are libFuzzer's.
"""

import sys
from itertools import count

import atheris

with atheris.instrument_imports(include=["hq_backends.file"]):
    from hq_backends.file.checked import Checked
    from hq_backends.file.position import SLOT_SPACING, Position, encode
    from tests.faults.campaign import note
    from tests.faults.fuzzing import SEED, check_parser, check_sidecar

FORM = Checked(SEED)
WRITTEN = [
    (7, Position(b"0123456789abcdef", 1, SEED, 16, 100, 3, 16, 1, 2)),
    (8, Position(b"0123456789abcdef", 1, SEED, 40, 200, 5, 100, 3, 4)),
]
SLOTS = [encode(place, sequence) for sequence, place in WRITTEN]
RUNS = next((int(arg[6:]) for arg in sys.argv if arg.startswith("-runs=")), 0)

calls = count(1)


def check(data: bytes) -> None:
    """The first two bytes say what the rest is tried as."""
    if next(calls) == RUNS:
        note("fuzz", "parsers, guided by coverage", files=RUNS)
    if len(data) < 2:
        return
    kind, limit, rest = data[0] % 4, data[1], data[2:]
    if kind == 0:
        check_parser(rest, 1 + limit % 4, limit)
    elif kind == 1:
        check_parser(FORM.preamble + rest, 1 + limit % 4, limit)
    elif kind == 2:  # a record that is whole, and what it becomes with some bytes changed
        record = b"".join([FORM.preamble, *FORM.encode([rest[:limit], b"more"])])
        check_parser(changed(record, rest[limit:]), 1000, 1 << 30)
    else:
        first = changed(SLOTS[0], rest[:limit]).ljust(SLOT_SPACING, b"\0")
        check_sidecar(first + changed(SLOTS[1], rest[limit:]), WRITTEN)


def changed(data: bytes, changes: bytes) -> bytes:
    """`data` with bytes changed as pairs of a position and a mask say."""
    new = bytearray(data)
    for at, mask in zip(changes[::2], changes[1::2], strict=False):
        new[at % len(new)] ^= mask
    return bytes(new)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
