"""A spool directory, held by descriptor from opening to closing.

Whatever becomes of its name, files are opened, renamed and removed in the directory that was
opened: after `chdir`, a renamed directory, or a symbolic link that points elsewhere by now.
"""

import os
from pathlib import Path
from typing import Any, Self

from hq_core.protocols import Stream
from hq_core.spool.names import file_name

__all__ = ["Directory"]


class Directory:
    """The directory at `path`, which exists. Raises `OSError`. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        """Its name when it was opened; for people, and for stores that only take names."""
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @property
    def held(self) -> Path:
        """A name that leads to it whatever becomes of `path`, for code that only takes names."""
        return Path(f"/proc/self/fd/{self.fd}")

    def stream(self, stream_id: str, **fields: Any) -> Stream:
        """What a backend for `stream_id` is opened with; `fields` are more fields of `Stream`."""
        return Stream(stream_id, file_name(stream_id), self.path, self.fd, **fields)

    def close(self) -> None:
        """Let go of it. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
