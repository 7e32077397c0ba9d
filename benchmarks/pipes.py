"""Bytes a second through a program between two pipes; every block that comes out is compared."""

import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.cells import Cell, Outcome
from hq_core.testing.forking import forked

__all__ = ["COMMANDS", "pipe"]

_BLOCK = 64 * 1024
_NUMBER_BYTES = 8
_TIME = struct.Struct("d")
_BEGUN = 2
"""Blocks that are sent when the program has read one: the pipe to it holds one."""
_MIB = 1024 * 1024
_BYTES_PER_SECOND = 1024 * _MIB
"""What is sent for each second that the run may take."""

_HQ = [sys.executable, "-m", "hq_cli", "pipe", "--dir", "."]
COMMANDS: dict[tuple[str, str], list[str]] = {
    # No room for a single block on disk: when memory is full the producer waits, as with mbuffer.
    ("pipe memory", "hq pipe"): [*_HQ, "--memory", "64M", "--max-disk", "64K"],
    ("pipe memory", "mbuffer"): ["mbuffer", "-q", "-m", "64M"],
    ("pipe disk", "hq pipe"): [*_HQ, "--memory", "64K"],
    ("pipe disk", "mbuffer"): ["mbuffer", "-q", "-t", "-m", "1G"],
}
"""By workload and peer."""


def pipe(cell: Cell, directory: Path, seconds: float) -> Outcome:
    """Blocks from one process through the program into this one, as fast as they come.

    Through disk: nothing is taken before everything is in. The clock starts when the program, once
    it is up, has begun to read, and stops when the last block is out.
    """
    command = COMMANDS[cell.workload, cell.peer]
    if shutil.which(command[0]) is None:
        return Outcome(skipped=f"{command[0]} is not installed")
    blocks = max(64, int(_BYTES_PER_SECOND * seconds / _BLOCK))
    source, feed = os.pipe()
    times, report = os.pipe()
    sender = forked(lambda: _send(feed, blocks, report))
    os.close(feed)
    os.close(report)
    program = subprocess.Popen(
        command,
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={**os.environ, "TMPDIR": str(directory)},
    )
    os.close(source)
    assert program.stdout
    assert program.stderr
    begun = _time(times)
    if cell.workload == "pipe disk":
        _time(times)
    fault = _receive(program.stdout.fileno(), blocks)
    wall = time.perf_counter() - begun
    os.close(times)
    program.stdout.close()  # after a fault: let it and the sender end
    _, status, usage = os.wait4(program.pid, 0)
    os.waitpid(sender, 0)
    program.returncode = os.waitstatus_to_exitcode(status)
    if fault or status:
        return Outcome(faults=fault or f"exit status {program.returncode}")
    size = (blocks - _BEGUN) * _BLOCK
    cpu = usage.ru_utime + usage.ru_stime
    metrics = {"mb_per_second": size / wall / 1e6, "cpu_s_per_gb": cpu / size * 1e9}
    return Outcome({**metrics, **_spilled(program.stderr.read())})


def _send(fd: int, blocks: int, report: int) -> None:
    """Tell `report` when the program has begun to read, and when everything is sent."""
    block = _first_block()
    for number in range(blocks):
        block[:_NUMBER_BYTES] = number.to_bytes(_NUMBER_BYTES)
        sent = 0
        while sent < _BLOCK:
            sent += os.write(fd, memoryview(block)[sent:])
        if number + 1 in (_BEGUN, blocks):
            os.write(report, _TIME.pack(time.perf_counter()))


def _time(report: int) -> float:
    """The next time that the sender tells; processes of one machine share this clock."""
    moment: float = _TIME.unpack(os.read(report, _TIME.size))[0]
    return moment


def _receive(fd: int, blocks: int) -> str:
    """What was wrong with what arrived, if anything."""
    expected, got = _first_block(), bytearray(_BLOCK)
    for number in range(blocks):
        expected[:_NUMBER_BYTES] = number.to_bytes(_NUMBER_BYTES)
        size = 0
        while size < _BLOCK:
            received = os.readv(fd, [memoryview(got)[size:]])
            if not received:
                return f"{number} of {blocks} blocks arrived"
            size += received
        if got != expected:
            return f"block {number} of {blocks} is not what was sent"
    return "more than was sent arrived" if os.read(fd, 1) else ""


def _first_block() -> bytearray:
    return bytearray(_NUMBER_BYTES) + random.Random(0).randbytes(_BLOCK - _NUMBER_BYTES)


def _spilled(report: str) -> dict[str, float]:
    """The share of blocks that `hq pipe` says went through the disk."""
    found = re.search(r"(\d+) of (\d+) blocks through the disk", report)
    return {"spilled": int(found[1]) / int(found[2])} if found else {}
