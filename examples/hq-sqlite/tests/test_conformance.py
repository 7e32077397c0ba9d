from hq_sqlite import SqliteBackend

from hq_core.testing import BackendConformance


class TestSqlite(BackendConformance):
    backend = SqliteBackend

    @staticmethod
    def damage(backend: SqliteBackend, number: int) -> None:
        with backend._db as db:
            db.execute("DELETE FROM records WHERE seq = ?", (backend._log.head + number,))
