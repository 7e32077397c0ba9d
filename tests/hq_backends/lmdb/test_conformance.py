"""The conformance suite, with the options as they are and with each other choice of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import pytest

from hq_backends.lmdb import LmdbBackend
from hq_core.testing import BackendConformance

if TYPE_CHECKING:
    from lmdb import Transaction


def damage(backend: LmdbBackend, number: int) -> None:
    """Delete the record's key; it is there, so that the one after it begins after a gap."""

    def delete(txn: "Transaction[memoryview]") -> None:
        cursor = txn.cursor()
        cursor.first()
        for _ in range(number):
            cursor.next()
        cursor.delete()

    backend._env.remove(delete)


class TestLmdb(BackendConformance):
    backend = LmdbBackend
    damage = damage


@pytest.mark.slow
class TestLmdbSynced(BackendConformance):
    backend = LmdbBackend
    damage = damage
    options: ClassVar[Mapping[str, object]] = {"sync": True, "map_size": 262_144}


@pytest.mark.slow
class TestLmdbWritableMap(BackendConformance):
    backend = LmdbBackend
    damage = damage
    options: ClassVar[Mapping[str, object]] = {"writemap": True}
