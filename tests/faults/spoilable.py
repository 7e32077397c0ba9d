"""A backend whose records turn out to be damaged when a test says so."""

from typing_extensions import override

from hq_core import CorruptedData
from hq_core.testing import MemoryBackend

__all__ = ["Spoilable"]


class Spoilable(MemoryBackend):
    """Sets damaged records aside, as the seam demands with ``on_corruption="quarantine"``."""

    spoiled = False
    """Whether the next read finds everything that is stored damaged."""

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Records from number `skip` on; if they are damaged, nothing, and all of them are gone."""
        spoiled, self.spoiled = self.spoiled, False
        if spoiled and self.depth() > skip:
            del self._records[skip:]
            raise CorruptedData("damaged on order")
        return super().read(skip, max_records, max_bytes)
