"""Distributions with a backend, installed for the time of a test."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hq_core import registry

__all__ = ["SOUND", "UNSOUND", "Site", "installed", "site_in"]

SOUND = """
from hq_core.hookspecs import hookimpl
from hq_core.testing import MemoryBackend

class Backend(MemoryBackend):
    name = "mine"

@hookimpl
def hq_register_backends():
    return [Backend]
"""
"""A module with a backend called ``mine`` that keeps the contract."""

UNSOUND = SOUND.replace(
    '    name = "mine"',
    """    name = "mine"
    def __len__(self):
        return self.depth()
""",
)
"""As `SOUND`, except that an empty one is falsy."""


@dataclass
class Site:
    """Where distributions are installed for the time of a test."""

    folder: Path
    path: pytest.MonkeyPatch
    modules: list[str]

    def install(
        self, distribution: str, name: str, code: str | None, *, extra: str = "", version: str = "1"
    ) -> None:
        """Install `distribution`, whose module, made of `code`, offers the backend `name`."""
        module = f"plugin_of_{distribution}"
        folder = self.register(distribution, name, module, extra=extra, version=version)
        self.modules.append(module)
        if code is not None:
            (folder / f"{module}.py").write_text(code)

    def register(
        self, distribution: str, name: str, module: str, *, extra: str = "", version: str = "1"
    ) -> Path:
        """Install `distribution`, which says that `module` offers the backend `name`."""
        folder = self.folder / distribution
        info = folder / f"{distribution}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        wanted = f" [{extra}]" if extra else ""
        (info / "entry_points.txt").write_text(f"[hq_backends]\n{name} = {module}{wanted}\n")
        self.path.syspath_prepend(folder)
        return folder


@contextmanager
def site_in(folder: Path) -> Iterator[Site]:
    """A site in `folder`; what is installed there is forgotten afterwards."""
    _forget()
    with pytest.MonkeyPatch.context() as path:
        site = Site(folder, path, [])
        yield site
    _forget()
    for module in site.modules:
        sys.modules.pop(module, None)


def _forget() -> None:
    registry.load.cache_clear()
    registry.names.cache_clear()


@contextmanager
def installed(folder: Path, code: str) -> Iterator[None]:
    """Within it, ``vendor 1.5`` offers the backend ``mine`` of a module made of `code`."""
    with site_in(folder) as site:
        site.install("vendor", "mine", code, version="1.5")
        yield
