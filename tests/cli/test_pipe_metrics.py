"""`hq pipe --metrics`: a running pipe is scraped."""

import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.running import Pipe, hq, pipe


def scrape(running: Pipe) -> dict[str, float]:
    """Its numbers, by name and own label."""
    running.hear("/metrics\n")
    url = re.findall(r"hq: metrics at (\S+)\n", running.said.decode())[0]
    with urllib.request.urlopen(url) as response:
        text = response.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            assert (labels.pop("stream"), labels.pop("backend")) == ("tv", "file")
            found[" ".join([name, *labels.values()])] = value
    return found


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_a_scrape_agrees_with_the_readings(tmp_path: Path) -> None:
    args = ("--name", "tv", "--memory", "64K", "--max-disk", "1M", "--dir", tmp_path)
    with pipe(*args, "--metrics", "127.0.0.1:0") as running:
        running.feed(bytes(500_000))
        reading = running.reading(lambda r: r["in_bytes"] == 500_000)
        told = scrape(running)
        assert told["hq_queue_size"] == reading["depth"] > 0
        assert told["hq_queue_usage_bytes memory"] == reading["memory_bytes"]
        assert told["hq_queue_usage_bytes disk"] == reading["disk_bytes"] > 0
        assert told["hq_queue_limit_bytes memory"] == 64 * 1024
        assert told["hq_queue_limit_bytes disk"] == 1024**2
        assert told["hq_queue_utilization_ratio"] == reading["pressure"] > 1.0
        running.end_input()
        assert running.rest() == bytes(500_000)
        assert running.status() == 0


def test_it_listens_at_the_given_address_and_nowhere_else() -> None:
    with pipe("--name", "tv", "--metrics", "127.0.0.1:0") as running:
        scrape(running)
        port = int(re.findall(rb"127\.0\.0\.1:(\d+)/", running.said)[0])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
def test_an_ipv6_address_is_in_brackets() -> None:
    with pipe("--name", "tv", "--metrics", "[::1]:0") as running:
        assert "hq_queue_size" in scrape(running)
        assert b"hq: metrics at http://[::1]:" in running.said


def test_a_port_that_is_taken_is_an_error_and_nothing_is_read(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = hq("pipe", "--metrics", address, "--dir", tmp_path, data=b"precious")
    said = f"hq: error: cannot serve --metrics at {address}: Address already in use\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", said)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; from hq_cli.main import main; "
        "sys.modules['prometheus_client'] = None; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "pipe", "--metrics", "127.0.0.1:0", "--dir", tmp_path],
        input=b"precious",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        "hq: error: cannot serve --metrics: hq_metrics.prometheus needs an extra: "
        "pip install 'hybrid-queue[prometheus]'\n"
    )
