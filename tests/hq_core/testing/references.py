"""`MemoryBackend` with what the suite tests only where a backend can do it."""

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from hq_core.capabilities import Capability
from hq_core.errors import CorruptedData, StreamLostError
from hq_core.protocols import Stream
from hq_core.testing import MemoryBackend

__all__ = ["Damageable", "Shared"]


class Damageable(MemoryBackend):
    """A reading that meets a damaged record forgets it, unless it is to be left where it is."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._keeps = stream.on_corruption == "raise"
        self._damaged: list[bytes] = []

    def damage(self, number: int) -> None:
        """Record `number` cannot be read any more."""
        self._damaged.append(self._records[number])

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        found = super().read(skip, max_records, max_bytes)
        bad = [number for number, record in enumerate(found) if record in self._damaged]
        if not bad:
            return found
        if bad[0] == 0:
            if not self._keeps:
                del self._records[skip]
            raise CorruptedData(f"record {skip} is damaged")
        return found[: bad[0]]


class Shared(MemoryBackend):
    """Two may have the same stream open, and the later one has it."""

    capabilities: ClassVar[Capability] = Capability.DURABLE | Capability.SHARED
    owners: ClassVar[dict[object, "Shared"]] = {}

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._stream = stream
        self._lost = False
        before = self.owners.get(self._path)
        if before is not None:
            self._records = before.give_up()
        self.owners[self._path] = self

    def give_up(self) -> list[bytes]:
        """Another owner has it: what is stored, and this one is told."""
        records, self._records, self._lost = self._records, [], True
        self.tell()
        return records

    def tell(self) -> None:
        """The owner before hears of it."""
        self._stream.on_lost(StreamLostError("another owner has it"))

    def _check(self) -> None:
        if self._lost:
            raise StreamLostError("another owner has it")

    @override
    def append(self, records: Sequence[bytes]) -> None:
        self._check()
        super().append(records)

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        self._check()
        return super().read(skip, max_records, max_bytes)

    @override
    def trim(self, count: int) -> None:
        self._check()
        super().trim(count)

    @override
    def close(self, *, delete: bool) -> None:
        if self.owners.get(self._path) is self:
            del self.owners[self._path]
        super().close(delete=delete)
