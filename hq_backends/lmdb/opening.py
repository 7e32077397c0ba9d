"""What becomes of what an earlier owner left: `Stream.leftover` and `Stream.on_corruption`."""

from typing import Final

import lmdb

from hq_backends.lmdb import recovery
from hq_backends.lmdb.datafile import OUT_OF_SPACE
from hq_backends.lmdb.environment import Environment
from hq_backends.lmdb.records import Span
from hq_backends.lmdb.salvage import set_aside
from hq_core.errors import CorruptedData, QueueFull, StreamBusyError
from hq_core.protocols import Stream
from hq_core.stats import RecoveryReport

__all__ = ["take_over"]

_NOTHING: Final = Span(0, 0, 0)


def take_over(env: Environment, stream: Stream) -> tuple[Span, RecoveryReport]:
    """The log to go on with, and what to report of it.

    Raises `StreamBusyError`, `CorruptedData`, and `BackendError` on what is not the backend's.
    """
    size = recovery.leftover_bytes(env.file)
    if not size:
        return _NOTHING, RecoveryReport()
    if stream.leftover == "discard":
        env.empty()
        return _NOTHING, RecoveryReport()
    found = recovery.survey(env.file)
    if not found.damage and not found.span.records:
        env.empty()
        return _NOTHING, RecoveryReport()
    if stream.leftover == "refuse":
        damaged = f"damaged records ({found.damage})"
        what = damaged if found.damage else f"{found.span.records} records"
        raise StreamBusyError(
            f"{env.file.shown} holds {what} of an earlier owner: open it with "
            "leftover='resume', or move it away"
        )
    if stream.leftover == "quarantine":
        aside = stream.quarantine_path("lmdb")
        env.move_aside(aside)
        reason = found.damage or "leftover='quarantine'"
        return _NOTHING, RecoveryReport(quarantined_bytes=size, quarantine=aside, reason=reason)
    if found.damage:
        return _before_damage(env, stream, found.damage, size)
    span = found.span
    return span, RecoveryReport(records=span.records, size_bytes=span.tail - span.head)


def _before_damage(
    env: Environment, stream: Stream, damage: str, size: int
) -> tuple[Span, RecoveryReport]:
    """Keep the whole records before the damage, and move the file aside."""
    what = f"{env.file.shown} is damaged: {damage}"
    if stream.on_corruption == "raise":
        raise CorruptedData(
            f"{what}; restore it, move it away, or open it with on_corruption='quarantine'"
        )
    try:
        aside = stream.quarantine_path("lmdb")
        kept = set_aside(env, aside, None)
    except (QueueFull, lmdb.Error, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno not in OUT_OF_SPACE:
            raise  # the disk's trouble, not the data's
        raise CorruptedData(f"{what}; it cannot be moved aside: {exc}") from exc
    report = RecoveryReport(
        records=kept.records,
        size_bytes=kept.tail - kept.head,
        quarantined_bytes=size,
        quarantine=aside,
        reason=damage,
    )
    return kept, report
