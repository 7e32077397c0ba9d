"""The table of workloads."""

from benchmarks import latency, pipes, scale, throughput
from benchmarks.cells import Workload
from benchmarks.messages import PACKETS, SIZES
from benchmarks.peers import PEERS

__all__ = ["WORKLOADS"]


_OURS = ("hybrid-queue",)


def _peers(workload: str) -> tuple[str, ...]:
    return tuple(peer.name for peer in PEERS.values() if workload in peer.workloads)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("pair", _peers("pair"), SIZES, throughput.pair),
        Workload("pair batch", _peers("pair batch"), SIZES, throughput.pair_batch),
        Workload("two threads", _peers("two threads"), SIZES, throughput.two_threads),
        Workload("thread to loop", _peers("thread to loop"), SIZES, throughput.to_loop),
        Workload("loop to thread", _peers("loop to thread"), SIZES, throughput.from_loop),
        Workload("append", _peers("append"), SIZES, throughput.append),
        Workload("append batch", _peers("append batch"), SIZES, throughput.append_batch),
        Workload("drain", _peers("drain"), SIZES, throughput.drain),
        *(
            Workload(
                name,
                tuple(peer for workload, peer in pipes.COMMANDS if workload == name),
                ("65536",),
                pipes.pipe,
            )
            for name in ("pipe memory", "pipe disk")
        ),
        Workload("latency stall", _peers("latency stall"), ("1316",), latency.stalling),
        Workload("latency burn", _peers("latency burn"), ("1316",), latency.burning),
        Workload("queues", _OURS, ("1", "100", "1000", "10000"), scale.many_queues),
        Workload("threads", _OURS, ("1", "2", "4", "8", "16", "32", "64"), scale.threads),
        Workload("backlog", _OURS, (str(scale.BACKLOGS[-1]),), scale.backlog, longest=600),
        Workload("reopening", _OURS, (str(scale.BACKLOGS[-1]),), scale.reopening, longest=600),
        Workload("import", _OURS, ("1",), scale.importing),
        Workload("sustained", _peers("sustained"), ("1316", PACKETS), throughput.sustained),
    )
}
