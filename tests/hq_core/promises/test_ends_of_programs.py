"""A program that ends, ends: whatever its queues are in the middle of."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
PACKAGES: Final = Path(pytest.__file__).parents[1]
"""Where the two packages are that the core needs: they are pure Python."""
VERSIONS: Final = Path("/root/.pyenv/versions")
SECONDS: Final = 20.0
"""In which a program has to end that has nothing more to do."""

SLOW: Final = """
import threading, time
from hq_core.testing.fakes import FaultyBackend, MemoryBackend

METHOD = ""
reading = threading.Event()

def _before(method, number):
    if method == METHOD and threading.current_thread() is not threading.main_thread():
        reading.set()
        time.sleep(3600)

def opened(stream):
    return FaultyBackend(MemoryBackend(stream), _before)
"""
"""A module of its own: what a thread is in the middle of keeps the globals of its code alive, so
those of the program itself would never be finalised."""

START: Final = """
import signal, sys, threading, time
from hq_core import HybridQueue, ThreadPump, Unlimited
from hq_core.testing.fakes import ManualPump
import slow

def opened(backend="file", pump=None, **options):
    return HybridQueue("s", 100, DIRECTORY, backend=backend, limiter=Unlimited(),
                       pump=pump or ThreadPump(), **options)

def pumped(queue):
    # Enough that it pays to wake the pump, so that there is a thread of it.
    for _ in range(400):
        queue.enqueue(b"x")
    for _ in range(60 if slow.METHOD == "read" else 120):
        queue.dequeue()
    if slow.METHOD == "read":
        assert slow.reading.wait(10)
    assert any(thread.name.startswith("hq-pump") for thread in threading.enumerate())
    return queue

def items(backend):
    with opened(backend) as queue:
        pumped(queue)
        while True:
            yield queue.dequeue()

class Owner:
    def __init__(self, backend):
        self.queue = pumped(opened(backend))
    def __del__(self):
        self.queue.close()
"""

PROGRAMS: Final = {
    "with the pump in the middle of a slow read": """
        slow.METHOD = "read"
        queue = pumped(opened(slow.opened))
        """,
    "with the pump in the middle of a slow read, and a generator closes": """
        slow.METHOD = "read"
        left = items(slow.opened)
        next(left)
        """,
    "with the pump in the middle of a slow read, and a finaliser closes": """
        slow.METHOD = "read"
        sys.modules["owner"] = Owner(slow.opened)
        """,
    "with a daemon thread in the middle of a slow append": """
        slow.METHOD = "append"
        queue = opened(slow.opened, durable=True)
        threading.Thread(target=lambda: queue.enqueue(b"x"), daemon=True).start()
        assert slow.reading.wait(10)
        """,
    "with a slow append under way, and a finaliser closes": """
        slow.METHOD = "append"
        class Owner:
            def __init__(self):
                self.queue = opened(slow.opened, durable=True)
            def __del__(self):
                self.queue.close()
        owner = Owner()
        threading.Thread(target=owner.queue.enqueue, args=(b"x",), daemon=True).start()
        assert slow.reading.wait(10)
        sys.modules["owner"] = owner
        """,
    "with a queue that a generator closes": """
        left = items("file")
        next(left)
        """,
    "with a queue that a finaliser closes": """
        sys.modules["owner"] = Owner("file")
        """,
    "with a queue that nobody closes": """
        queue = pumped(opened())
        """,
    "with a daemon thread that waits for an item": """
        queue = opened()
        threading.Thread(target=queue.dequeue, daemon=True).start()
        while not queue._engine._consumers.waiting:
            time.sleep(0.001)
        """,
    "with a coroutine's queue that nobody closes": """
        import asyncio
        from hq_core.aio import AsyncHybridQueue
        queue = AsyncHybridQueue("s", 2, DIRECTORY, limiter=Unlimited())
        async def main():
            await queue.open()
            await queue.enqueue_many([b"x"] * 400)
            await queue.dequeue()
        asyncio.run(main())
        """,
    "after a signal in the middle of close": """
        class Pump(ManualPump):
            stopped = False
            def stop(self):
                if not self.stopped:
                    self.stopped = True
                    signal.raise_signal(signal.SIGINT)
        queue = opened(pump=Pump())
        queue.enqueue_many([b"x"] * 400)
        try:
            queue.close()
        except KeyboardInterrupt:
            queue.close()
        opened().close()
        """,
    "when its exit handlers close the queue": """
        import atexit
        queue = pumped(opened())
        atexit.register(queue.close)
        """,
}


def interpreters() -> list[str]:
    """This one, and the others that are installed, by version."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [here, *(version for version in ("3.12", "3.13") if version != here)]


def interpreter(version: str) -> Path:
    """Its command; skips the test where it is not installed."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return Path(sys.executable)
    found = sorted(VERSIONS.glob(f"{version}.*/bin/python"))
    if not found:
        pytest.skip(f"not tested: there is no Python {version} here")
    return found[-1]


@pytest.mark.slow
@pytest.mark.parametrize("version", interpreters())
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_ends(tmp_path: Path, program: str, version: str) -> None:
    """Soon, by itself, with status 0, whatever its queues are in the middle of."""
    python = interpreter(version)
    (tmp_path / "slow.py").write_text(SLOW)
    text = f"DIRECTORY = {os.fspath(tmp_path / 'spool')!r}\n" + START
    text += textwrap.dedent(PROGRAMS[program])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.fspath, (ROOT, PACKAGES)))}
    ended = subprocess.run(
        [python, "-W", "ignore::ResourceWarning", "-c", text + "\nprint('at its end', flush=True)"],
        env=environment,
        cwd=tmp_path,
        timeout=SECONDS,
        capture_output=True,
        check=False,
        text=True,
    )
    assert "at its end" in ended.stdout, ended.stderr
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
