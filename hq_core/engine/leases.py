"""Leases: items that are handed out on condition."""

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol

from hq_core.engine.in_flight import Run
from hq_core.errors import HybridQueueError, ReentrantCallError

__all__ = ["LEASE_SECONDS", "Lease"]

LEASE_SECONDS: Final = 300.0
"""Seconds after which the items of a lease are given back, unless it was asked for otherwise."""


class Lessor(Protocol):
    """Whose items they are."""

    def end_lease(self, runs: Sequence[Run], *, done: bool) -> None: ...


class Lease:
    """Items taken from a queue and not yet done. Made by `lease` of a queue.

    As a context manager it gives its items to the block: they are done when the block is left, and
    given back to the front of the queue, in order, when it raises. Outside of a block, `ack` and
    `nack` do that. At its deadline what is still leased is given back.
    """

    def __init__(self, lessor: Lessor, seconds: float) -> None:
        self.items: list[bytes] = []
        """The items, oldest first."""
        self.seconds = seconds
        """For how long it was asked."""
        self.runs: list[Run] = []
        """Where they are in the queue's ledger."""
        self._lessor = lessor

    def ack(self) -> None:
        """The items are done. Once is enough; later calls do nothing.

        Raises `LeaseExpired` if the deadline has passed and another consumer has some of them:
        those come twice. In a durable queue that was closed meanwhile raises `QueueClosed`, and
        they come again when it is opened next.
        """
        self._end(done=True)

    def nack(self) -> None:
        """Give the items back, to the front of the queue, in order."""
        self._end(done=False)

    def _end(self, *, done: bool) -> None:
        try:
            self._lessor.end_lease(self.runs, done=done)
        except ReentrantCallError:
            raise
        except HybridQueueError:
            self.runs = []
            raise
        self.runs = []  # last: what was interrupted can be called again

    def __enter__(self) -> list[bytes]:
        return self.items

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.ack()
        else:
            self.nack()

    async def __aenter__(self) -> list[bytes]:
        return self.items

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __repr__(self) -> str:
        return f"<Lease of {len(self.items)} items>"
