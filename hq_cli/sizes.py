"""Sizes as people write and read them. Units are binary: ``64M`` is 64 MiB. Pure."""

import re

__all__ = ["format_duration", "format_size", "parse_size", "short_count", "short_size"]

_UNITS = "KMGT"
_SIZE = re.compile(rf"(\d+(?:\.\d+)?) ?(?:B|([{_UNITS}])(?:iB?)?)?", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """The number of bytes that `text` means: ``4096``, ``64K``, ``1.5 GiB``, in any case.

    Raises `ValueError` for anything else, ``64MB`` included: it is 64 MiB to some and 64 million
    to others.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: write a number of bytes, or one with K, M, G or T, "
            "such as 64M for 64 MiB"
        )
    number, unit = match.groups()
    power = _UNITS.index(unit.upper()) + 1 if unit else 0
    return int(number) << 10 * power if number.isdigit() else int(float(number) * 1024**power)


def format_size(size: float) -> str:
    """`size` bytes to three digits: ``0 B``, ``64.0 KiB``, ``1.21 GiB``."""
    if size < 1024:
        return f"{size:.0f} B"
    for unit in _UNITS:
        size /= 1024
        if size < 1000 or unit == _UNITS[-1]:
            break
    return f"{_three_digits(size)} {unit}iB"


def short_size(size: float) -> str:
    """`format_size` where columns are scarce, with the units of the options: ``1.21G``."""
    return format_size(size).replace("iB", "").replace(" ", "")


def short_count(count: float) -> str:
    """`count` things, to three digits from 100,000 on; ``1.21M`` is decimal: 1,210,000."""
    if count < 100_000:
        return f"{count:.0f}"
    for unit in "kMGTPE":
        count /= 1000
        if count < 999.5 or unit == "E":
            break
    return f"{_three_digits(count)}{unit}"


def format_duration(seconds: float) -> str:
    """``h:mm:ss``, rounded down; below a minute ``s.s s``."""
    if seconds < 60:
        return f"{int(seconds * 10) / 10:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"
