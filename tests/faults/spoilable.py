"""A backend whose records turn out to be damaged when a test says so."""

from hq_core import CorruptedData
from hq_core.testing import MemoryBackend

__all__ = ["Spoilable"]


class Spoilable(MemoryBackend):
    """Sets damaged records aside, as the seam demands with ``on_corruption="quarantine"``."""

    spoiled = False
    """Whether the next read finds everything that is stored damaged."""

    def read(self, max_records: int, max_bytes: int) -> list[bytes]:
        """The next records; if they are damaged, nothing and all of them are gone."""
        spoiled, self.spoiled = self.spoiled, False
        if spoiled and self._unread:
            self._size -= sum(map(len, self._unread)) + len(self._unread) * self.record_overhead
            self._unread.clear()
            raise CorruptedData("damaged on order")
        return super().read(max_records, max_bytes)
