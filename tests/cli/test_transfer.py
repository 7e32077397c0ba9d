"""A transfer whose queue fails: what was accepted comes out, and the reason is told."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hq_cli.descriptors import Sink, Source
from hq_cli.supervision import explain_read, explain_write
from hq_cli.transfer import Transfer
from hq_core import HybridQueue, InlinePump
from hq_core.protocols import Stream
from hq_core.testing import FaultyBackend, MemoryBackend

Fault = Callable[[str, int], Exception | None]
Run = Callable[[Fault, bytes], tuple[Transfer, bytes]]


class LateSink(Sink):
    """Writes nothing before somebody says so."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.may_write = threading.Event()

    def write(self, block: bytes) -> None:
        self.may_write.wait()
        super().write(block)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Sends bytes, one a block, through a queue whose backend has a fault; gives what came out.

    Nothing is written before reading has ended, so all but the first few go to the backend.
    """
    source, feed = os.pipe()
    output, drain = os.pipe()

    def run(fault: Fault, data: bytes) -> tuple[Transfer, bytes]:
        over = threading.Event()
        sink = LateSink(drain)

        def faulty(stream: Stream) -> FaultyBackend:
            return FaultyBackend(MemoryBackend(stream), fault)

        def ended() -> None:
            sink.may_write.set()
            if transfer.finished:
                over.set()

        with HybridQueue("test", 1, tmp_path, backend=faulty, pump=InlinePump()) as queue:
            transfer = Transfer(queue, Source(source, 1), sink, batch=1, ended=ended)
            os.write(feed, data)
            os.close(feed)
            transfer.start()
            over.wait()
            transfer.stop()
        os.close(drain)
        return transfer, os.read(output, 65536)

    yield run
    os.close(source)
    os.close(output)


def broken(method: str) -> Fault:
    return lambda called, _: OSError(5, "the disk is broken") if called == method else None


def test_without_a_fault_everything_is_delivered(run: Run) -> None:
    transfer, output = run(broken("nothing"), b"all of it")
    assert output == b"all of it"
    assert transfer.in_bytes == transfer.out_bytes == 9
    assert transfer.read_failure is transfer.write_failure is None


def test_a_failing_write_to_disk_ends_the_input_and_the_rest_is_delivered(run: Run) -> None:
    transfer, output = run(broken("append"), b"x" * 1000)
    assert transfer.read_failure
    assert transfer.write_failure is None
    assert "the disk is broken" in explain_read(transfer.read_failure)
    assert len(output) == transfer.in_bytes == transfer.out_bytes < 1000


def test_a_failing_read_from_disk_ends_the_output(run: Run) -> None:
    transfer, output = run(broken("read"), b"x" * 1000)
    assert transfer.write_failure
    assert transfer.read_failure is None
    assert "the disk is broken" in explain_write(transfer.write_failure)
    assert len(output) == transfer.out_bytes < 1000


@pytest.mark.parametrize("explain", [explain_read, explain_write])
def test_an_exception_nobody_foresaw_is_raised(explain: Callable[[Exception], str]) -> None:
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError())
