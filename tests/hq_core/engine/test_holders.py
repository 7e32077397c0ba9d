"""Threads as holders of items."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hq_core.engine.holders import this_thread
from hq_core.engine.in_flight import Holder


def holder() -> Holder:
    return this_thread.holder


def test_a_thread_is_one_holder_each_time_it_asks() -> None:
    assert holder() == holder()
    assert hash(holder()) == hash(holder())


def test_while_it_runs_it_has_not_ended() -> None:
    taker = holder()()
    assert taker is not None
    assert not taker.done()


def test_threads_are_different_holders() -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(holder).result()
        assert other != holder()
        taker = other()
        assert taker is not None  # its thread is waiting for more to do
        del taker
    assert other() is None


def test_a_holder_is_gone_when_its_thread_has_ended_whoever_keeps_the_thread_object() -> None:
    found: list[Holder] = []
    thread = threading.Thread(target=lambda: found.append(holder()))
    thread.start()
    thread.join()
    assert found[0]() is None
    assert found[0] != holder()
