"""What an overflow backend promises about the records it keeps."""

import enum

__all__ = ["Capability"]


class Capability(enum.Flag):
    """Promises about appended records, declared once by the backend class.

    The queue refuses options that need a promise the backend does not make, the conformance
    suite tests exactly the promises made, and the documentation's table is built from them.
    A backend promises nothing unless it says so.
    """

    NONE = 0
    DURABLE = enum.auto()
    """Records kept by ``close(delete=False)`` are there, in order, after reopening."""
    CRASH_SAFE = enum.auto()
    """Appended records survive the death of the process, at any instruction."""
    POWER_SAFE = enum.auto()
    """Appended records survive power loss once ``sync()`` has returned."""
    SHARED = enum.auto()
    """The store can be opened from another machine. Whoever opened last is the only owner, and the
    one before is told (`Stream.on_lost`, `StreamLostError`)."""
