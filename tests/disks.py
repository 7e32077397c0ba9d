"""Disks of a test's own: one that is soon full, and one whose power can be cut."""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

__all__ = ["MIB", "LoopDisk", "loop_disk", "small_disk"]

MIB: Final = 1024 * 1024

_MAKE: Final = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"], 64 * MIB),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320 * MIB),  # mkfs.xfs makes none below 300 MiB
}
"""How to make a file system, and how large."""
_SHUT_DOWN: Final = 0x8004587D
"""``EXT4_IOC_SHUTDOWN`` and ``XFS_IOC_GOINGDOWN``, which are the same number."""
_LOSE_THE_LOG: Final = struct.pack("I", 2)
"""What has not reached the disk, the journal included, never will: ``NOLOGFLUSH``."""


@contextmanager
def small_disk(directory: Path, size: int) -> Iterator[None]:
    """Mount a file system of `size` bytes at `directory`; skips the test if that is forbidden."""
    _mount("-t", "tmpfs", "-o", f"size={size}", "none", str(directory))
    try:
        yield
    finally:
        _unmount(directory)


class LoopDisk:
    """A file system in a file, mounted at `directory`, whose power can be cut.

    `mounts` is how often it was mounted: a machine would have been started as often.
    """

    def __init__(self, kind: str, image: Path, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.mounts = 0
        self._image = image

    def mount(self) -> None:
        """Mount it; the file system repairs itself from its journal, if need be."""
        _mount("-t", self.kind, "-o", "loop", str(self._image), str(self.directory))
        self.mounts += 1

    def unmount(self) -> None:
        """Unmount it, and let go of the loop device. Nobody may have a file open."""
        _unmount(self.directory)

    def cut_power(self) -> None:
        """From now on nothing reaches the disk; every call on a file of it fails."""
        assert self.directory.stat().st_dev != self.directory.parent.stat().st_dev, "not mounted"
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SHUT_DOWN, _LOSE_THE_LOG)
        finally:
            os.close(fd)


@contextmanager
def loop_disk(kind: str, directory: Path) -> Iterator[LoopDisk]:
    """Make a disk with an ext4 or xfs file system, mounted below `directory`, and remove it.

    Skips the test where there is no such thing, or it is not permitted.
    """
    command, size = _MAKE[kind]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    image, where = directory / f"{kind}.image", directory / kind
    where.mkdir()
    image.touch()
    os.truncate(image, size)
    subprocess.run([*command, str(image)], check=True, capture_output=True)
    disk = LoopDisk(kind, image, where)
    disk.mount()
    try:
        _try_a_cut(disk)
        yield disk
    finally:
        if where.is_mount():
            _unmount(where)
        image.unlink()


def _try_a_cut(disk: LoopDisk) -> None:
    try:
        disk.cut_power()
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.ENOTTY, errno.EOPNOTSUPP}:
            raise
        pytest.skip(f"cutting the power of {disk.kind} is not permitted here: {exc.strerror}")
    disk.unmount()
    disk.mount()


def _mount(*arguments: str) -> None:
    if os.geteuid():
        pytest.skip("only root may mount")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


def _unmount(directory: Path) -> None:
    if subprocess.run(["umount", str(directory)], capture_output=True, check=False).returncode:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)  # a test has failed
