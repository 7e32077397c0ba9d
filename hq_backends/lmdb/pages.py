"""The pages of an LMDB 0.9 data file, read without LMDB, which ends the process on damaged ones.

A file is pages of one size; the first two are meta pages, the newer of which tells the root of the
tree. A leaf page lists nodes, filled from its end without a gap, so that a length that is wrong
shows, and costs that node. A value too long for a leaf is in pages of its own, the first of which
has a header.
"""

import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from struct import Struct
from typing import Final

from hq_backends.lmdb.records import KEY_BYTES
from hq_core.errors import BackendError
from hq_core.protocols import MAX_MESSAGE_BYTES
from hq_core.stats import Damage

__all__ = ["Node", "Pages"]

_ORDER: Final = "<" if sys.byteorder == "little" else ">"
_HEADER: Final = Struct(f"{_ORDER}QHHHH")
"""Page number, unused, flags, end of the list of nodes, start of the nodes."""
_EXTENT: Final = Struct(f"{_ORDER}QHHI")
"""The same of a long value, with its number of pages."""
_META: Final = Struct(f"{_ORDER}16xII16xI48xHHQQQQQQQ")
"""Magic, version, page size; of the tree: flags, depth, branch, leaf and long pages, entries, root;
last page, transaction."""
_META_OF_1_0: Final = Struct(f"{_ORDER}24xI")
_NODE: Final = Struct(f"{_ORDER}HHHH")
_POINTER: Final = Struct(f"{_ORDER}H")
_PAGE_NUMBER: Final = Struct(f"{_ORDER}Q")
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_BRANCH, _LEAF, _LONG, _IS_META = 1, 2, 4, 8
_LONG_VALUE: Final = 1
_NO_ROOT: Final = (1 << 64) - 1
_DEEPEST: Final = 32
_PAGE_SIZES: Final = {1 << bits for bits in range(9, 16)}


@dataclass(frozen=True, slots=True)
class Node:
    """A record as a leaf has it."""

    key: int
    """Where it begins in the log."""
    size: int
    """Bytes of its payload."""
    page: int
    """The page it is on."""
    at: int
    """Offset of its payload in the data file."""
    is_long: bool
    """Whether that is on pages of its own, where a length that is wrong does not show."""

    @property
    def end(self) -> int:
        """Where the next one begins in the log."""
        return self.key + KEY_BYTES + self.size


class _Damaged(Exception):
    """This page is not what it should be."""


@dataclass(frozen=True, slots=True)
class _Meta:
    page_size: int
    flags: int
    entries: int
    root: int
    last_page: int
    transaction: int


class Pages:
    """The newest state that the data file `fd` has; raises `BackendError` if it is not LMDB 0.9's.

    `entries` and `problem` are None and why, where no meta page is whole.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size
        self.problem = ""
        self.entries: int | None = 0
        self._meta: _Meta | None = None
        if self.size:
            self._pick()

    def _pick(self) -> None:
        if _META_OF_1_0.unpack_from(os.pread(self._fd, 28, 0).ljust(28, b"\0")) == (_MAGIC,):
            raise BackendError("the file is of LMDB 1.0, whose pages are not known here")
        first = self._read_meta(0, 0)
        page_size = first.page_size if first else mmap.PAGESIZE
        second = self._read_meta(page_size, 1)
        whole = [meta for meta in (first, second) if meta]
        if len(whole) < 2:
            self.problem = "a meta page is damaged: what is here may be the state before the last"
        if not whole:
            self.problem = "both meta pages are damaged"
            self.entries = None
            return
        self._meta = max(whole, key=lambda meta: meta.transaction)
        self.entries = self._meta.entries
        if self._meta.flags:
            self.problem = "its keys are in an order of their own"

    def _read_meta(self, at: int, number: int) -> _Meta | None:
        page = os.pread(self._fd, _META.size, at)
        if len(page) < _META.size:
            return None
        magic, version, page_size, flags, _, *_, entries, root, last, transaction = _META.unpack(
            page
        )
        own_number, _, kind, _, _ = _HEADER.unpack_from(page)
        if (magic, version, own_number) != (_MAGIC, _VERSION, number) or not kind & _IS_META:
            return None
        if page_size not in _PAGE_SIZES or (transaction and transaction % 2 != number):
            return None
        return _Meta(page_size, flags, entries, root, last, transaction)

    def nodes(self) -> Iterator[Node | Damage]:
        """The nodes of the tree, in the order of their keys, and the pages that have none to give.

        Every page is looked at once at most, however the pages point at one another.
        """
        meta = self._meta
        if meta is None or meta.root == _NO_ROOT:
            return
        seen = bytearray(self.size // meta.page_size + 1)
        todo = [(meta.root, 0)]
        while todo:
            number, depth = todo.pop()
            try:
                page, kind, pointers = self._page(meta, number, seen)
                if kind == _BRANCH:
                    if depth == _DEEPEST:
                        raise _Damaged("the tree is too deep")
                    children = self._children(page, pointers)
                    todo += [(child, depth + 1) for child in reversed(children)]
                else:
                    yield from self._leaf(meta, number, page, pointers)
            except _Damaged as damage:
                yield Damage(number * meta.page_size, meta.page_size, str(damage))

    def payload(self, node: Node) -> bytes:
        """The payload of `node`."""
        data = os.pread(self._fd, node.size, node.at)
        if len(data) < node.size:
            raise BackendError("the file is shorter than it was")
        return data

    def _page(self, meta: _Meta, number: int, seen: bytearray) -> tuple[bytes, int, list[int]]:
        """The page with that number, what it is, and where its nodes begin."""
        size = meta.page_size
        if not 2 <= number <= meta.last_page or (number + 1) * size > self.size:
            raise _Damaged(f"page {number}, which the tree needs, is not there")
        if seen[number]:
            raise _Damaged(f"page {number} is in the tree twice")
        seen[number] = 1
        page = os.pread(self._fd, size, number * size)
        own_number, _, kind, lower, upper = _HEADER.unpack_from(page)
        count = (lower - _HEADER.size) // 2
        if own_number != number or kind not in (_BRANCH, _LEAF):
            raise _Damaged(f"page {number} is another one than it should be")
        if not _HEADER.size + 2 <= lower <= upper <= size or lower % 2:
            raise _Damaged(f"page {number} is damaged")
        pointers = [_POINTER.unpack_from(page, _HEADER.size + 2 * i)[0] for i in range(count)]
        if kind == _BRANCH and len(_fitting(page, kind, pointers)) < count:
            raise _Damaged(f"page {number} is damaged")
        return page, kind, pointers

    @staticmethod
    def _children(page: bytes, pointers: list[int]) -> list[int]:
        nodes = [_NODE.unpack_from(page, start) for start in pointers]
        return [low | high << 16 | flags << 32 for low, high, flags, _ in nodes]

    def _leaf(
        self, meta: _Meta, number: int, page: bytes, pointers: list[int]
    ) -> Iterator[Node | Damage]:
        size = meta.page_size
        fitting = _fitting(page, _LEAF, pointers)
        for start in pointers:
            if start not in fitting:
                at = number * size + min(start, size)
                yield Damage(at, 0, "a record does not fill its place on its page")
                continue
            low, high, flags, key_bytes = _NODE.unpack_from(page, start)
            length = low | high << 16
            body = start + _NODE.size + key_bytes
            try:
                if key_bytes != KEY_BYTES or flags not in (0, _LONG_VALUE):
                    raise _Damaged("this is no record")
                if length > MAX_MESSAGE_BYTES:
                    raise _Damaged(f"a record claims {length} bytes")
                at = number * size + body
                if flags:
                    at = self._long(meta, page, body, length)
            except _Damaged as damage:
                yield Damage(number * size + start, 0, str(damage))
                continue
            key = int.from_bytes(page[start + _NODE.size : body], "big")
            yield Node(key, length, number, at, bool(flags))

    def _long(self, meta: _Meta, page: bytes, body: int, length: int) -> int:
        """Where the payload of a long value begins in the file."""
        (number,) = _PAGE_NUMBER.unpack_from(page, body)
        count = (_EXTENT.size - 1 + length) // meta.page_size + 1
        if not 2 <= number <= meta.last_page or (number + count) * meta.page_size > self.size:
            raise _Damaged(f"page {number}, with a long record, is not there")
        at: int = number * meta.page_size
        own_number, _, kind, pages = _EXTENT.unpack(os.pread(self._fd, _EXTENT.size, at))
        if (own_number, kind, pages) != (number, _LONG, count):
            raise _Damaged(f"page {number}, with a long record, is another one than it should be")
        return at + _EXTENT.size


def _fitting(page: bytes, kind: int, pointers: list[int]) -> set[int]:
    """Those of `pointers` whose node ends where the next one begins, or the page ends."""
    starts = sorted(set(pointers))
    return {
        start
        for start, end in pairwise([*starts, len(page)])
        if start + _NODE.size <= end and start + _node_bytes(page, kind, start) == end
    }


def _node_bytes(page: bytes, kind: int, start: int) -> int:
    low, high, flags, key = _NODE.unpack_from(page, start)
    data = 0
    if kind == _LEAF:
        data = _PAGE_NUMBER.size if flags & _LONG_VALUE else low | high << 16
    size: int = _NODE.size + key + data
    return size + size % 2
