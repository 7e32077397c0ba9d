"""Taking over what an earlier owner left, as the queue's `leftover` and `on_corruption` say."""

import errno
from dataclasses import dataclass
from typing import Final

from hq_backends.file import recovery
from hq_backends.file.aside import move_aside, move_part_aside
from hq_backends.file.files import DataFile, Sidecar
from hq_backends.file.format import Format
from hq_core.errors import CorruptedData, StreamBusyError
from hq_core.protocols import Stream
from hq_core.stats import RecoveryReport

__all__ = ["OUT_OF_SPACE", "TakenOver", "take_over"]

OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class TakenOver:
    """Where a backend goes on."""

    report: RecoveryReport
    form: Format
    """The format of the file."""
    head: int
    """Offset of the first record."""
    tail: int
    """Offset behind the last record, the end of the file."""
    committed: int
    """Offset up to which the data is known to be on the disk."""
    voids: int
    """Bytes between the records that hold none."""
    voids_to: int
    """There are none of these from here on."""


def take_over(
    stream: Stream, data: DataFile, sidecar: Sidecar, boot: bytes
) -> TakenOver | RecoveryReport:
    """Open the files if they are there, and see to it that they hold whole records or are gone.

    A mere report: they are gone. Raises `StreamBusyError`, `CorruptedData`, `BackendError` and
    `OSError`, having changed nothing.
    """
    size = data.size() if data.open() else 0
    noted = sidecar.read() if sidecar.open() else None
    blank = noted is None and sidecar.fd >= 0
    if not size or stream.leftover == "discard":
        return _nothing(data, sidecar)
    form, noted = recovery.holding(data.inode(), recovery.format_of(data.fd), noted)
    found = recovery.find(data.fd, size, form, noted, boot, blank=blank)
    rest = size - found.end
    if not (found.records or found.damage) and rest < form.header_bytes:
        return _nothing(data, sidecar, found.torn)
    if stream.leftover == "refuse":
        raise StreamBusyError(
            f"{data.path} holds {found.records} records of an earlier owner: open it with "
            "leftover='resume', or move it away"
        )
    if stream.leftover == "quarantine":
        return _set_all_aside(stream, data, sidecar, size, "leftover='quarantine'")
    if found.damage and stream.on_corruption == "raise":
        raise CorruptedData(f"{data.path}, at byte {found.end}: {found.damage}")
    if found.damage and not found.records:
        return _set_all_aside(stream, data, sidecar, size, found.damage)
    committed = min(noted.committed, found.end) if noted and noted.seed == form.seed else 0
    report = _keep_whole(stream, data, found, size, form)
    return TakenOver(report, form, found.head, found.end, committed, found.voids, found.voids_to)


def _keep_whole(
    stream: Stream, data: DataFile, found: recovery.Survey, size: int, form: Format
) -> RecoveryReport:
    """Cut what is behind the whole records, having moved it aside if it is more than nothing."""
    rest, aside = size - found.end, None
    if rest >= form.header_bytes:
        try:
            aside = move_part_aside(stream, data.fd, found.end, size)
        except OSError as exc:  # on a full disk, what nobody was told of is not worth failing for
            if found.damage or exc.errno not in OUT_OF_SPACE:
                raise
    if rest:
        data.cut(found.end)
    return RecoveryReport(
        records=found.records,
        size_bytes=found.end - found.head - found.voids,
        torn_bytes=found.torn,
        quarantined_bytes=rest if aside else 0,
        quarantine=aside,
        reason=found.damage or (found.why_torn if aside else ""),
    )


def _nothing(data: DataFile, sidecar: Sidecar, torn: int = 0) -> RecoveryReport:
    data.delete()
    sidecar.delete()
    return RecoveryReport(torn_bytes=torn)


def _set_all_aside(
    stream: Stream, data: DataFile, sidecar: Sidecar, size: int, reason: str
) -> RecoveryReport:
    aside = move_aside(stream, data, sidecar)
    return RecoveryReport(quarantined_bytes=size, quarantine=aside, reason=reason)
