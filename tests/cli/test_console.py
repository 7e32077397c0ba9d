import io
import logging
import os
import termios

from hq_cli.console import Console

ERASE = "\r\x1b[K"


def test_the_status_line_replaces_itself_and_goes_away() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.show("one")
    console.show("two")
    console.clear()
    console.clear()
    assert stream.getvalue() == f"{ERASE}one{ERASE}two{ERASE}"


def test_a_line_that_stays_goes_above_the_status_line() -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.say("first")
    console.show("status")
    console.say("second")
    assert stream.getvalue() == f"hq: first\n{ERASE}status{ERASE}hq: second\nstatus"


def test_warnings_of_the_logger_are_lines_that_stay_while_relayed() -> None:
    stream = io.StringIO()
    console = Console(stream)
    logger = logging.getLogger("tests.cli.console")
    logger.propagate = False
    with console.relaying(logger):
        logger.warning("the disk is %s", "full")
        logger.info("nobody needs to know")
    assert stream.getvalue() == "hq: the disk is full\n"
    assert not logger.handlers


def test_without_standard_error_nobody_is_told_and_nothing_breaks() -> None:
    console = Console(None)
    console.say("anybody?")
    console.show("status")
    console.clear()
    assert not console.is_terminal()
    assert console.width() is None


def test_a_terminal_that_went_away_breaks_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with io.FileIO(writer, "w") as raw:
        console = Console(io.TextIOWrapper(raw, write_through=True))
        console.say("anybody?")
        assert console.width() is None


def test_a_terminal_says_how_wide_it_is() -> None:
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    with os.fdopen(follower, "w") as terminal:
        console = Console(terminal)
        assert console.is_terminal()
        assert console.width() == 99
    os.close(leader)
