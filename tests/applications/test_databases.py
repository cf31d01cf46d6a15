"""SQLite with several processes at once: locks, journals that are renamed or cut, and the shared memory of WAL mode."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import pytest

from tests.applications.conftest import Workplace

_PROCESSES, _TRANSACTIONS = 3, 25
_WRITER = """
import os, sqlite3, sys
path, me, transactions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
connection = sqlite3.connect(path, timeout=100, isolation_level=None)
for number in range(transactions):
    connection.execute("begin immediate")
    connection.execute("update counter set n = n + 1")
    connection.execute("insert into rows values (?, ?, ?)", (me, number, os.urandom(2000)))
    connection.execute("rollback" if number % 5 == 4 else "commit")
    assert connection.execute("select count(*) from rows where me = ?", (me,)).fetchone()[0] <= number + 1
connection.close()
"""


@pytest.mark.parametrize("mode", ["delete", "truncate", "wal"])
def test_sqlite_with_several_processes_keeps_every_transaction(workplace: Workplace, mode: str) -> None:
    path = workplace.root / "base.db"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        connection.execute("create table counter (n integer)")
        connection.execute("insert into counter values (0)")
        connection.execute("create table rows (me integer, number integer, body blob, primary key (me, number))")
        connection.commit()
    writers = [workplace.start(sys.executable, "-c", _WRITER, path, str(me), str(_TRANSACTIONS)) for me in range(_PROCESSES)]
    for writer in writers:
        _, said = writer.communicate(timeout=150)
        assert writer.returncode == 0, said
    workplace.settle()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        committed = _PROCESSES * (_TRANSACTIONS - _TRANSACTIONS // 5)
        assert connection.execute("select n from counter").fetchone() == (committed,)
        assert connection.execute("select count(*) from rows").fetchone() == (committed,)
