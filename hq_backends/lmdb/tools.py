"""Reading what a stream left, without owning it: `SpoolTools` for LMDB environments.

Each key tells where its record begins in the log, so each record has to end where the next one
begins. Where two do not meet, the one that does not fit to what follows it is damaged.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from typing_extensions import override

from hq_backends.lmdb import kept, recovery
from hq_backends.lmdb.pages import Node, Pages
from hq_core.errors import BackendError
from hq_core.protocols import SpoolTools
from hq_core.stats import Damage, Inspection

__all__ = ["LmdbTools"]

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LmdbTools(SpoolTools):
    """``<stream>.lmdb/data.mdb``, opened for reading and never by LMDB itself."""

    suffix = ".lmdb/data.mdb"
    companions = (kept.SUFFIX,)

    @override
    def inspect(self, path: Path) -> Inspection:
        """See `SpoolTools`; walks the tree."""
        head = tail = records = 0
        with _pages(path) as (pages, count, _):
            for node in _after(pages.nodes(), count):
                if isinstance(node, Node):
                    head, tail = head if records else node.key, node.end
                    records += 1
            return Inspection(
                format="lmdb",
                records=records,
                size_bytes=max(tail - head, 0),
                head=head,
                tail=tail,
                damage=pages.problem,
            )

    @override
    def salvage(self, path: Path) -> Iterator[bytes | Damage]:
        """See `SpoolTools`."""
        told = False
        with _pages(path) as (pages, count, end):
            if pages.problem:
                told = True
                yield Damage(0, 0, pages.problem)
            for found in _fitting(_after(pages.nodes(), count), end):
                if isinstance(found, Damage):
                    told = True
                    yield found
                else:
                    yield pages.payload(found)
            problem = recovery.problem(path) if pages.size and not told else ""
        if problem:  # of no record's, and yet LMDB must not be let near it
            yield Damage(0, 0, problem)


def _after(nodes: Iterator[Node | Damage], count: int) -> Iterator[Node | Damage]:
    """Without the first `count` records: the log has gone on with them, they are not set aside."""
    for node in nodes:
        if count and isinstance(node, Node):
            count -= 1
        else:
            yield node


def _fitting(nodes: Iterator[Node | Damage], end: int | None) -> Iterator[Node | Damage]:
    """The nodes that prove right, by the two that follow each; `end`: of the last one before."""
    ahead: list[Node | Damage] = []
    while True:
        while len(ahead) < 3 and (node := next(nodes, None)) is not None:
            ahead.append(node)
        if not ahead:
            return
        one = ahead.pop(0)
        if isinstance(one, Damage):
            end = None
            yield one
            continue
        if end is not None and one.key != end:
            yield Damage(one.at, 0, f"the record at {end} in the log is missing")
            if not _meets(one, ahead[:1]):
                end = None
                continue
        elif _is_wrong(one, ahead):
            yield Damage(one.at, one.size, f"the record at {one.key} in the log is not whole")
            end = None
            continue
        end = one.end
        yield one


def _meets(node: Node, following: list[Node | Damage]) -> bool:
    """Whether `node` ends where the next one begins."""
    return any(isinstance(other, Node) and node.end == other.key for other in following)


def _is_wrong(node: Node, following: list[Node | Damage]) -> bool:
    """Whether it is `node` that is wrong, not the next one, if the two do not meet."""
    other = following[0] if following else None
    if not isinstance(other, Node) or node.end == other.key:
        return False
    if len(following) > 1 and isinstance(following[1], Node):
        return _meets(other, following[1:])
    return node.is_long or abs(node.end - other.key) == 1  # lengths that the page does not show


@contextmanager
def _pages(path: Path) -> Iterator[tuple[Pages, int, int | None]]:
    """Its pages; how many records were kept when it was moved aside, and where they end."""
    fd = os.open(path, _READ)
    try:
        yield Pages(fd), *kept.read(path, fd)
    except BackendError as exc:
        raise BackendError(f"{path}: {exc}") from exc
    finally:
        os.close(fd)
