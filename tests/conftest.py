import signal


def pytest_configure() -> None:
    """Signals do here what they do at a terminal, also where a shell ran this in the background.

    Such a shell, or `nohup`, has some ignored, and so would be every process that a test starts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
