"""Finding overflow backends by name, and opening them.

Backends are loaded by name only, each through a plugin manager of its own: a broken plugin is met
by whoever asks for it and by nobody else.
"""

import functools
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy

from hq_core import hookspecs
from hq_core.capabilities import Capability
from hq_core.errors import BackendError, CapabilityError, HybridQueueError, PluginError
from hq_core.protocols import API_VERSION, BackendFactory, OverflowBackend, Stream

__all__ = [
    "InstalledBackend",
    "check_option_names",
    "class_of",
    "installed",
    "load",
    "names",
    "open_backend",
    "options",
]


@dataclass(frozen=True, slots=True)
class InstalledBackend:
    """One entry point of the group ``hq_backends``."""

    name: str
    """What users write: ``backend="file"``."""
    distribution: str
    """The distribution it comes from, with its version."""
    backend: type[OverflowBackend] | None
    """Its class; None if it is not usable."""
    error: str
    """Why it is not usable; empty if it is."""


def installed() -> list[InstalledBackend]:
    """Every installed backend, usable or not, by name. Loads them all."""
    found = []
    for entry in sorted(entry_points(group=hookspecs.ENTRY_POINT_GROUP)):
        try:
            found.append(InstalledBackend(entry.name, _origin(entry), load(entry.name), ""))
        except PluginError as exc:
            found.append(InstalledBackend(entry.name, _origin(entry), None, str(exc)))
    return found


@functools.cache
def names() -> tuple[str, ...]:
    """The names of the installed backends, usable or not. Loads none."""
    return tuple(sorted(entry_points(group=hookspecs.ENTRY_POINT_GROUP).names))


@functools.cache
def load(name: str) -> type[OverflowBackend]:
    """The backend class called `name`; `PluginError` if there is no usable one."""
    entries = tuple(entry_points(group=hookspecs.ENTRY_POINT_GROUP, name=name))
    if not entries:
        known = sorted(entry_points(group=hookspecs.ENTRY_POINT_GROUP).names)
        raise PluginError(
            f"no backend named {name!r} is installed; installed are: {', '.join(known) or 'none'}. "
            "Correct the name, or install the package that provides it."
        )
    if len(entries) > 1:
        origins = " and ".join(sorted(map(_origin, entries)))
        raise PluginError(
            f"several packages provide a backend named {name!r}: {origins}. "
            "Uninstall all but one, or pass the class itself as backend=."
        )
    backend = _registered(entries[0])
    _check(backend, f"backend {name!r} from {_origin(entries[0])}")
    return backend


def class_of(backend: str | BackendFactory) -> type[OverflowBackend] | None:
    """The class that `backend` (a name, or a factory) opens; None if only opening can tell.

    Raises `PluginError` if there is no such backend.
    """
    made = load(backend) if isinstance(backend, str) else backend
    made = made.func if isinstance(made, functools.partial) else made
    return made if isinstance(made, type) else None


def options(factory: BackendFactory) -> dict[str, inspect.Parameter]:
    """The options of a backend: the keyword-only parameters of its factory, by name."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


def open_backend(
    backend: str | BackendFactory,
    stream: Stream,
    given: Mapping[str, object],
    needed: Capability = Capability.NONE,
) -> OverflowBackend:
    """Open `backend` (a name, or a factory) for `stream` with the options `given`.

    Raises `PluginError` if there is no such backend, `CapabilityError` if it does not promise what
    is `needed`, `ValueError` for an option it does not have, whatever the backend says of an
    option's value, and `BackendError` if it cannot be opened.
    """
    if isinstance(backend, str):
        factory: BackendFactory = load(backend)
    elif callable(backend):
        factory = backend
    else:
        kind = type(backend).__name__
        raise TypeError(f"backend must be a name or a factory, not {kind}; try backend='file'")
    check_option_names(backend, factory, given)
    made = class_of(factory)
    if made is not None:  # before opening: leftover="discard" deletes
        _check_promise(made, needed)
    try:
        opened = factory(stream, **given)
    except (HybridQueueError, TypeError, ValueError):
        raise
    except Exception as exc:
        raise BackendError(f"cannot open the overflow of {stream.stream_id!r}: {exc}") from exc
    try:
        _check(opened, f"the backend that {backend!r} opened")
        _check_promise(opened, needed)
    except HybridQueueError:
        if isinstance(opened, OverflowBackend):
            opened.close(delete=False)
        raise
    return opened


def check_option_names(
    backend: object, factory: BackendFactory, given: Mapping[str, object]
) -> None:
    """Raise `ValueError`, listing the known ones, if `given` names an option `factory` lacks."""
    known = options(factory) if given else {}
    for name in given:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"backend {backend!r} has no option {name!r}; its options: {listed}")


def _registered(entry: EntryPoint) -> type[OverflowBackend]:
    where = f"backend {entry.name!r} from {_origin(entry)}"
    try:
        module = entry.load()
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        manager.register(module, entry.name)
        manager.check_pending()
        offered = [b for backends in manager.hook.hq_register_backends() for b in backends]
    except ImportError as exc:
        if entry.extras and entry.dist is not None:
            wanted = f"{entry.dist.name}[{','.join(entry.extras)}]"
            raise PluginError(f"{where} needs an extra ({exc}): pip install '{wanted}'") from exc
        raise PluginError(f"{where} cannot be imported: {exc}") from exc
    except Exception as exc:
        raise PluginError(f"{where} is broken: {type(exc).__name__}: {exc}") from exc
    named = [b for b in offered if getattr(b, "name", None) == entry.name]
    if len(named) != 1:
        got = ", ".join(repr(getattr(b, "name", b)) for b in offered) or "nothing"
        raise PluginError(
            f"{where} must register one class whose name is {entry.name!r}; it registers {got}"
        )
    return typing.cast(type[OverflowBackend], named[0])


def _check_promise(backend: OverflowBackend | type[OverflowBackend], needed: Capability) -> None:
    missing = needed & ~backend.capabilities
    if missing:
        raise CapabilityError(
            f"backend {backend.name!r} does not promise {missing.name}, which durable=True needs"
        )


def _check(backend: object, where: str) -> None:
    """Raise `PluginError` unless `backend`, class or instance, has what the seam demands."""
    version = getattr(backend, "api_version", None)
    if version != API_VERSION:
        raise PluginError(
            f"{where} is written for API version {version}, this hybrid-queue has {API_VERSION}: "
            "install versions of the two that go together"
        )
    demanded = {"name": str, "capabilities": Capability}
    wrong = [n for n, kind in demanded.items() if not isinstance(getattr(backend, n, None), kind)]
    for name, member in vars(OverflowBackend).items():
        if isinstance(member, types.FunctionType) and not name.startswith("_"):
            inherited = inspect.getattr_static(backend, name, None) is member
            if inherited or not callable(getattr(backend, name, None)):
                wrong.append(name)
    if wrong:
        raise PluginError(f"{where} lacks, or has the wrong type of: {', '.join(wrong)}")


def _origin(entry: EntryPoint) -> str:
    dist = entry.dist
    return f"{dist.name} {dist.version}" if dist is not None else entry.value
