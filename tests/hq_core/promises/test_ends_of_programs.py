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

START: Final = """
import signal, sys, threading, time, warnings
from hq_core import HybridQueue, StdlibQueue, ThreadPump, InlinePump, Unlimited
from hq_core.testing.fakes import FaultyBackend, ManualPump, MemoryBackend
from hq_core.testing.fakes import _Around

reading = threading.Event()

class Slow(_Around):
    name = "slow"
    def _before(self, method):
        if method == METHOD and threading.current_thread() is not threading.main_thread():
            reading.set()
            time.sleep(3600)

def slow(stream):
    return Slow(MemoryBackend(stream))

def opened(backend="file", pump=None, **options):
    return HybridQueue("s", 2, DIRECTORY, backend=backend, limiter=Unlimited(),
                       pump=pump or ThreadPump(), **options)
"""

PROGRAMS: Final = {
    "with the pump in the middle of a slow read": """
        METHOD = "read"
        first = opened(backend=slow, durable=True)
        first.enqueue_many([b"x"] * 400)
        threading.Thread(target=first._engine.pumping.step, daemon=True).start()
        queue = first
        reading.wait(10)
        """,
    "with a daemon thread in the middle of a slow append": """
        METHOD = "append"
        queue = opened(backend=slow, durable=True)
        threading.Thread(target=lambda: queue.enqueue(b"x"), daemon=True).start()
        reading.wait(10)
        """,
    "with a slow append under way, and a queue in a block": """
        METHOD = "append"
        queue = opened(backend=slow, durable=True)
        threading.Thread(target=lambda: queue.enqueue(b"x"), daemon=True).start()
        reading.wait(10)

        class Owner:
            def __del__(self):
                queue.close()
        owner = Owner()
        """,
    "with a queue that a generator closes": """
        METHOD = ""
        def items():
            with opened() as queue:
                queue.enqueue_many([b"x"] * 400)
                while True:
                    yield queue.dequeue()
        left = items()
        next(left)
        """,
    "with a queue that a finaliser closes": """
        METHOD = ""
        class Owner:
            def __init__(self):
                self.queue = opened()
                self.queue.enqueue_many([b"x"] * 400)
                self.queue.dequeue()
            def __del__(self):
                self.queue.close()
        owner = Owner()
        sys.modules["owner"] = owner
        """,
    "with a queue that nobody closes": """
        METHOD = ""
        queue = opened()
        queue.enqueue_many([b"x"] * 400)
        queue.dequeue()
        """,
    "with a daemon thread that waits for an item": """
        METHOD = ""
        queue = opened()
        threading.Thread(target=queue.dequeue, daemon=True).start()
        while not queue._engine._consumers.waiting:
            time.sleep(0.001)
        """,
    "with a coroutine's queue that nobody closes": """
        METHOD = ""
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
        METHOD = ""
        class Pump(ManualPump):
            def stop(self):
                if not reading.is_set():
                    reading.set()
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
        METHOD = ""
        import atexit
        queue = opened()
        queue.enqueue_many([b"x"] * 400)
        queue.dequeue()
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
