from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hq_cli.demo import prove
from hq_cli.main import main
from hq_cli.scenario import Outcome, Scenario
from hq_cli.video import Tally, packets
from hq_core import QueueStats

SCENARIO = Scenario(1.0)
STATS = QueueStats(
    stream_id="demo",
    depth=0,
    memory_items=SCENARIO.memory_items,
    disk_bytes=1000,
    pressure=0.0,
    memory_bytes=2000,
    enqueued=SCENARIO.packets,
    dequeued=SCENARIO.packets,
    discarded=0,
    dropped=0,
    spilled=20,
    rate_limited=0,
    recovered=0,
    backend="file",
    directory=Path("spool"),
    memory_limit_bytes=None,
    disk_limit_bytes=None,
    dropped_newest=0,
    leased=0,
    damaged=0,
    spilled_bytes=1000,
    refilled_bytes=1000,
    blocked_seconds=0.0,
    oldest_age_seconds=0.0,
)


def tally(stream: list[bytes]) -> Tally:
    result = Tally()
    for packet in stream:
        result.add(packet)
    return result


def wrong(received: list[bytes], stats: QueueStats = STATS, left: tuple[str, ...] = ()) -> set[str]:
    """The subjects of what cannot be proved."""
    sent = tally(list(packets(SCENARIO.packets)))
    outcome = Outcome(sent, tally(received), [(0.5, stats)])
    return {check.subject for check in prove(SCENARIO, outcome, left) if not check.holds}


def test_what_arrived_whole_and_in_order_is_proved() -> None:
    assert wrong(list(packets(SCENARIO.packets))) == set()


def test_each_kind_of_harm_is_noticed() -> None:
    stream = list(packets(SCENARIO.packets))
    swapped = [*stream[:5], stream[6], stream[5], *stream[7:]]
    assert wrong(swapped) == {"order", "checksum"}
    assert wrong(stream[:-1]) == {"items", "order", "checksum"}
    assert wrong([*stream[:5], *stream[6:]]) == {"items", "checksum"}
    assert wrong([stream[0], *stream]) == {"items", "order", "checksum"}
    flipped = stream[7][:-1] + bytes([stream[7][-1] ^ 1])
    assert wrong([*stream[:7], flipped, *stream[8:]]) == {"checksum"}
    assert wrong(stream, replace(STATS, memory_items=SCENARIO.memory_items + 1)) == {"memory"}
    assert wrong(stream, replace(STATS, spilled=0)) == {"disk"}
    assert wrong(stream, left=("demo.overflow",)) == {"files"}


@pytest.mark.parametrize("seconds", [1.0, 2.0, 10.0, 60.0])
def test_a_scenario_overflows_memory_and_not_the_disk(seconds: float) -> None:
    scenario = Scenario(seconds)
    start, end = scenario.stall
    assert 0 < start < end < seconds
    during = (end - start) / seconds * scenario.packets
    assert scenario.memory_items < during
    sizes = [len(packet) for packet in packets(scenario.packets)]
    first, last = (int(moment / seconds * scenario.packets) for moment in scenario.stall)
    assert sum(sizes[first + scenario.memory_items : last]) < scenario.max_overflow_bytes


@pytest.mark.slow
def test_the_demo_proves_itself_and_draws_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg = tmp_path / "demo.svg"
    assert main(["demo", "--seconds", "2", "--svg", str(svg)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.count("  ok\n") == 6
    assert "144 sent, 144 received" in said.out
    assert "WRONG" not in said.out
    assert str(svg) in said.out
    root = ElementTree.fromstring(svg.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert [path.name for path in tmp_path.iterdir()] == ["demo.svg"]


def test_a_demo_that_cannot_prove_itself_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(scenario: Scenario, directory: Path, watch: object) -> Outcome:
        (directory / "demo.overflow").touch()
        sent = tally(list(packets(SCENARIO.packets)))
        return Outcome(sent, sent, [(0.0, STATS)])

    monkeypatch.setattr("hq_cli.demo.play", play)
    assert main(["demo", "--seconds", "1", "--svg", str(tmp_path / "demo.svg")]) == 1
    assert "left behind: demo.overflow" in capsys.readouterr().out
