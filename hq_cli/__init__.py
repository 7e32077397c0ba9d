"""The command ``hq``: the queue between two pipes, a demonstration, and the list of backends."""
