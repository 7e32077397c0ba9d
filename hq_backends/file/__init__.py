"""The default backend: the specified length-prefixed file, ``<stream>.overflow``."""

from hq_backends.file.backend import FileBackend
from hq_core.hookspecs import hookimpl
from hq_core.protocols import OverflowBackend

__all__ = ["FileBackend"]


@hookimpl
def hq_register_backends() -> list[type[OverflowBackend]]:
    """Offer `FileBackend` under the name ``file``."""
    return [FileBackend]
