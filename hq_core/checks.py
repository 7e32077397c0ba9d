"""Checks of arguments, worded once.

A number that is larger than anything can count is as good as the largest that the machine has.
"""

import sys

__all__ = ["choice", "instance", "positive_int", "positive_seconds", "seconds"]


def positive_int(name: str, value: object) -> int:
    """`value`, if it is an int of at least 1; else `TypeError` or `ValueError` naming it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return min(value, sys.maxsize)


def seconds(name: str, value: object) -> float:
    """`value`, if it is a number of at least 0; else `TypeError` or `ValueError` naming it."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must be 0 (do not wait) or more, not {value}")
    return value


def positive_seconds(name: str, value: object) -> float:
    """`value`, if it is a number above 0; else `TypeError` or `ValueError` naming it."""
    if seconds(name, value) == 0:
        raise ValueError(f"{name} must be more than 0 seconds")
    return float(min(value, sys.maxsize))  # type: ignore[call-overload] # it is a number


def choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ValueError`, listing them, unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def instance(name: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise `TypeError`, saying what is `wanted`, unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
