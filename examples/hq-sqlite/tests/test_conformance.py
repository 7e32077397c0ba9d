from hq_sqlite import SqliteBackend

from hq_core.testing import BackendConformance


class TestSqlite(BackendConformance):
    backend = SqliteBackend
