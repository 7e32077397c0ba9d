"""``-o KEY=VALUE`` pairs as a backend's typed options."""

import inspect
import types
import typing
from collections.abc import Callable, Sequence

from hq_cli.sizes import parse_size
from hq_core import registry

__all__ = ["parse_options"]

_TRUTH = {"yes": True, "true": True, "on": True, "1": True}
_TRUTH |= {"no": False, "false": False, "off": False, "0": False}
_CONVERSIONS: dict[object, tuple[Callable[[str], object], str]] = {
    bool: (lambda text: _TRUTH[text.lower()], "yes or no"),
    int: (parse_size, "a whole number such as 128K"),
    float: (float, "a number"),
}


def parse_options(backend: str, pairs: Sequence[str]) -> dict[str, object]:
    """Turn ``["read_ahead=128K"]`` into the options of `backend`, by the types it declares.

    Raises `ValueError` for a pair without ``=``, an option the backend does not have and a value
    of the wrong form, `PluginError` if there is no such backend.
    """
    factory = registry.load(backend)
    known = inspect.signature(factory, eval_str=True).parameters
    parsed: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"-o takes KEY=VALUE, not {pair!r}")
        kind = known[name].annotation if name in known else str
        parsed[name] = _convert(name, text, kind)
    registry.check_option_names(backend, factory, parsed)
    return parsed


def _convert(name: str, text: str, kind: object) -> object:
    if isinstance(kind, types.UnionType):
        kind = next(arm for arm in typing.get_args(kind) if arm is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if text not in choices:
            raise ValueError(f"option {name} takes {' or '.join(choices)}, not {text!r}")
        return text
    if kind not in _CONVERSIONS:
        return text
    convert, wanted = _CONVERSIONS[kind]
    try:
        return convert(text)
    except (KeyError, ValueError):
        raise ValueError(f"option {name} takes {wanted}, not {text!r}") from None
