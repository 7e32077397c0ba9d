from hq_cli.video import Tally, packet_sizes, packets


def test_the_sizes_are_those_of_the_measured_stream() -> None:
    sizes = packet_sizes()
    assert len(sizes) == 715
    assert sizes[:5] == [384494, 77488, 35845, 33704, 315]
    assert sum(sizes) == 7457118


def test_packets_have_those_sizes_again_and_again_and_are_the_same_every_time() -> None:
    sizes = packet_sizes()
    made = list(packets(720))
    assert [len(packet) for packet in made] == [*sizes, *sizes[:5]]
    assert made == list(packets(720))
    assert made[:9] != list(packets(9, seed=2))


def tally(*numbers: int) -> Tally:
    result = Tally()
    for number in numbers:
        result.add(number.to_bytes(8) + b"contents")
    return result


def test_a_tally_counts_packets_that_are_not_later_than_the_one_before() -> None:
    assert tally(0, 1, 2).inversions == 0
    assert tally(0, 2, 5).inversions == 0
    assert tally(0, 0, 1).inversions == 1
    assert tally(3, 2, 1, 0).inversions == 3
    assert (tally(4, 7).items, tally(4, 7).last) == (2, 7)


def test_checksums_differ_when_the_order_does() -> None:
    assert tally(0, 1).checksum == tally(0, 1).checksum
    assert tally(0, 1).checksum != tally(1, 0).checksum
