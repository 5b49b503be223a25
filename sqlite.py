# -*- coding: utf-8 -*-
"""The accounts in one SQLite file, while one server serves it.

A server finds, checks and opens the file as the commands do, by `sqlite_file`.
"""
from __future__ import unicode_literals

import time

import peewee

from checkpoint import Checkpointer
from constants import BUSY_SECONDS, WAL_LARGE
from files import HeldFiles
from sqlite_file import DURABLE, SQLiteFile, check_one_name, is_broken_text
from storage import STORAGE_ERRORS, CannotOpen, UnusableRow, check_usable
from text import Text


class SQLite(SQLiteFile):
    """The accounts in one file; see `Storage` for what each method does."""

    INSERT = "INSERT OR IGNORE INTO account (credits, items, nickname) VALUES (?, ?, ?)"
    # Optimistic locking: the row must be as it was last loaded or stored.
    UPDATE = "UPDATE account SET credits = ?, items = ? WHERE id = ? AND credits = ? AND items = ?"
    RECORD = ("INSERT INTO trade (account_id, time, what, item, price, credits, note) "
              "VALUES (?, ?, ?, ?, ?, ?, '')")
    LOAD = ("SELECT id, credits, items, hash FROM account "
            "LEFT JOIN account_key ON account_id = id WHERE nickname = ?")
    PROTECT = "INSERT OR REPLACE INTO account_key (account_id, hash) VALUES (?, ?)"

    def __init__(self, path):
        super(SQLite, self).__init__(path)
        self._is_reading = False        # whether a read transaction has begun in this tick

    def serve(self):
        path = self._path()
        self._check_exists(path)
        check_one_name(path, self.name)
        with self._explained():
            self._files = HeldFiles(path)
        try:
            self._open(BUSY_SECONDS, DURABLE)
            try:
                self._cursor = self.database.cursor()       # to make one takes as long as a SELECT
                with self._explained():
                    self._files.remember()
                    self._checkpointer = Checkpointer(self.query, path)
            except CannotOpen:
                self.database.close()
                raise
        except CannotOpen:
            self._files.close()
            raise

    def close(self):
        if not self._checkpointer.stop():
            return              # the end of the process closes all, the locks last
        if self._files.problem() is not None:
            self._checkpointer.copy_at_last()   # SQLite makes no checkpoint of a file that moved
        # A checkpoint of a large log would take too long for a stop. And SQLite, which compares the
        # inode alone, could remove the log of another database that has this name now.
        if self._files.wal_size > WAL_LARGE or self._files.has_moved():
            self._files.block_checkpoint()
        # A statement that the cursor keeps would defer SQLite's own close, with its checkpoint,
        # until the locks are gone.
        self._cursor.close()
        self.database.close()
        self._files.close()

    def load(self, nickname):
        # One read transaction for all logins of a tick: to begin and end one takes as long as a
        # SELECT.
        if not self._is_reading:
            self._cursor.execute("BEGIN")
            self._is_reading = True
        row = self._select(self.LOAD, nickname)
        if row is None:
            return None, None
        key_hash = row[3]
        if key_hash is not None and type(key_hash) is not Text:
            raise UnusableRow()
        return check_usable(row[:3]), key_hash

    def reload(self, nickname):
        return check_usable(self._select(self.SELECT, nickname))

    def _select(self, sql, nickname):
        try:
            # All rows: a SELECT that is not at its end keeps the write-ahead log from starting
            # anew.
            rows = self._cursor.execute(sql, (nickname,)).fetchall()
            return rows[0] if rows else None
        except STORAGE_ERRORS as error:
            self._cursor = self.database.cursor()       # the old one's SELECT is not at its end
            self._end_reading()
            if is_broken_text(error):
                raise UnusableRow()
            raise

    def data_version(self):
        return self.query("PRAGMA data_version").fetchone()[0]

    def save(self, rows, ledger, keys):
        self._end_reading()
        problem = self._files.problem()
        if problem is not None:
            if not self._checkpointer.copy():
                problem += ("; do not stop the server: not all that was acknowledged is in the "
                            "database file, while another program reads it or the disk is full")
            raise peewee.OperationalError(problem)
        self.wal_size = self._files.wal_size
        self._checkpointer.look_after(self.wal_size)
        try:
            self.database.begin("IMMEDIATE")
            conflicts = self._write(rows)
            self._record(ledger, keys, conflicts)
            self.database.commit()
        except STORAGE_ERRORS:
            self._roll_back()
            raise
        return conflicts

    def end_tick(self):
        self._end_reading()

    def _end_reading(self):
        if self._is_reading:
            self._is_reading = False
            self._roll_back()

    def has_pending_work(self):
        return not self._checkpointer.is_copied

    def do_pending_work(self, clock):
        self._files.problem()
        self.wal_size = self._files.wal_size
        self._checkpointer.copy_when_idle(clock, self.wal_size)

    def _roll_back(self):
        try:
            self.database.rollback()
        except STORAGE_ERRORS:
            pass                # SQLite has rolled back itself, as it does when the disk is full

    def _write(self, rows):
        """Insert and update accounts; returns the conflicts, {account: current row or None}."""
        cursor = self._cursor
        known, suspects = [], []
        for account, row in rows.items():
            if account.stored is not None:
                known.append(account)
            else:
                cursor.execute(self.INSERT, row + (account.nickname,))
                account.id = cursor.lastrowid
                if not cursor.rowcount:
                    suspects.append(account)
        if known:
            cursor.executemany(self.UPDATE, [rows[account] + account.stored for account in known])
            if cursor.rowcount != len(known):
                suspects += known               # the count of executemany does not tell which
        conflicts = {}
        for account in suspects:
            try:
                row = self.reload(account.nickname)
            except UnusableRow:
                row = None
            if account.stored is None or row != (account.id,) + rows[account]:
                conflicts[account] = row
        return conflicts

    def _record(self, ledger, keys, conflicts):
        """Store the ledger and the keys of all accounts but those in `conflicts`."""
        now = int(time.time())
        cursor = self._cursor
        if conflicts:
            ledger = [change for change in ledger if change[0] not in conflicts]
        cursor.executemany(self.RECORD, [
            (account.id, now, kind, item, price, credits)
            for account, kind, item, price, credits in ledger])
        if keys:
            cursor.executemany(self.PROTECT, [
                (account.id, key_hash) for account, key_hash in keys.items()
                if account not in conflicts])
