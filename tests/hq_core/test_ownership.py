"""One owner a stream: in one process, in several, across forks, and under every schedule."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from hq_core import BackendError, CorruptedData, HybridQueue, StreamBusyError
from hq_core.spool.directory import Directory
from hq_core.spool.lock import StreamLock
from hq_core.testing.forking import forked, in_child, killed_after
from tests.faults.campaign import note, sentence
from tests.interleaving import Scheduler, explore

UNBOUNDED = 1_000
"""More delays than any schedule here can have."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.lock"


class OwnLock(StreamLock):
    """The lock of a stream whose lock file is at `path`, with a directory of its own."""

    def __init__(self, path: Path, stream_id: str = "s") -> None:
        self._own = Directory(path.parent)
        super().__init__(self._own, path.name.removesuffix(".lock"), stream_id)

    def acquire(self, data: os.stat_result | None = None) -> None:
        try:
            super().acquire(data)
        except BaseException:
            self._own.close()
            raise

    def release(self) -> None:
        try:
            super().release()
        finally:
            self._own.close()


def locked(path: Path, stream_id: str = "s", *, data: os.stat_result | None = None) -> StreamLock:
    """The lock at `path`, taken; as a tool takes it, if there is `data`."""
    lock = OwnLock(path, stream_id)
    lock.acquire(data)
    return lock


def taken(path: Path) -> bool:
    """Whether the stream has an owner; leaves things as they are."""
    try:
        locked(path).release()
    except StreamBusyError:
        return True
    return False


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def descriptors_of(path: Path) -> list[int]:
    """Those that are open on `path`."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [int(link.name) for link in links if link.readlink() == path]


# ---- owning and letting go -------------------------------------------------------------------


def test_a_second_owner_in_the_same_process_is_refused(path: Path) -> None:
    lock = locked(path)
    with pytest.raises(StreamBusyError):
        locked(path)
    lock.release()


def test_the_refusal_names_the_stream_and_the_directory_and_says_what_to_do(path: Path) -> None:
    lock = locked(path, "camera 1")
    with pytest.raises(StreamBusyError) as refusal:
        locked(path, "camera 1")
    lock.release()
    for word in ("'camera 1'", str(path.parent), "close", "another stream id or directory"):
        assert word in str(refusal.value)


def test_a_second_owner_in_another_process_is_refused(path: Path) -> None:
    lock = locked(path)

    def child() -> None:
        with pytest.raises(StreamBusyError):
            locked(path)

    in_child(child)
    lock.release()


def test_a_refused_opener_does_not_disturb_the_owner(path: Path) -> None:
    lock = locked(path)
    for _ in range(3):
        assert taken(path)
    lock.release()


def test_a_refused_opener_keeps_no_descriptor(path: Path) -> None:
    lock = locked(path)
    before = descriptors()
    assert taken(path)
    assert descriptors() == before
    lock.release()


def test_a_released_stream_lets_the_next_owner_in(path: Path) -> None:
    locked(path).release()
    second = locked(path)
    assert taken(path)
    second.release()


def test_release_leaves_no_file_and_no_descriptor_behind(path: Path) -> None:
    before = descriptors()
    locked(path).release()
    assert list(path.parent.iterdir()) == []
    assert descriptors() == before


def test_streams_of_one_directory_do_not_exclude_one_another(path: Path) -> None:
    one, other = locked(path), locked(path.with_name("t.lock"), "t")
    one.release()
    other.release()


def test_a_lock_file_that_a_killed_owner_left_is_no_lock(path: Path) -> None:
    killed_after(lambda: locked(path))
    assert path.exists()
    locked(path).release()
    assert not path.exists()


def test_the_lock_file_is_for_its_user_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        lock = locked(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lock.release()


def test_the_lock_is_not_passed_on_to_a_program_that_is_started(path: Path) -> None:
    lock = locked(path)
    assert [os.get_inheritable(fd) for fd in descriptors_of(path)] == [False]
    lock.release()


def test_the_stream_is_free_even_if_the_lock_file_cannot_be_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sealed(name: str, *, dir_fd: int) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    lock = locked(path)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", sealed)
        with pytest.raises(BackendError, match=r"s\.lock cannot be removed: Permission denied"):
            lock.release()
    assert descriptors() == before - 2  # the lock's and the directory's
    assert path.exists()
    assert not taken(path)


def test_a_renamed_directory_is_still_the_one_that_was_opened(tmp_path: Path) -> None:
    directory, moved = tmp_path / "spool", tmp_path / "moved"
    directory.mkdir()
    lock = locked(directory / "s.lock")
    directory.rename(moved)
    directory.write_bytes(b"a file now: nothing below it can be removed")
    assert taken(moved / "s.lock")
    lock.release()
    assert list(moved.iterdir()) == []
    assert not taken(moved / "s.lock")


def test_a_lock_file_in_its_place_is_left_to_whoever_made_it(path: Path) -> None:
    lock = locked(path)
    path.unlink()
    other = locked(path)
    lock.release()
    assert path.exists()
    assert taken(path)
    other.release()


def test_a_lock_file_that_somebody_removed_is_released_all_the_same(path: Path) -> None:
    before = descriptors()
    lock = locked(path)
    path.unlink()
    lock.release()
    assert descriptors() == before


def test_a_file_system_that_cannot_lock_is_an_error_and_keeps_no_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    before = descriptors()
    with pytest.raises(OSError, match="No locks available"):
        locked(path)
    assert descriptors() == before


# ---- what lies in the lock file's place ------------------------------------------------------


@pytest.mark.parametrize("exists", [True, False])
def test_a_symlink_in_place_of_the_lock_file_is_refused_and_not_followed(
    path: Path, exists: bool
) -> None:
    target = path.with_name("target")
    if exists:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    before = descriptors()
    with pytest.raises(OSError, match="symbolic links"):
        locked(path)
    assert descriptors() == before
    assert path.is_symlink()
    assert (target.read_bytes() == b"precious") if exists else not target.exists()


def test_a_directory_in_place_of_the_lock_file_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        locked(path)


def test_a_queue_says_which_lock_file_it_cannot_use(path: Path) -> None:
    path.symlink_to("elsewhere")
    with pytest.raises(BackendError, match=r"s\.lock") as failure:
        HybridQueue("s", 1, path.parent)
    assert isinstance(failure.value.__cause__, OSError)


# ---- forks -----------------------------------------------------------------------------------


def test_a_child_that_abandons_the_lock_does_not_release_it(path: Path) -> None:
    lock = locked(path)

    def child() -> None:
        lock.abandon()
        assert taken(path)

    in_child(child)
    assert path.exists()
    assert taken(path)
    lock.release()


def test_a_child_that_abandons_the_lock_keeps_no_descriptor_of_it(path: Path) -> None:
    lock = locked(path)
    assert len(descriptors_of(path)) == 1

    def child() -> None:
        lock.abandon()
        assert descriptors_of(path) == []

    in_child(child)
    lock.release()


def test_a_queue_is_abandoned_in_every_child(path: Path) -> None:
    with HybridQueue("s", 1, path.parent) as queue:
        queue.enqueue_many([b"memory", b"overflow"])

        def child() -> None:
            assert descriptors_of(path) == []

        in_child(child)
        assert taken(path)
        assert queue.dequeue_many(2) == [b"memory", b"overflow"]


def test_queues_that_were_closed_before_a_fork_are_no_matter(path: Path) -> None:
    closed = [HybridQueue(f"closed {number}", 1, path.parent) for number in range(5)]
    for queue in closed:
        queue.close()
    with HybridQueue("s", 1, path.parent) as queue, path.open("rb") as unrelated:

        def child() -> None:
            with pytest.raises(StreamBusyError):
                queue.enqueue(b"child")
            os.fstat(unrelated.fileno())

        in_child(child)


def test_a_parent_lets_the_next_owner_in_while_its_child_lives_on(path: Path) -> None:
    until_closed, done = os.pipe()
    queue = HybridQueue("s", 1, path.parent)

    def wait_for_the_parent() -> None:
        os.close(done)
        os.read(until_closed, 1)

    child = forked(wait_for_the_parent)
    queue.close()
    HybridQueue("s", 1, path.parent).close()
    os.close(done)
    os.waitpid(child, 0)
    os.close(until_closed)


def still_open(files: list[BinaryIO]) -> None:
    for file in files:
        os.fstat(file.fileno())


def opened_in(directory: Path, stack: ExitStack) -> list[BinaryIO]:
    """More files than a queue has, so that they get the numbers of any it has closed."""
    paths = [directory / f"other-{number}" for number in range(4)]
    return [stack.enter_context(path.open("wb")) for path in paths]


def test_a_fork_after_close_leaves_the_descriptors_that_came_after_it_alone(path: Path) -> None:
    queue = HybridQueue("s", 1, path.parent)
    queue.enqueue_many([b"memory", b"overflow"])
    queue.close()
    with ExitStack() as stack:
        files = opened_in(path.parent, stack)
        in_child(lambda: still_open(files))
    assert queue.depth == 0  # it was alive all the time


def test_a_fork_after_a_failed_opening_leaves_later_descriptors_alone(path: Path) -> None:
    overflow = path.with_name("s.overflow")
    overflow.write_bytes(b"\xff" * 8)
    with pytest.raises(CorruptedData) as failure:
        HybridQueue("s", 1, path.parent, on_corruption="raise")
    with ExitStack() as stack:
        files = opened_in(path.parent, stack)
        in_child(lambda: still_open(files))
    assert failure.value.__traceback__ is not None  # keeps alive what the attempt has made


def test_a_childs_own_child_leaves_the_descriptors_of_its_parent_alone(path: Path) -> None:
    with HybridQueue("s", 1, path.parent) as queue:
        queue.enqueue_many([b"memory", b"overflow"])

        def child() -> None:
            with ExitStack() as stack:
                files = opened_in(path.parent, stack)
                in_child(lambda: still_open(files))

        in_child(child)
        assert taken(path)


# ---- every schedule --------------------------------------------------------------------------


@dataclass
class Street:
    """Contenders for one stream, who may be held up before each of their system calls."""

    path: Path
    scheduler: Scheduler
    owners: set[str] = field(default_factory=set)
    ended: list[str] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)
    """Who was refused, with who had left for good when it began."""
    locks: dict[str, StreamLock] = field(default_factory=dict)

    def owner(self, name: str) -> None:
        """`name` owns the stream from the start, and will release it."""
        self.owners.add(name)
        self.locks[name] = locked(self.path)
        self.scheduler.spawn(name, lambda: self._leave(name))

    def contender(self, name: str, *, leaves: bool, data: os.stat_result | None = None) -> None:
        """`name` tries once to own the stream, and may release it again; a tool has `data`."""

        def run() -> None:
            gone = list(self.ended)
            try:
                self.locks[name] = locked(self.path, data=data)
            except StreamBusyError:
                self.refused[name] = gone
                return
            self.owners.add(name)
            self.scheduler.pause()
            if leaves:
                self._leave(name)

        self.scheduler.spawn(name, run)

    def _leave(self, name: str) -> None:
        self.owners.discard(name)
        self.locks.pop(name).release()
        self.ended.append(name)

    def never_two_owners(self) -> None:
        assert len(self.owners) <= 1

    def clean_up(self) -> None:
        """Whoever owns the stream leaves; then it is free, and nothing is left of anybody."""
        for lock in self.locks.values():
            lock.release()
        assert not taken(self.path)
        assert list(self.path.parent.iterdir()) == []


Script = Callable[[Street], Callable[[], None]]
Explorer = Callable[[Script, int], int]


@pytest.fixture
def every_schedule(
    path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Explorer:
    """Runs a script under every schedule of its contenders' system calls with that many delays.

    Returns how many there are.
    """
    current: Street | None = None

    def held_up(call: Callable[..., Any]) -> Callable[..., Any]:
        def held_up_call(*args: Any, **kwargs: Any) -> Any:
            if current is not None:
                current.scheduler.pause()
            return call(*args, **kwargs)

        return held_up_call

    for name in ("open", "close", "unlink", "link", "stat", "lstat"):
        monkeypatch.setattr(os, name, held_up(getattr(os, name)))
    monkeypatch.setattr(fcntl, "flock", held_up(fcntl.flock))

    def run(script: Script, delays: int) -> int:
        nonlocal current

        def scenario(scheduler: Scheduler) -> Callable[[], None]:
            nonlocal current
            current = street = Street(path, scheduler)
            scheduler.invariant = street.never_two_owners
            check = script(street)

            def finish() -> None:
                check()
                street.clean_up()

            return finish

        before = descriptors()
        try:
            count = explore(scenario, delays)
        finally:
            current = None
        assert descriptors() == before
        note("schedules", sentence(request.node.name), schedules=count)
        return count

    return run


def test_whoever_comes_while_the_owner_leaves_is_refused_or_owns_the_stream_alone(
    every_schedule: Explorer,
) -> None:
    outcomes = set()

    def script(street: Street) -> Callable[[], None]:
        street.owner("A")
        street.contender("B", leaves=False)

        def check() -> None:
            # Refused, then only by an owner who was not gone when the attempt began.
            assert "A" not in street.refused.get("B", [])
            assert street.owners == (set() if street.refused else {"B"})
            outcomes.add(bool(street.refused))

        return check

    assert every_schedule(script, UNBOUNDED) > 30
    assert outcomes == {True, False}


@pytest.mark.slow
def test_of_two_who_come_while_the_owner_leaves_never_both_own_the_stream(
    every_schedule: Explorer,
) -> None:
    winners = set()

    def script(street: Street) -> Callable[[], None]:
        street.owner("A")
        street.contender("B", leaves=False)
        street.contender("C", leaves=False)

        def check() -> None:
            both_refused = len(street.refused) == 2
            # They do not shut each other out of a stream that is free.
            assert not (both_refused and all("A" in gone for gone in street.refused.values()))
            winners.add("".join(street.owners))

        return check

    assert every_schedule(script, 5) > 1_000
    assert winners == {"", "B", "C"}


@pytest.mark.slow
def test_ownership_is_handed_on_without_a_gap_in_which_two_own_the_stream(
    every_schedule: Explorer,
) -> None:
    results = set()

    def script(street: Street) -> Callable[[], None]:
        street.owner("A")
        street.contender("B", leaves=True)
        street.contender("C", leaves=False)
        return lambda: results.add((tuple(street.ended), "".join(street.owners)))

    assert every_schedule(script, 5) > 1_000
    assert (("A", "B"), "C") in results


@pytest.mark.slow
def test_a_tool_of_another_user_and_queues_that_come_and_go_never_both_own_the_stream(
    every_schedule: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path.stat()
    monkeypatch.setattr(os, "geteuid", lambda: data.st_uid + 1)
    monkeypatch.setattr(os, "fchown", lambda *_: None)
    owners = set()

    def script(street: Street) -> Callable[[], None]:
        street.owner("A")
        street.contender("B", leaves=True)
        street.contender("tool", leaves=True, data=data)
        return lambda: owners.add(tuple(street.ended))

    assert every_schedule(script, 4) > 1_000
    assert {("A",), ("A", "B"), ("A", "tool"), ("A", "tool", "B"), ("A", "B", "tool")} <= owners
