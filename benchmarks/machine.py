"""What was measured where."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from benchmarks.peers import PEERS

__all__ = ["describe", "versions"]


def describe(directory: Path) -> dict[str, str | int]:
    """The machine, and the file system that `directory` is on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    """The versions of all peers that are installed."""
    found = {}
    for package in sorted({peer.package for peer in PEERS.values() if peer.package}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    try:
        said = subprocess.run(["mbuffer", "--version"], capture_output=True, text=True, check=False)
        found["mbuffer"] = (said.stdout + said.stderr).split()[2]
    except FileNotFoundError:
        pass
    return found


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type of the file system that is mounted nearest above `directory`."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    above = [mount for mount in mounts if directory.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]
