"""The counters of a queue, and what they are to be after an interruption."""

from pathlib import Path

import pytest

from hq_core import QueueStats
from hq_core.engine.accounts import Accounts


def enter(accounts: Accounts, count: int, span: int, offered: float) -> None:
    """Let `count` items in, as the engine does."""
    accounts.enqueued += count
    if accounts.is_due(offered):
        accounts.mark(count, span, offered)


def snapshot(accounts: Accounts, there: int, now: float = 0.0) -> QueueStats:
    """With `there` items in the queue, none leased, and no tier to speak of."""
    return accounts.snapshot(
        now,
        span=there,
        stream_id="s",
        depth=there,
        leased=0,
        memory_items=there,
        disk_bytes=0,
        pressure=0.0,
        memory_bytes=0,
        backend="none",
        directory=Path("/"),
        memory_limit_bytes=None,
        disk_limit_bytes=None,
        blocked_seconds=0.0,
    )


def balance(accounts: Accounts) -> int:
    """How many items are in the queue, or leased, according to the counters."""
    return accounts.enqueued - accounts.dequeued - accounts.discarded


def test_what_was_recovered_was_enqueued_at_the_opening() -> None:
    accounts = Accounts(3, 10.0)
    stats = snapshot(accounts, 3, 12.0)
    assert (stats.recovered, stats.enqueued, stats.oldest_age_seconds) == (3, 3, 2.0)
    assert balance(accounts) == 3


def test_an_empty_queue_has_no_oldest_item() -> None:
    assert Accounts(0, 10.0).oldest_age(0, 99.0) == 0.0


def test_what_enters_counts_from_when_it_was_offered() -> None:
    accounts = Accounts(0, 0.0)
    enter(accounts, 2, 2, 5.0)
    enter(accounts, 3, 5, 6.0)
    assert accounts.enqueued == 5
    assert accounts.oldest_age(5, 8.0) == 3.0
    accounts.dequeued += 2
    assert accounts.oldest_age(3, 8.0) == 2.0


def test_an_item_that_waited_to_come_in_is_not_made_younger_by_those_before_it() -> None:
    accounts = Accounts(0, 0.0)
    enter(accounts, 1, 1, 5.0)
    enter(accounts, 1, 2, 1.0)
    accounts.dequeued += 1
    assert accounts.oldest_age(1, 9.0) == 8.0


def test_the_oldest_that_are_dropped_are_discarded() -> None:
    accounts = Accounts(0, 0.0)
    enter(accounts, 5, 5, 0.0)
    accounts.drop(2)
    stats = snapshot(accounts, 3)
    assert (stats.discarded, stats.dropped, stats.dropped_newest) == (2, 2, 0)
    assert balance(accounts) == 3


def test_the_newest_that_are_dropped_were_accepted_and_discarded() -> None:
    accounts = Accounts(0, 0.0)
    enter(accounts, 1, 1, 0.0)
    accounts.drop_newest(2)
    stats = snapshot(accounts, 1)
    assert (stats.enqueued, stats.discarded, stats.dropped, stats.dropped_newest) == (3, 2, 2, 2)
    assert balance(accounts) == 1


def test_what_was_dropped_before_it_got_in_has_no_age() -> None:
    accounts = Accounts(0, 0.0)
    enter(accounts, 1, 1, 0.0)
    accounts.drop_newest(5)
    enter(accounts, 1, 2, 4.0)
    accounts.dequeued += 1
    assert accounts.oldest_age(1, 6.0) == 2.0


def test_what_is_damaged_is_discarded_and_leaves_the_others_as_old_as_they_are() -> None:
    accounts = Accounts(0, 0.0)
    for second in range(5):
        enter(accounts, 1, second + 1, float(second))
    accounts.lose(2, behind=2)
    stats = snapshot(accounts, 3, 10.0)
    assert (stats.discarded, stats.damaged, stats.dropped) == (2, 2, 0)
    ages = []
    for there in (3, 2, 1):
        ages.append(accounts.oldest_age(there, 10.0))
        accounts.dequeued += 1
    assert ages == [10.0, 7.0, 6.0]


@pytest.mark.parametrize(("dequeued", "discarded"), [(0, 0), (2, 0), (1, 2)])
def test_what_balances_is_reconciled_without_a_change(dequeued: int, discarded: int) -> None:
    accounts = Accounts(0, 0.0)
    enter(accounts, 5, 5, 0.0)
    accounts.dequeued, accounts.discarded = dequeued, discarded
    there = balance(accounts)
    before = snapshot(accounts, there)
    accounts.reconcile(there)
    assert snapshot(accounts, there) == before


def test_what_is_there_and_not_counted_was_accepted() -> None:
    accounts = Accounts(2, 0.0)
    accounts.reconcile(5)
    assert (accounts.enqueued, accounts.dequeued, accounts.discarded) == (5, 0, 0)


def test_what_is_counted_and_not_there_was_taken() -> None:
    accounts = Accounts(5, 0.0)
    accounts.drop(1)
    accounts.reconcile(1)
    assert (accounts.enqueued, accounts.dequeued, accounts.discarded) == (5, 3, 1)


@pytest.mark.parametrize("there", range(8))
def test_reconciled_accounts_balance_and_nothing_is_negative(there: int) -> None:
    accounts = Accounts(3, 0.0)
    accounts.dequeued = 1
    accounts.drop_newest(2)
    accounts.reconcile(there)
    assert balance(accounts) == there
    assert min(accounts.enqueued, accounts.dequeued, accounts.discarded) >= 0
