"""Builds the documentation site into build/site: ``make docs``. A warning is an error.

Zensical's strict mode stops at links to pages and anchors that do not exist, at names that no
docstring has, and at nothing else. So its other warnings count as well, and the built pages are
looked through for dead links to files, and for anything that a reader's browser would load from
elsewhere.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote

__all__ = ["build", "problems"]

ROOT: Final = Path(__file__).parent.parent
SITE: Final = ROOT / "build" / "site"

_WARNING: Final = re.compile(r"^(?:griffe|mkdocstrings): .*$", re.MULTILINE)
_REMOTE: Final = re.compile(r"(?:https?:)?//")
_LOADED_BY_STYLE: Final = re.compile(r"""(?:xlink:href=|url\()["']?((?:https?:)?//[^"')]*)""")
_ABSOLUTE: Final = "404.html"
"""Is served for any address, so its links begin at the root of the server."""


def build() -> list[str]:
    """Build the site; what is wrong with it."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        return [done.stdout]
    return [*_WARNING.findall(done.stdout), *problems(SITE)]


def problems(site: Path) -> list[str]:
    """Links in the built `site` that lead nowhere, and what its pages load from elsewhere."""
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html")) if path.name != _ABSOLUTE}
    found = [
        f"{page.path.relative_to(site)}: {problem}"
        for page in pages.values()
        for problem in _problems_of(page, pages)
    ]
    found += [
        f"{path.relative_to(site)}: loads {address}"
        for path in sorted([*site.rglob("*.css"), *site.rglob("*.svg")])
        for address in _LOADED_BY_STYLE.findall(path.read_text("utf-8"))
    ]
    return found


class _Page(HTMLParser):
    """Where a page leads to, what it loads, and the anchors it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name == "src" or (name == "href" and tag == "link"):
                self.loaded.append(value or "")


def _problems_of(page: _Page, pages: dict[Path, _Page]) -> Iterator[str]:
    for address in page.loaded:
        if _REMOTE.match(address):
            yield f"loads {address}"
    for address in page.links + page.loaded:
        if _REMOTE.match(address) or address.startswith(("mailto:", "data:")):
            continue
        name, _, anchor = address.partition("#")
        target = (page.path.parent / unquote(name)).resolve() if name else page.path
        if not target.is_file():
            yield f"leads to {address}, which is not there"
        elif anchor and target in pages and unquote(anchor) not in pages[target].anchors:
            yield f"leads to {address}, which has no such place"


if __name__ == "__main__":
    sys.exit("\n".join(build()) or None)
