"""The front end for coroutines: the only place that knows asyncio."""

from hq_core.aio.queue import AsyncHybridQueue

__all__ = ["AsyncHybridQueue"]
