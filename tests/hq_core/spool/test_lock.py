"""The lock of a stream as tools take it, and its owner as they see him."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from hq_core import HybridQueue, StreamBusyError
from hq_core.spool import lock
from hq_core.spool.directory import Directory
from hq_core.spool.finding import Spool, find
from hq_core.spool.lock import StreamLock
from hq_core.spool.repairing import own
from hq_core.testing.forking import forked, in_child

RECORDS = [b"one", b"two", b"three"]
NOBODY = 65534
CHANGING = ("open", "fchown", "link", "unlink", "close")
"""The calls of `os` by which a tool comes and goes; besides `fcntl.flock`."""


def leave(directory: Path) -> Spool:
    """Be an owner that leaves `RECORDS`, and no lock file."""
    with HybridQueue("s", 1, directory, durable=True) as queue:
        queue.enqueue_many(RECORDS)
    (spool,) = find(directory)
    assert not spool.lock.exists()
    return spool


def lock_of(spool: Spool, directory: Directory) -> StreamLock:
    return StreamLock(directory, spool.name, spool.stream_id)


# ---- tools -----------------------------------------------------------------------------------


def test_a_tool_that_is_done_leaves_nothing(tmp_path: Path) -> None:
    spool = leave(tmp_path)
    before = sorted(tmp_path.iterdir())
    with own(spool):
        assert spool.lock.exists()
    assert sorted(tmp_path.iterdir()) == before


def test_a_lock_file_that_is_there_is_locked_and_left(tmp_path: Path) -> None:
    spool = leave(tmp_path)
    spool.lock.touch()
    before = spool.lock.stat()
    with own(spool), pytest.raises(StreamBusyError):
        HybridQueue("s", 1, tmp_path)
    assert os.path.samestat(spool.lock.stat(), before)
    HybridQueue("s", 1, tmp_path, durable=True).close()


@pytest.mark.parametrize("user", [os.geteuid(), 12345])
def test_a_tool_and_a_queue_exclude_each_other(
    tmp_path: Path, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = leave(tmp_path)
    with as_user_of_tools(monkeypatch, user), own(spool):
        monkeypatch.undo()
        with pytest.raises(StreamBusyError, match="is open in another queue"):
            HybridQueue("s", 1, tmp_path)
    with HybridQueue("s", 1, tmp_path, durable=True):
        with (
            as_user_of_tools(monkeypatch, user),
            pytest.raises(StreamBusyError),
            own(spool),
        ):
            pass
        assert spool.lock.exists()


@contextmanager
def as_user_of_tools(monkeypatch: pytest.MonkeyPatch, user: int) -> Iterator[None]:
    """Within it this process takes itself for `user`'s, who may give files away."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "fchown", lambda fd, *_: None)
    yield


def test_the_lock_file_is_the_owners_and_locked_from_the_moment_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = leave(tmp_path)
    done: list[str] = []

    def given(fd: int, user: int, group: int) -> None:
        info = spool.path.stat()
        assert (user, group) == (info.st_uid, info.st_gid)
        assert not spool.lock.exists()
        done.append("given")

    def named(*args: object, original: Callable[..., None] = os.link, **kwargs: object) -> None:
        assert done == ["given"]
        original(*args, **kwargs)
        with pytest.raises(BlockingIOError), spool.lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        done.append("named")

    with Directory(tmp_path) as directory:
        taken = lock_of(spool, directory)
        data = spool.path.stat()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        monkeypatch.setattr(os, "fchown", given)
        monkeypatch.setattr(os, "link", named)
        taken.acquire(data)
        assert done == ["given", "named"]
        taken.release()
    assert not spool.lock.exists()


@pytest.mark.parametrize("call", ["open", "fchown", "link"])
def test_a_tool_that_can_make_no_lock_file_of_the_owners_leaves_nothing(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = leave(tmp_path)
    before = sorted(tmp_path.iterdir()), descriptors()

    def refuse(*args: object, original: Callable[..., int] = os.open, **kwargs: object) -> int:
        if call == "open" and args[0] != ".":
            return original(*args, **kwargs)
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    with Directory(tmp_path) as directory:
        data = spool.path.stat()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        monkeypatch.setattr(os, "fchown", lambda *_: None)
        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="not supported"):
            lock_of(spool, directory).acquire(data)
        monkeypatch.undo()
    assert (sorted(tmp_path.iterdir()), descriptors()) == before


def test_a_lock_file_that_may_only_be_read_is_locked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = leave(tmp_path)
    spool.lock.touch()

    def read_only(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return original(path, flags, *args, dir_fd=dir_fd)

    original = os.open
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        patch.setattr(os, "unlink", None)
        with own(spool):
            patch.undo()
            with pytest.raises(StreamBusyError):
                HybridQueue("s", 1, tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.slow  # it forks many times
@pytest.mark.parametrize("stale", [False, True], ids=["no lock file", "one of a killed owner"])
def test_a_tool_of_roots_that_is_killed_at_any_call_does_not_shut_the_owner_out(
    tmp_path: Path, stale: bool
) -> None:
    for step in count(1):
        place = tmp_path / str(step)
        spool = leave(place)
        if stale:
            spool.lock.touch(mode=0o600)
        for path in (place, *place.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        came_to_its_end = killed_at(step, lambda spool=spool: look(spool))  # type: ignore[misc] # bound now
        in_child(lambda place=place: take_as_nobody(place))  # type: ignore[misc] # bound now
        if came_to_its_end:
            break
    assert step > (4 if stale else 8)


def look(spool: Spool) -> None:
    with own(spool):
        pass


def take_as_nobody(directory: Path) -> None:
    """Be the service: open the queue in a directory whose path only root may walk."""
    os.chdir(directory)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    with HybridQueue("s", 1, ".", durable=True) as queue:
        assert queue.dequeue_many(5) == RECORDS


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do `work` in a process that ends at its `step`-th call; whether it came to its end."""

    def child() -> None:
        calls = count(1)
        for module, names in ((os, CHANGING), (fcntl, ("flock",))):
            for name in names:
                setattr(module, name, dying(getattr(module, name), calls, step))
        work()

    return os.waitstatus_to_exitcode(os.waitpid(forked(child), 0)[1]) == 0


def dying(call: Callable[..., object], calls: Iterator[int], step: int) -> Callable[..., object]:
    def call_or_die(*args: object, **kwargs: object) -> object:
        if next(calls) == step:
            os._exit(9)
        return call(*args, **kwargs)

    return call_or_die


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# ---- the owner -------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | None]:
    """Writes a list of locks, and asks for the owner of a lock file."""
    path = tmp_path / "s.lock"
    path.touch()
    info = path.stat()
    device = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}"
    monkeypatch.setattr(lock, "_LOCKS", tmp_path / "locks")

    def ask(*lines: str) -> int | None:
        text = "".join(f"{line}\n" for line in lines)
        text = text.replace("DEVICE", device).replace("INODE", str(info.st_ino))
        (tmp_path / "locks").write_text(text)
        return lock.owner(path)

    return ask


@pytest.mark.parametrize(
    ("line", "pid"),
    [
        ("1: FLOCK  ADVISORY  WRITE 77 DEVICE:INODE 0 EOF", 77),
        ("1: FLOCK  ADVISORY  WRITE 77 fe:1ff:INODE 0 EOF", None),  # another disk's
        ("1: FLOCK  ADVISORY  WRITE 77 DEVICE:1INODE 0 EOF", None),
        ("1: FLOCK  ADVISORY  WRITE 77 DEVICE:INODE1 0 EOF", None),
        ("1: -> FLOCK  ADVISORY  WRITE 77 DEVICE:INODE 0 EOF", None),  # waits
        ("1: FLOCK  ADVISORY  READ 77 DEVICE:INODE 0 EOF", None),
        ("1: POSIX  ADVISORY  WRITE 77 DEVICE:INODE 0 EOF", None),
        ("1: OFDLCK ADVISORY  WRITE -1 DEVICE:INODE 0 EOF", None),
        ("1: LEASE  ACTIVE    WRITE 77 DEVICE:INODE 0 EOF", None),
        ("1: FLOCK  ADVISORY  WRITE 0 <none>:0 0 EOF", None),
        ("", None),
    ],
)
def test_the_owner_is_told_by_device_and_inode(
    listed: Callable[..., int | None], line: str, pid: int | None
) -> None:
    others = [
        "1: POSIX  ADVISORY  READ 5 fe:00:1 128 128",
        "2: FLOCK  ADVISORY  WRITE 6 00:1:2 0 9",
    ]
    assert listed(others[0], line, others[1]) == pid


def test_a_file_whose_mount_is_not_listed_is_told_by_what_it_says_itself(
    listed: Callable[..., int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text("1 0 0:1 / /other rw - tmpfs none rw\n")
    monkeypatch.setattr(lock, "_MOUNTS", tmp_path / "mounts")
    assert listed("1: FLOCK  ADVISORY  WRITE 77 DEVICE:INODE 0 EOF") == 77


def test_where_no_locks_are_listed_nobody_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HybridQueue("s", 1, tmp_path):
        assert lock.owner(tmp_path / "s.lock") == os.getpid()
        monkeypatch.setattr(lock, "_LOCKS", tmp_path / "missing")
        assert lock.owner(tmp_path / "s.lock") is None
    assert lock.owner(tmp_path / "s.lock") is None


def test_a_link_to_a_lock_file_has_no_owner(tmp_path: Path) -> None:
    with HybridQueue("s", 1, tmp_path):
        (tmp_path / "t.lock").symlink_to("s.lock")
        assert lock.owner(tmp_path / "t.lock") is None


OVERLAY = """
mount -t tmpfs none "$1" && mkdir "$1/upper" "$1/work" "$1/lower" "$1/both" && cd "$1" &&
mount -t tmpfs none lower && touch lower/old.lock &&
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work both || exit 77
cd "$2" && exec "$3" -c '
import fcntl, os, sys
from pathlib import Path
from hq_core.spool import lock
for name in ("old.lock", "new.lock"):
    path = Path(sys.argv[1], name)
    file = path.open("a" if name == "new.lock" else "r")
    assert lock.owner(path) is None
    fcntl.flock(file, fcntl.LOCK_EX)
    assert lock.owner(path) == os.getpid(), name
' "$1/both"
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare")
def test_the_owner_is_seen_where_files_tell_another_device_than_their_file_system(
    tmp_path: Path,
) -> None:
    root = Path(lock.__file__).parents[2]
    command = ["unshare", "-m", "sh", "-c", OVERLAY, "sh", str(tmp_path), str(root), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"not permitted: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
