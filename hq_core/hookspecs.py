"""The one hook: how a package offers overflow backends.

A plugin is a module named by an entry point in the group ``hq_backends``; the entry point's name
is the backend's. The module implements the hook::

    from hq_core.hookspecs import hookimpl

    @hookimpl
    def hq_register_backends():
        return [MyBackend]
"""

from typing import Final

import pluggy

from hq_core.protocols import OverflowBackend

__all__ = ["ENTRY_POINT_GROUP", "PROJECT", "hookimpl", "hq_register_backends"]

PROJECT: Final = "hybrid_queue"
ENTRY_POINT_GROUP: Final = "hq_backends"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def hq_register_backends() -> list[type[OverflowBackend]]:  # type: ignore[empty-body]
    """Return the backend classes this plugin offers.

    Called once per process, when a backend of the plugin's entry-point name is first asked for.
    """
