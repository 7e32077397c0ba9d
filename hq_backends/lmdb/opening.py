"""What becomes of what an earlier owner left: `Stream.leftover` and `Stream.on_corruption`."""

from typing import Final

from hq_backends.lmdb import recovery
from hq_backends.lmdb.datafile import OUT_OF_SPACE
from hq_backends.lmdb.environment import Environment, errno_of
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
    env.file.find()
    env.file.new.find()
    left = env.file if env.file.size() else env.file.new  # a replacement may have been cut short
    size = left.size()
    if not size or stream.leftover == "discard":
        env.file.finish()
        env.empty()
        return _NOTHING, RecoveryReport()
    found = recovery.survey(left)
    if not found.damage and not found.span.records:
        env.file.finish()
        env.empty()
        return _NOTHING, RecoveryReport()
    if stream.leftover == "refuse":
        damaged = f"damaged records ({found.damage})"
        what = damaged if found.damage else f"{found.span.records} records"
        raise StreamBusyError(
            f"{env.file.shown} holds {what} of an earlier owner: open it with "
            "leftover='resume', or move it away"
        )
    if found.damage and stream.on_corruption == "raise" and stream.leftover == "resume":
        raise CorruptedData(
            f"{env.file.shown} is damaged: {found.damage}; restore it, move it away, or open it "
            "with on_corruption='quarantine'"
        )
    if found.damage and left is env.file and env.file.new.size():
        env.file.move_new_aside(stream.quarantine_path("lmdb").name)  # it may have more to give
    if left is env.file:
        env.file.finish()
    else:
        env.file.replace()
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
    """Keep the whole records before the damage, and move the file aside.

    Without room for a copy of them, the file goes aside with all that it has.
    """
    aside = stream.quarantine_path("lmdb")
    try:
        kept = set_aside(env, aside, None)
    except (QueueFull, OSError) as exc:
        cause = exc.__cause__ if isinstance(exc, QueueFull) else exc
        if errno_of(cause) not in OUT_OF_SPACE:
            raise  # the system's trouble, not the data's
        aside = stream.quarantine_path("lmdb")
        env.move_aside(aside)
        kept, damage = _NOTHING, f"{damage}; there was no room for a copy of what is whole"
    report = RecoveryReport(
        records=kept.records,
        size_bytes=kept.tail - kept.head,
        quarantined_bytes=size,
        quarantine=aside,
        reason=damage,
    )
    return kept, report
