import os
import signal
import threading

from hq_cli.inbox import ENDED, receiving


def test_signals_and_ends_of_threads_come_in_order() -> None:
    with receiving([signal.SIGTERM, signal.SIGHUP]) as inbox:
        assert inbox.wait(0) == b""
        os.kill(os.getpid(), signal.SIGTERM)
        inbox.post()
        os.kill(os.getpid(), signal.SIGHUP)
        assert [inbox.wait(None)[0] for _ in range(3)] == [signal.SIGTERM, ENDED, signal.SIGHUP]


def test_a_thread_ends_the_wait() -> None:
    with receiving([]) as inbox:
        thread = threading.Thread(target=inbox.post)
        thread.start()
        assert inbox.wait(None) == bytes([ENDED])
        thread.join()


def test_afterwards_signals_do_what_they_did_and_late_posts_go_nowhere() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with receiving([signal.SIGTERM]) as inbox:
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
    inbox.post()


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with receiving([signal.SIGHUP]) as inbox:
            os.kill(os.getpid(), signal.SIGHUP)
            assert inbox.wait(0) == b""
    finally:
        signal.signal(signal.SIGHUP, before)
