"""What the command itself refuses."""

__all__ = ["CommandError"]


class CommandError(Exception):
    """The command cannot do what was asked; the message says why and what to do instead.

    Shown as ``hq: error: ...``, exit status 1. Not `HybridQueueError`, which is the library's.
    """
