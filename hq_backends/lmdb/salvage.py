"""Moving a damaged file aside: the log goes on with the whole records before the damage.

They are read by `pages`, not by LMDB, which ends the process on a damaged page, and copied to a new
file. Whatever fails before the two change places has changed nothing.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from hq_backends.lmdb import records as log
from hq_backends.lmdb.environment import Environment
from hq_backends.lmdb.kept import note
from hq_backends.lmdb.pages import Node, Pages
from hq_core.errors import BackendError

__all__ = ["set_aside"]

_BATCH_BYTES: Final = 512 * 1024
_BATCH_RECORDS: Final = 1000


def set_aside(env: Environment, target: Path, most: int | None) -> log.Span:
    """Move the file of `env` to the directory `target`, keeping its oldest whole records.

    Those before the first that is damaged, at most `most` of them, at the offsets they have; what
    they are is returned, and noted beside the file. Raises `OSError`, `lmdb.Error`, `BackendError`,
    and `QueueFull` if they have no room.
    """
    env.close()
    env.file.finish()
    new = env.beside()
    try:
        _copy_whole(env.file.fd, most, new)
        kept = new.read(log.span) if new.is_there() else log.Span(0, 0, 0)
        noted = note(env.file.fd, kept) if kept.records else b""
    except BaseException:
        env.file.finish()
        raise
    finally:
        new.close()
    env.move_aside(target, noted)
    return kept


def _copy_whole(fd: int, most: int | None, new: Environment) -> None:
    """In memory for 1 MiB, or a record."""
    with suppress(BackendError):  # pages that are not known, or not there
        pages = Pages(fd)
        for batch in _batches(islice(_whole(pages), most)):
            _copy(pages, batch, new)


def _whole(pages: Pages) -> Iterator[Node]:
    """Up to the first that is damaged, or does not begin where the one before it ends."""
    end = None
    for node in pages.nodes():
        if not isinstance(node, Node) or end not in (None, node.key):
            return
        end = node.end
        yield node


def _batches(nodes: Iterator[Node]) -> Iterator[list[Node]]:
    batch: list[Node] = []
    size = 0
    for node in nodes:
        if batch and (size + node.size > _BATCH_BYTES or len(batch) == _BATCH_RECORDS):
            yield batch
            batch, size = [], 0
        batch.append(node)
        size += node.size
    if batch:
        yield batch


def _copy(pages: Pages, batch: list[Node], new: Environment) -> None:
    offsets = [node.key for node in batch]
    records = [pages.payload(node) for node in batch]
    new.add(lambda txn: log.put_at(txn, offsets, records), log.cost(records))
