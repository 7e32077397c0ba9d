"""The backend that survives: an LMDB environment for each stream, ``<stream>.lmdb/``."""

from hq_backends.lmdb.backend import LmdbBackend
from hq_core.hookspecs import hookimpl
from hq_core.protocols import OverflowBackend

__all__ = ["LmdbBackend"]


@hookimpl
def hq_register_backends() -> list[type[OverflowBackend]]:
    """Offer `LmdbBackend` under the name ``lmdb``."""
    return [LmdbBackend]
