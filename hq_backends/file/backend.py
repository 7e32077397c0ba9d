"""The specified overflow file: appended at one end, read anywhere, given back at the other.

What is written is written in this order, so that a crash between any two calls is harmless:

- The data, then (``fsync="always"``) its flush, then the caller hears that it is stored.
- Drained: the data is truncated, then the position is reset, and only then is more appended.
- Consumed: the position is written (and flushed, unless ``fsync="never"``), then a hole punched.
- Closed for good: both files are truncated, then removed.

An exception between any two calls is harmless too: what the log is changes in one assignment, see
`hq_backends.file.log`.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Final, get_args

from typing_extensions import override

from hq_backends.file.damage import Damages
from hq_backends.file.files import DataFile, Sidecar, next_hole
from hq_backends.file.log import Log
from hq_backends.file.notes import Notes
from hq_backends.file.opening import look
from hq_backends.file.reader import Reader
from hq_backends.file.space import Space
from hq_backends.file.tools import FileTools
from hq_backends.file.writer import Fsync, Writer
from hq_core.capabilities import Capability
from hq_core.errors import BackendError, CorruptedData
from hq_core.protocols import API_VERSION, OverflowBackend, Stream
from hq_core.stats import RecoveryReport

__all__ = ["FileBackend"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

_TRUNCATE_FROM: Final = 1 * MIB
"""Size from which a drained file is truncated if that takes flushing, as it does with `fsync`."""


class FileBackend(OverflowBackend):
    """``<stream>.overflow``: the records of one stream, each behind its 4-byte length.

    ``<stream>.overflow.pos`` beside it tells where the records begin that are not done.

    Parameters
    ----------
    read_ahead
        Bytes read at once, 64 KiB to 1 MiB.
    fsync
        What survives power loss: what the system happened to write (``"never"``), all but the last
        `fsync_interval` seconds (``"interval"``), everything stored (``"always"``: each append
        waits for the disk). What was stored survives the death of the process in any case.
    fsync_interval
        Seconds, 0.001 to 3600.
    checksum
        Write the format with checksums (`hq_backends.file.checked`), in which damage is noticed. An
        existing file keeps the format it has until it is begun anew.
    """

    name: ClassVar[str] = "file"
    api_version: ClassVar[int] = API_VERSION
    capabilities: ClassVar[Capability] = (
        Capability.DURABLE | Capability.CRASH_SAFE | Capability.POWER_SAFE
    )
    tools: ClassVar[FileTools] = FileTools()
    recovered: RecoveryReport

    def __init__(
        self,
        stream: Stream,
        *,
        read_ahead: int = 64 * KIB,
        fsync: Fsync = "never",
        fsync_interval: float = 0.1,
        checksum: bool = False,
    ) -> None:
        _check_options(read_ahead, fsync, fsync_interval, checksum)
        self._fsync = fsync
        flushing = fsync != "never"
        path = stream.directory / f"{stream.file_name}.overflow"
        self._data = data = DataFile(path, stream.dir_fd)
        self._sidecar = Sidecar(path.with_name(f"{path.name}.pos"), stream.dir_fd)
        self._reader = reader = Reader(data, read_ahead)
        self._log = log = Log(reader)
        self._notes = notes = Notes(log, data, self._sidecar, reader, flushing=flushing)
        self._space = space = Space(log, data, notes, reader, stream.tell, flushing=flushing)
        self._damages = Damages(stream, log, data, self._sidecar, notes, reader, space)
        self._writer = Writer(
            log,
            data,
            self._sidecar,
            notes,
            reader,
            space,
            self._damages,
            fsync=fsync,
            interval=fsync_interval,
            checksum=checksum,
        )
        try:
            self.recovered = self._recover(stream)
            if self._writer.flusher is not None:
                self._writer.flusher.start()
        except BaseException:
            self._close_files()
            raise

    # ---- the seam ----------------------------------------------------------------------------

    @override
    def append(self, records: Sequence[bytes]) -> None:
        """Write `records` at the end: one `pwritev` for up to 256 of them, undone if it fails."""
        self._writer.append(records)
        if self._log.astray:
            self._regain()

    @override
    def read(self, skip: int, max_records: int, max_bytes: int) -> list[bytes]:
        """Take records out of the block read ahead, reading another when it is used up."""
        log = self._log
        head, tail, count, _ = log.extent
        most = min(max_records, count - skip)
        if most <= 0:
            return []
        ends, form = log.ends, log.form
        try:
            if skip > len(ends) or head < log.uncounted_to or (ends and ends[0] <= head):
                start = log.find(skip)
            else:
                start = ends[skip - 1] if skip else head
            records = self._reader.read(form, start, tail, most, max_bytes)
        except CorruptedData as damage:
            damage.with_traceback(None)  # lets go of the record that was read
            self._damages.set_aside(min(skip, len(ends)), damage)
        header, end = form.header_bytes, start
        found = [end := end + header + len(record) for record in records]
        if not all(records) and not form.seed:
            self._drop_lost(skip, start, records, found)
            end = found[-1]
        if skip + len(records) == count and end != tail and log.after_voids(end) != tail:
            self._damages.miscounted(skip)
        if skip < len(ends):
            del found[: len(ends) - skip]
        ends.extend(found)
        return records

    @override
    def trim(self, count: int) -> None:
        """Truncate the file once it is drained; until then punch holes into its consumed prefix.

        Finds where unread records end by walking their headers. Raises `CorruptedData` if one of
        those is damaged; it stays where it is until `read` meets it. Raises `ValueError` for more
        than `depth`.
        """
        log = self._log
        if count > log.extent[2]:
            raise ValueError(f"{count} records to trim, {log.extent[2]} are there")
        if not count:
            return
        extent = log.without(count)
        if not extent[2] and (self._fsync == "never" or extent[1] >= _TRUNCATE_FROM):
            if log.owed_to and not self._damages.paid():
                self._damages.all_aside()
            else:
                self._writer.empty()
            return
        self._notes.move(extent)
        log.drop_done()
        if log.astray:
            self._regain()
        if not log.owed_to:
            self._space.give_back()

    @override
    def sync(self) -> None:
        """Flush the data, and where it begins, to the disk. Raises `BackendError` if others have
        done something to the file, and what is stored cannot be kept."""
        if self._data.fd >= 0:
            if self._log.untidy:
                self._writer.undo()
            self._data.flush()
            self._log.committed = self._log.extent[1]
            self._notes.place()
            if self._log.astray:
                self._space.regain()
                self._data.flush()
            self._sidecar.flush()

    @override
    def depth(self) -> int:
        """Number of records in the log."""
        return self._log.extent[2]

    @override
    def size_bytes(self) -> int:
        """Bytes from the oldest record to the end of the file, without the voids in between."""
        head, tail, _, voids = self._log.extent
        return tail - head - voids

    @override
    def cost(self, records: Sequence[bytes]) -> int:
        """Bytes of `records` with their headers, in the format of the file or of the next one."""
        return sum(map(len, records)) + self._writer.format().header_bytes * len(records)

    @override
    def close(self, *, delete: bool) -> None:
        """Close the files, and remove them if nothing of them is to be kept."""
        if self._writer.flusher is not None:
            self._writer.flusher.stop()
        try:
            if delete or not self._log.extent[2]:
                if self._log.owed_to and not self._damages.paid():
                    self._damages.all_aside()
                self._data.empty()
                self._sidecar.empty()
                self._space.clean()
                self._sidecar.remove()
                self._data.remove()
            elif self._data.fd >= 0:  # else it was closed by a call that was interrupted
                if self._log.untidy:
                    self._writer.undo()
                if self._fsync != "never":
                    self.sync()
                else:
                    self._notes.place()
                    if self._log.astray:
                        self._space.regain()
        finally:
            self._close_files()

    # ---- opening and closing -----------------------------------------------------------------

    def _recover(self, stream: Stream) -> RecoveryReport:
        self._space.finish()
        found = look(stream, self._data, self._sidecar)
        self._space.clean()
        if found is None:
            return self._begin(0)
        if not found.holds_something:
            return self._begin(found.torn)
        if stream.leftover == "quarantine":
            return self._damages.all_at_opening(found.size, "leftover='quarantine'")
        if found.damage and not found.records:
            return self._damages.all_at_opening(found.size, found.damage[0].reason)
        log, noted = self._log, found.noted
        log.form = found.form
        log.committed = min(noted.committed, found.end) if noted else 0
        log.uncounted_to = found.voids_to
        log.holes_to = 0 if found.unwalked else found.end
        log.extent = (found.head, found.end, found.records, found.voids)
        log.misplaced = True
        return self._damages.at_opening(found)

    def _begin(self, torn: int) -> RecoveryReport:
        """Without what there is: nothing of use."""
        self._sidecar.remove()
        self._data.empty()
        self._data.remove()
        return RecoveryReport(torn_bytes=torn)

    def _regain(self) -> None:
        """Make good what others have done to the file, if that can be; else `sync` tells of it."""
        with suppress(OSError, BackendError):
            self._space.regain()

    def _drop_lost(self, skip: int, start: int, records: list[bytes], ends: list[int]) -> None:
        """Drop from `records`, which begin at `start`, those that are empty for want of data: the
        file has a hole there, as behind a place where somebody has cut it, and so do those after.

        Raises `CorruptedData` if the first is such.
        """
        fd, holes_to = self._data.fd, self._log.holes_to
        if next_hole(fd, max(start, holes_to)) >= ends[-1]:
            return
        first = number = 0  # of the empty ones that follow one another
        for number, (record, end) in enumerate(zip(records, ends, strict=True)):
            if record:
                first = number + 1
            elif end > holes_to and next_hole(fd, end - self._log.form.header_bytes) < end:
                break
        else:
            return
        if not first:
            reason = f"a hole at byte {start}, where a record was"
            self._damages.set_aside(skip, CorruptedData(reason))
        del records[first:], ends[first:]

    def _close_files(self) -> None:
        self._data.close()
        self._sidecar.close()


def _check_options(read_ahead: int, fsync: str, fsync_interval: float, checksum: bool) -> None:
    if not isinstance(read_ahead, int) or not 64 * KIB <= read_ahead <= MIB:
        raise ValueError(f"read_ahead must be 65536 to 1048576 bytes, not {read_ahead!r}")
    if fsync not in get_args(Fsync):
        raise ValueError(f"fsync must be 'never', 'interval' or 'always', not {fsync!r}")
    is_number = isinstance(fsync_interval, (int, float)) and not isinstance(fsync_interval, bool)
    if not is_number or not 0.001 <= fsync_interval <= 3600:
        raise ValueError(f"fsync_interval must be 0.001 to 3600 seconds, not {fsync_interval!r}")
    if not isinstance(checksum, bool):
        raise ValueError(f"checksum must be True or False, not {checksum!r}")
