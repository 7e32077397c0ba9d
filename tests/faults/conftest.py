"""What the tests here share: the shim, compiled once, and fork servers that use it."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults import shim
from tests.faults.forkserver import ForkServer

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, ready to be preloaded."""
    if shim.compiler() is None:
        pytest.skip("there is no C compiler, and the shim has to be compiled")
    target = tmp_path_factory.mktemp("shim") / "shim.so"
    shim.build(target)
    return target


def spool() -> "tempfile.TemporaryDirectory[str]":
    """A directory that goes away, in memory if possible."""
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    return tempfile.TemporaryDirectory(dir=parent)


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty one, in memory if possible."""
    with spool() as name:
        yield Path(name)


@pytest.fixture(scope="session")
def server(library: Path) -> Iterator[ForkServer]:
    """A fork server with the library as it is."""
    with spool() as directory, ForkServer(library, Path(directory)) as server:
        yield server


@pytest.fixture
def planted(library: Path) -> Iterator[Callable[[str], ForkServer]]:
    """Starts a fork server with a bug planted in the library."""
    with ExitStack() as stack:

        def start(bug: str) -> ForkServer:
            directory = stack.enter_context(spool())
            return stack.enter_context(ForkServer(library, Path(directory), bug))

        yield start
