"""The table of workloads."""

from benchmarks import throughput
from benchmarks.cells import Workload
from benchmarks.messages import PACKETS, SIZES
from benchmarks.peers import PEERS

__all__ = ["WORKLOADS"]


def _peers(workload: str) -> tuple[str, ...]:
    return tuple(peer.name for peer in PEERS.values() if workload in peer.workloads)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("pair", _peers("pair"), SIZES, throughput.pair),
        Workload("pair batch", _peers("pair batch"), SIZES, throughput.pair_batch),
        Workload("two threads", _peers("two threads"), SIZES, throughput.two_threads),
        Workload("append", _peers("append"), SIZES, throughput.append),
        Workload("append batch", _peers("append batch"), SIZES, throughput.append_batch),
        Workload("drain", _peers("drain"), SIZES, throughput.drain),
        Workload("sustained", _peers("sustained"), ("1316", PACKETS), throughput.sustained),
    )
}
