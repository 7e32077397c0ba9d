"""Pages of metrics that are not as they should be, and servers that are not."""

import contextlib
import http.server
import socket
import threading
import urllib.error
from collections.abc import Iterator

import pytest

from hq_cli.errors import CommandError
from hq_cli.top import endpoint
from hq_cli.top.endpoint import Endpoint, readings
from hq_metrics.prometheus import scraped
from hq_metrics.table import METRICS


@contextlib.contextmanager
def serving(page: bytes, status: int = 200) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(OSError):  # it was told enough
                self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/metrics"
        finally:
            server.shutdown()
            thread.join()


def test_every_number_it_takes_is_in_the_table() -> None:
    known = {(metric.name, value) for metric in METRICS for value in metric.values}
    taken = {(name, value) for name, values in endpoint._FIELDS.items() for value in values}
    assert taken <= known


def test_queues_that_differ_in_another_label_are_two() -> None:
    text = "".join(f'hq_queue_size{{stream="s",instance="{i}"}} {i}\n' for i in (1, 2))
    assert [reading.depth for reading in readings(scraped(text) or [])] == [1, 2]


@pytest.mark.parametrize("number", ["NaN", "+Inf", "-1", "1e300", "9" * 400])
def test_what_is_no_number_of_ours_is_not_known(number: str) -> None:
    (found,) = readings(scraped(f'hq_queue_size{{stream="s"}} {number}\n') or [])
    assert found.depth is None


def test_an_error_answer_leaves_no_connection_open() -> None:
    with serving(b"", 503) as url:
        with pytest.raises(CommandError, match="answers 503 Service") as refused:
            Endpoint(url).read()
        answer = refused.value.__cause__
        assert isinstance(answer, urllib.error.HTTPError)
        assert answer.closed


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MOST_BYTES", 2 * 1024**2)
    page = b"# " + bytes(4 * 1024**2)
    with serving(page) as url, pytest.raises(CommandError, match="more than 2 MiB"):
        Endpoint(url).read()


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_TIMEOUT", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(CommandError, match="no answer within"):
            Endpoint(silent_url).read()


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "http://", "http://[", "http://a:b/", "http://a:0/", "http://a/ b", "http://é"],
)
def test_another_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(CommandError, match=r"is no address of metrics: write one such as http"):
        Endpoint(url)
