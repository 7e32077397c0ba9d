"""hq inspect, verify, cat and repair, whatever the locale and whatever streams are called."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hq_cli.errors import CommandError
from hq_cli.main import main
from hq_cli.printing import print_lines, printable
from hq_cli.spool import show
from hq_core import HybridQueue, InlinePump
from hq_core.spool.names import file_name
from tests.cli.running import HQ

NAMES = [
    "日本",
    "caf\u00e9",
    "a\nb\r",
    "\x1b]0;owned\x07",
    "\x9b2J",
    "\ud800x",
    "\u202egpj",
    "",
    " ",
]
"""Ids that a terminal would obey, and that not every locale can show."""
FOREIGN = [b"\xff\xfe\x1b[2J.overflow", "日本\n.overflow".encode()]
"""Names of files that another program has made."""
LOCALES = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "C.UTF-8": {"LC_ALL": "C.UTF-8"},
    "POSIX": {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
}


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of streams with such names, one of them damaged."""
    directory = tmp_path_factory.mktemp("日本\x1b[1m")
    for name in NAMES:
        with HybridQueue(name, 1, directory, durable=True, pump=InlinePump()) as queue:
            queue.enqueue(b"record")
    for raw in FOREIGN:
        Path(os.fsdecode(os.fsencode(directory) + b"/" + raw)).write_bytes(b"\0\0\0\1x")
    damaged = directory / f"{file_name(NAMES[0])}.overflow"
    damaged.write_bytes(damaged.read_bytes() + b"\xff" * 9)
    return directory


def run(*args: str | Path, locale: str) -> tuple[int, str, str]:
    """Run ``hq`` in a locale: its exit status and what it said, which is without surprises."""
    variables = {n: v for n, v in os.environ.items() if not n.startswith(("LC_", "PYTHON", "LANG"))}
    done = subprocess.run(
        [*HQ, *map(str, args)],
        env=variables | LOCALES[locale],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
    )
    encoding = LOCALES[locale].get("PYTHONIOENCODING", "utf-8").partition(":")[0]
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert "Traceback" not in err
    for line in (out + err).splitlines():
        assert line.isprintable()
    return done.returncode, out, err


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("locale", LOCALES)
def test_every_stream_has_its_lines_in_every_locale(spool: Path, locale: str) -> None:
    count = len(NAMES) + len(FOREIGN)
    status, out, err = run("inspect", spool, locale=locale)
    lines = out.splitlines()
    assert (status, err) == (2, "")
    for field in ("stream", "backend", "owner", "records", "position"):
        assert len([line for line in lines if line.startswith(f"  {field} ")]) == count
    assert len([line for line in lines if not line.startswith(" ")]) == count
    for command in ("verify", "repair"):
        status, out, err = run(command, spool, locale=locale)
        lines = [line for line in out.splitlines() if not line.startswith("  ")]
        assert (status, err, len(lines)) == (2, "", count)
    status, out, err = run("cat", spool, locale=locale)
    assert (status, out) == (1, "")
    assert err.startswith(f"hq: error: {count} streams are in ")
    assert err.count("\n") == 1
    status, out, _ = run("inspect", "--json", spool, locale=locale)
    assert {row["stream"] for row in json.loads(out)["streams"]} >= set(NAMES)
    assert (status, out.isascii()) == (2, True)
    status, out, err = run("verify", spool / "missing\n\x1b日", locale=locale)
    assert (status, out, err.count("\n")) == (1, "", 1)


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("locale", LOCALES)
def test_help_can_be_read_in_every_locale(locale: str) -> None:
    for command in ("inspect", "verify", "cat", "repair"):
        assert run(command, "--help", locale=locale)[0] == 0


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("command", ["inspect", "verify", "cat", "repair"])
def test_a_closed_or_broken_standard_output_is_no_traceback(spool: Path, command: str) -> None:
    path = spool / f"{file_name(NAMES[1])}.overflow"
    for redirection in (">&-", "> /dev/full", "| true", ">&- 2>&-", "> /dev/full 2>&1"):
        script = f'cd "$0" && trap "" PIPE; "$@" {redirection}'
        done = subprocess.run(
            ["sh", "-c", script, Path(__file__).parents[2], *HQ, command, path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        if redirection == "> /dev/full":
            assert done.stderr == (
                "hq: error: cannot write standard output: No space left on device\n"
            )
            assert done.returncode == 1


def test_a_broken_output_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        with pytest.raises(CommandError, match="the reader of standard output went away"):
            show({}, ["line"], as_json=False)
        assert broken.closed  # or the interpreter would complain when it ends


def test_a_closed_output_is_written_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    print_lines(["line"])


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"caf\xe9 \u65e5"),
        ("latin-1", b"caf\xe9 " + rb"\u65e5"),
        ("utf-8", "caf\u00e9 日".encode()),
    ],
)
def test_what_the_output_cannot_encode_is_escaped(
    encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    print_lines(["caf\u00e9 日"])
    assert raw.getvalue() == shown + b"\n"


def test_an_output_without_an_encoding_gets_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    print_lines(["日", "b"])
    assert out.getvalue() == "日\nb\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 日 é", "plain 日 é"),
        ("\x1b[1m\r\n\0", r"\x1b[1m\r\n\x00"),
        ("\x9b", r"\x9b"),
        ("\u202e\u2028\ud800", r"\u202e\u2028\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_an_error_of_the_command_line_is_escaped_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--no\x1b[2J\nsuch", "x"]) == 1
    said = capsys.readouterr().err
    assert r"--no\x1b[2J\nsuch" in said
    assert said.count("\n") == 2  # and where to read more


def test_an_error_of_the_library_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise OSError(errno.EIO, "Input/output error", "a\n\x1b")

    monkeypatch.setattr("hq_cli.verify.run", fail)
    assert main(["verify", "x"]) == 1
    assert capsys.readouterr().err == r"hq: error: a\n\x1b: Input/output error" + "\n"
