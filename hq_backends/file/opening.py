"""Looking at what an earlier owner left, as the queue's `leftover` and `on_corruption` say."""

from hq_backends.file import recovery
from hq_backends.file.files import DataFile, Sidecar
from hq_core.errors import CorruptedData, StreamBusyError
from hq_core.protocols import Stream

__all__ = ["look"]


def look(stream: Stream, data: DataFile, sidecar: Sidecar) -> recovery.Survey | None:
    """Open the files if they are there, and find out what is in them. None: nothing of use.

    Changes nothing. Raises `StreamBusyError` and `CorruptedData`, as `stream` demands,
    `BackendError` for files that cannot be ours, and `OSError`.
    """
    size = data.size() if data.open() else 0
    positions = sidecar.read() if sidecar.open() else None
    if not size or stream.leftover == "discard":
        return None
    found = recovery.find(data, positions)
    if found.holds_something and stream.leftover == "refuse":
        raise StreamBusyError(
            f"{data.path} holds {found.records} records of an earlier owner: open it with "
            "leftover='resume', or move it away"
        )
    if found.damage and stream.leftover == "resume" and stream.on_corruption == "raise":
        damage = found.damage[0]
        raise CorruptedData(f"{data.path}, at byte {damage.offset}: {damage.reason}")
    return found
