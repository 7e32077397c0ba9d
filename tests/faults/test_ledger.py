"""The judge itself: what it lets pass, and what it does not."""

from itertools import chain
from typing import Any

import pytest

from tests.faults.ledger import Ledger, Verdict
from tests.faults.workload import DAMAGED, EMPTY, Fact, Setup

DURABLE = Setup("any", again=2)
KILLED: list[Fact] = [["killed"]]


def state(held: int, *, struck: int = 0, dropped: int = 0) -> tuple[int, int, int, int]:
    """What every answer ends with."""
    return struck, held, held, dropped


def opened(held: int) -> list[Fact]:
    return [["open"], ["opened", "", *state(held)]]


def begun(*fact: Any) -> list[Fact]:
    return [list(fact)]


def closed() -> list[Fact]:
    return [["close"], ["closed", *state(0)]]


def put(*tokens: int, held: int) -> list[Fact]:
    return [["put", list(tokens)], ["accepted", *state(held)]]


def take(*tokens: int, held: int) -> list[Fact]:
    return [["take", len(tokens)], ["taken", list(tokens), *state(held)]]


def refused(call: Fact, name: str = "BackendError", held: int = 0, **options: Any) -> list[Fact]:
    declared = name.startswith("Backend")
    return [call, ["refused", name, declared, "it says", *state(held, **options)]]


def judge(*parts: list[Fact], setup: Setup = DURABLE) -> Verdict:
    """The verdict on facts, in which `KILLED` ends a life."""
    ledger = Ledger(setup)
    for fact in chain(*parts):
        if fact == KILLED[0]:
            ledger.died()
        else:
            ledger.hear(fact)
    return ledger.close()


def test_all_that_was_accepted_came_in_order() -> None:
    facts = [opened(0), put(0, EMPTY, 2, held=3), take(0, EMPTY, held=1), take(2, held=0)]
    assert judge(*facts) == Verdict()


def test_a_message_that_does_not_come_is_lost() -> None:
    verdict = judge(opened(0), put(0, held=1), put(1, held=2), KILLED, opened(1), take(1, held=0))
    assert verdict.lost == 1
    assert verdict.wrong


def test_an_empty_message_that_does_not_come_is_missed_too() -> None:
    assert judge(opened(0), put(EMPTY, held=1), KILLED, opened(0)).wrong


def test_a_message_that_was_refused_and_comes_is_a_ghost() -> None:
    verdict = judge(opened(0), refused(["put", [0]], struck=1), opened(1), take(0, held=0))
    assert verdict.ghosts == 1
    assert verdict.wrong


def test_bytes_that_nobody_sent_are_a_ghost() -> None:
    assert judge(opened(0), put(0, held=1), take(DAMAGED, held=0)).ghosts == 1


def test_a_message_behind_a_younger_one_is_reordered() -> None:
    assert judge(opened(0), put(0, 1, held=2), take(1, 0, held=0)).reordered == 1


@pytest.mark.parametrize("stored", [0, 1, 2])
def test_what_was_on_its_way_at_a_kill_may_be_there_in_part(stored: int) -> None:
    comes = take(*range(stored), held=0) if stored else []
    verdict = judge(opened(0), begun("put", [0, 1]), KILLED, opened(stored), comes)
    assert verdict == Verdict(kills=1)


def test_what_was_on_its_way_is_there_in_order_or_not_at_all() -> None:
    assert judge(opened(0), begun("put", [0, 1]), KILLED, opened(1), take(1, held=0)).wrong


@pytest.mark.parametrize("again", [0, 1, 3])
def test_what_was_taken_last_may_come_again_after_a_kill(again: int) -> None:
    before = [opened(0), put(*range(6), held=6), take(0, 1, 2, held=3), take(3, held=2)]
    verdict = judge(*before, KILLED, opened(2 + again), take(*range(4 - again, 6), held=0))
    assert verdict == Verdict(kills=1, again=again)


def test_no_more_than_that_may_come_again() -> None:
    before = [opened(0), put(*range(6), held=6), take(0, 1, 2, held=3), take(3, held=2)]
    assert judge(*before, KILLED, opened(6), take(*range(6), held=0)).wrong


def test_nothing_comes_again_after_closing_in_peace() -> None:
    before = [opened(0), put(0, 1, held=2), take(0, held=1), closed()]
    assert not judge(*before, opened(1), take(1, held=0)).wrong
    assert judge(*before, opened(2), take(0, 1, held=0)).wrong


@pytest.mark.parametrize("came", [True, False])
def test_what_a_killed_call_was_to_return_may_be_gone_or_not(came: bool) -> None:
    before = [opened(0), put(0, 1, held=2), begun("take", 1), KILLED]
    after = [opened(2), take(0, 1, held=0)] if came else [opened(1), take(1, held=0)]
    assert judge(*before, *after) == Verdict(kills=1)


def test_it_may_still_be_gone_after_another_kill_amid_the_opening() -> None:
    before = [opened(0), put(0, 1, held=2), begun("take", 1), KILLED, begun("open"), KILLED]
    assert judge(*before, opened(1), take(1, held=0)) == Verdict(kills=2)


def test_a_depth_that_does_not_add_up_is_wrong() -> None:
    assert judge(opened(0), put(0, held=2), take(0, held=0)).wrong


def test_an_error_is_allowed_while_a_call_goes_wrong_and_not_later() -> None:
    once = [opened(0), refused(["put", [0]], struck=1)]
    assert not judge(*once).wrong
    assert judge(*once, refused(["put", [1]], struck=1)).wrong


def test_an_error_that_is_not_the_librarys_is_wrong() -> None:
    assert judge(opened(0), refused(["put", [0]], "OSError", struck=1)).wrong


def test_nothing_taken_though_something_is_there_is_wrong() -> None:
    assert judge(opened(0), put(0, held=1), take(held=1), take(0, held=0)).wrong


def test_a_descriptor_left_open_is_wrong() -> None:
    assert judge(opened(0), [["end", 1, []]]).wrong


def test_a_file_left_when_all_is_taken_is_wrong_unless_it_was_set_aside() -> None:
    assert judge(opened(0), begun("end", 0, ["s.overflow"])).wrong
    assert not judge(opened(0), begun("end", 0, ["s.overflow.quarantine-1"])).wrong


def test_what_only_memory_held_may_be_gone_if_the_queue_is_not_durable() -> None:
    accepted = [*begun("put", [0, 1]), *begun("accepted", 0, 2, 1, 0)]
    facts = [opened(0), accepted, KILLED, opened(1)]
    setup = Setup("any", durable=False)
    assert not judge(*facts, take(1, held=0), setup=setup).wrong
