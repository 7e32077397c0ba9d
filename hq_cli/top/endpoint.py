"""What a metrics page tells: the numbers of `stats()`, as `hq_metrics.prometheus` serves them."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from hq_cli.errors import CommandError
from hq_cli.printing import printable
from hq_cli.top.model import Kind, Reading

__all__ = ["MOST_BYTES", "Endpoint", "readings"]

MOST_BYTES: Final = 16 * 1024 * 1024
"""Most bytes that a page may have: about ten thousand queues."""
_TIMEOUT: Final = 5.0
"""Seconds to wait for a part of the answer, and for all of it once it has begun."""
_BLOCK: Final = 64 * 1024

_FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "hq.queue.size": {"": "depth"},
    "hq.queue.usage": {"memory": "memory_bytes", "disk": "disk_bytes"},
    "hq.queue.utilization": {"": "pressure"},
    "hq.queue.item.enqueued": {"": "enqueued"},
    "hq.queue.item.dequeued": {"": "dequeued"},
    "hq.queue.item.dropped": dict.fromkeys(
        ["drop_oldest", "drop_newest", "damage", "close"], "dropped"
    ),
    "hq.queue.spill.io": {"write": "to_disk", "read": "from_disk"},
    "hq.queue.oldest_item.age": {"": "oldest_seconds"},
}
"""Metric and value of its own label, to the field of a reading; where several go to one, their
sum does."""
_FRACTIONS: Final = {"pressure", "oldest_seconds"}


class Endpoint:
    """The queues on the metrics page at `url`. `CommandError` if that is no such address."""

    kind: ClassVar[Kind] = "endpoint"

    def __init__(self, url: str) -> None:
        self.name = url
        try:
            parts = urllib.parse.urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known or not url.isascii() or not url.isprintable() or " " in url:
            raise CommandError(
                f"{printable(url)} is no address of metrics: write one such as "
                "http://127.0.0.1:9100/metrics"
            )
        try:
            from hq_metrics.prometheus import scraped  # an extra, and slow to import
        except ModuleNotFoundError as exc:
            raise CommandError(f"cannot read metrics: {exc}") from exc
        self._scraped = scraped

    def read(self) -> list[Reading]:
        """Scrape it once; raises `CommandError` if nothing can be had of it."""
        try:
            text = _fetch(self.name).decode()
            numbers = self._scraped(text)
        except urllib.error.HTTPError as exc:
            with exc:  # it is an answer, too
                raise self._failure(f"it answers {exc.code} {exc.reason}") from exc
        except (http.client.HTTPException, OSError) as exc:
            raise self._failure(_explanation(exc)) from exc
        except ValueError as exc:
            raise self._failure("it is no metrics page") from exc
        if numbers is None:
            raise self._failure("the page has no metrics of a queue (hq_queue_...)")
        return readings(numbers)

    def _failure(self, reason: str) -> CommandError:
        return CommandError(printable(f"cannot read {self.name}: {reason}"))


def readings(numbers: Iterable[tuple[str, str, dict[str, str], float]]) -> list[Reading]:
    """A reading for each queue that `hq_metrics.prometheus.scraped` has found."""
    found: dict[frozenset[tuple[str, str]], dict[str, Any]] = {}
    for metric, value, labels, number in numbers:
        field = _FIELDS.get(metric, {}).get(value)
        fields = found.setdefault(frozenset(labels.items()), {})
        if field and 0 <= number < 2**63:  # nothing else is a number of ours
            number = number if field in _FRACTIONS else int(number)
            fields[field] = fields.get(field, 0) + number if field == "dropped" else number
    return [
        Reading(key, labels.get("stream", ""), labels.get("backend", ""), **fields)
        for key, fields in found.items()
        for labels in [dict(key)]
    ]


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Accept": "text/plain", "User-Agent": "hq-top"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        deadline = time.monotonic() + _TIMEOUT
        page = bytearray()
        while block := response.read1(_BLOCK):
            page += block
            if len(page) > MOST_BYTES:
                raise OSError(f"its answer has more than {MOST_BYTES // 1024**2} MiB")
            if time.monotonic() > deadline:
                raise TimeoutError
        return bytes(page)


def _explanation(exc: Exception) -> str:
    reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
    if isinstance(reason, TimeoutError):
        return f"no answer within {_TIMEOUT:g} s"
    if isinstance(reason, http.client.HTTPException):
        return "it does not speak HTTP"
    return getattr(reason, "strerror", None) or str(reason)
