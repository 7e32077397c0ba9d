import re
import subprocess
import sys
from pathlib import Path

import pytest

from hq_cli.main import COMMANDS, main
from tests.cli.running import hq


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run `main`, which must fail with one error and no traceback; returns what it said."""
    assert main(args) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hq: error: ")
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "COMMAND"),
        (["polish"], "choose from 'pipe', 'demo', 'backends'"),
        (["pipe", "--memory", "12Q"], "such as 64M for 64 MiB"),
        (["pipe", "--memory", "0"], "at least one byte"),
        (["pipe", "--memory", "-5"], "such as 64M for 64 MiB"),
        (["pipe", "--max-disk", "0"], "at least one byte"),
        (["pipe", "--block-size", "0"], "at least one byte"),
        (["pipe", "--block-size", "11M"], "a block is at most 10.0 MiB"),
        (["pipe", "--memory", "1K"], "raise one or lower the other"),
        (["pipe", "--interval", "0"], "seconds above 0"),
        (["pipe", "--interval", "nan"], "seconds above 0"),
        (["pipe", "--interval", "soon"], "seconds above 0"),
        (["pipe", "--metrics", "9100"], "'9100' is not HOST:PORT, such as 127.0.0.1:9100"),
        (["pipe", "--metrics", ":9100"], "is not HOST:PORT"),
        (["pipe", "--metrics", "localhost:"], "is not HOST:PORT"),
        (["pipe", "--metrics", "localhost:http"], "is not HOST:PORT"),
        (["pipe", "--metrics", "localhost:-1"], "is not HOST:PORT"),
        (["pipe", "--metrics", "localhost:65536"], "is not HOST:PORT"),
        (["pipe", "--metrics", "[]:80"], "is not HOST:PORT"),
        (["pipe", "--metrics", "::1:80"], "'::1:80' is ambiguous: write [::1]:80"),
        (["pipe", "--when-full", "panic"], "'block', 'raise', 'drop-oldest', 'drop-newest'"),
        (["pipe", "--leftover", "keep"], "'resume', 'discard', 'refuse', 'quarantine'"),
        (["pipe", "--quiet", "--force-status"], "not allowed with"),
        (["pipe", "--mem", "1M"], "see 'hq --help'"),
        (["pipe", "surplus"], "surplus"),
        (["demo", "--seconds", "0"], "seconds above 0"),
        (["demo", "--seconds", "0.5"], "at least 1"),
    ],
)
def test_a_wrong_option_is_refused_saying_what_to_do(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *args)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--backend", "nowhere"], "installed are: "),
        (["-o", "colour=red"], "its options: "),
        (["-o", "colour"], "KEY=VALUE"),
        (["--jsonl", "no/such/directory"], "cannot write --jsonl no/such/directory: No such file"),
        (["--dir", "{file}"], "name a directory"),
        (["--dir", "/dev/null/x"], "cannot make the directory"),
    ],
)
def test_what_cannot_be_opened_is_refused_before_anything_is_read(
    args: list[str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    done = hq("pipe", *[arg.format(file=file) for arg in args], data=b"unread")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"hq: error: ")
    assert done.stderr.count(b"hq: ") == 1
    assert said in done.stderr.decode()


def test_a_demo_that_cannot_write_its_picture_does_not_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "cannot write --svg" in refused(capsys, "demo", "--svg", "no/such/directory/demo.svg")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_there_for_everything(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: hq" in capsys.readouterr().out


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"hq \(hybrid-queue\) \d+\.\d+\S*\n", capsys.readouterr().out)


def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("hq_cli.backends.run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["backends"])


def test_ctrl_c_is_an_end_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("hq_cli.backends.run", interrupted)
    assert main(["backends"]) == 1
    assert capsys.readouterr().err == "hq: interrupted\n"


def test_help_imports_neither_the_queue_nor_a_command() -> None:
    code = (
        "import sys, hq_cli.main\n"
        "try: hq_cli.main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted(m for m in sys.modules if m.startswith('hq_')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr == b"hq_cli hq_cli.errors hq_cli.main\n"
