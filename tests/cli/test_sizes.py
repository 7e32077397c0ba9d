import pytest

from hq_cli.sizes import format_duration, format_size, parse_size, short_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("4096", 4096),
        ("64K", 64 * 1024),
        ("64k", 64 * 1024),
        ("64KiB", 64 * 1024),
        ("64 KiB", 64 * 1024),
        ("64Ki", 64 * 1024),
        ("64M", 64 * 1024**2),
        ("10G", 10 * 1024**3),
        ("2T", 2 * 1024**4),
        ("1.5G", 3 * 1024**3 // 2),
        ("100B", 100),
        (" 7 ", 7),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_numbers_with_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "K", "12Q", "-5", "-5M", "1e6", "64MB", "0x10", "1.", ".5M", "1,5M", "\u0663", "64 M M"],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 64M for 64 MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (64 * 1024, "64.0 KiB"),
        (999 * 1024, "999 KiB"),
        (1000 * 1024, "0.98 MiB"),
        (1024**2 - 1, "1.00 MiB"),
        (1.2125 * 1024**3, "1.21 GiB"),
        (9.996 * 1024, "10.0 KiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_sizes_are_written_to_three_digits(size: float, text: str) -> None:
    assert format_size(size) == text


def test_short_sizes_use_the_units_of_the_options() -> None:
    assert short_size(64 * 1024**2) == "64.0M"
    assert short_size(12) == "12B"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.99, "59.9 s"), (60, "0:01:00"), (3723.9, "1:02:03")]
)
def test_durations_are_rounded_down(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
