"""``hq top``: streams as they are now, and how fast they move.

`directory` and `endpoint` read, `model` makes rows of what they have read, `table` writes a row
down, `sampling` waits, and `screen` draws.
"""

from hq_cli.top.command import configure, run

__all__ = ["configure", "run"]
