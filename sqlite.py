# -*- coding: utf-8 -*-
"""The accounts in one SQLite file, which one server at a time serves.

WAL with `synchronous=FULL`: a commit is one fsync of the write-ahead log, and needs no new file
(sqlite.org/wal.html, sqlite.org/pragma.html).
"""
from __future__ import unicode_literals

import contextlib
import errno
import itertools
import os
import sqlite3
import stat
import time

import peewee

from checkpoint import Checkpointer
from constants import BUSY_SECONDS, COMMAND_BUSY_SECONDS, PAGE_SIZE, STREAM_ROWS, WAL_LARGE
from files import FilesInUse, HeldFiles, conflict, orphaned_log
from models import TABLES, Account, Trade
from schema import check_schema, create_command, create_tables, is_outdated
from storage import STORAGE_ERRORS, CannotOpen, Storage, UnusableRow, check_usable, describe
from text import Text, show

# The settings of a connection that writes.
DURABLE = [("journal_mode", "wal"), ("synchronous", "full"), ("foreign_keys", 1)]

# The setting of a connection that may run beside a server: it makes no checkpoint. Two connections
# that do so at once can damage the file, before SQLite 3.51.3 (sqlite.org/wal.html, section 11).
BESIDE_A_SERVER = [("wal_autocheckpoint", 0)]


class SQLite(Storage):
    """The accounts in one file; see `Storage` for what each method does."""

    INSERT = "INSERT OR IGNORE INTO account (credits, items, nickname) VALUES (?, ?, ?)"
    # Optimistic locking: the row must be as it was last loaded or stored.
    UPDATE = "UPDATE account SET credits = ?, items = ? WHERE id = ? AND credits = ? AND items = ?"
    RECORD = ("INSERT INTO trade (account_id, time, what, item, price, credits, note) "
              "VALUES (?, ?, ?, ?, ?, ?, '')")
    LOAD = ("SELECT id, credits, items, hash FROM account "
            "LEFT JOIN account_key ON account_id = id WHERE nickname = ?")
    PROTECT = "INSERT OR REPLACE INTO account_key (account_id, hash) VALUES (?, ?)"
    MOMENT = "datetime(time, 'unixepoch')"

    engine = "SQLite " + sqlite3.sqlite_version

    def __init__(self, path):
        self.name = path
        self._is_reading = False        # whether a read transaction has begun in this tick

    # --- for a server -------------------------------------------------------------------------

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
            # All rows: an unfinished SELECT keeps the write-ahead log from starting anew.
            rows = self._cursor.execute(sql, (nickname,)).fetchall()
            return rows[0] if rows else None
        except STORAGE_ERRORS as error:
            self._cursor = self.database.cursor()       # the SELECT of the other is not at its end
            self._end_reading()
            if _is_broken_text(error):
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

    def unlock_released(self):
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

    # --- for the commands ---------------------------------------------------------------------

    def create_tables(self, upgrade_only=False):
        files = None
        path = self._check_names()
        if upgrade_only:
            self._check_exists(path)
        if os.path.exists(path):
            check_one_name(path, self.name)
        # The page size comes first: it is fixed once the journal mode is set.
        self._connect(COMMAND_BUSY_SECONDS,
                      [("page_size", PAGE_SIZE)] + DURABLE + BESIDE_A_SERVER)
        try:
            with self.database.bind_ctx(TABLES):
                if upgrade_only:
                    check_schema(self.database, self.name, [Account])
                # An older server would go on without what is added: the ledger, asking for keys.
                if is_outdated(self.database):
                    with self._explained():
                        files = HeldFiles(path)
                with self._transaction():
                    if Account.table_exists() and not Trade.table_exists():
                        _check_accounts(self)
                    create_tables(self.database, self.name)
        except STORAGE_ERRORS as error:
            raise CannotOpen("cannot create the tables in %s: %s" % (self.name, describe(error)))
        finally:
            self.database.close()
            if files:
                files.close()

    @contextlib.contextmanager
    def reading(self, models=TABLES):
        """See `Storage`. Changes nothing in the file, not even a setting: it may be a backup."""
        self._check_exists(self._check_names())
        self._open(COMMAND_BUSY_SECONDS, BESIDE_A_SERVER, models)
        with contextlib.closing(self.database):
            self.database.connection().text_factory = _decode
            yield

    @contextlib.contextmanager
    def changing(self):
        path = self._check_names()
        self._check_exists(path)
        check_one_name(path, self.name)
        self._open(COMMAND_BUSY_SECONDS, DURABLE + BESIDE_A_SERVER)
        with contextlib.closing(self.database), self._transaction():
            yield
        problem = conflict(path)        # again: the file may have been moved during the wait
        if problem is not None:
            raise CannotOpen("the change may be lost: %s" % problem)

    @contextlib.contextmanager
    def _transaction(self):
        """A transaction; after an exception the caller undoes it by closing the connection.

        A rollback would hide the first error: on a full disk SQLite has rolled back itself.
        """
        self.database.begin("IMMEDIATE")
        yield
        self.database.commit()

    def query(self, sql, *parameters):
        return self.database.execute_sql(sql, parameters)

    def stream(self, sql):
        return itertools.chain.from_iterable(_blocks(self.database, sql))

    def begin_reading(self, progress):
        # SQLite calls this from inside a long statement, which also lets Ctrl-C take effect.
        self.database.connection().set_progress_handler(progress.draw, 100000)
        self.database.begin()

    def find_damage(self):
        for sentence, in self.query("PRAGMA integrity_check"):
            if sentence != "ok":
                yield sentence

    def copy_to(self, path, progress):
        self.database.connection().set_progress_handler(progress.draw, 100000)
        self.query("VACUUM INTO ?", path)

    # --- the file -----------------------------------------------------------------------------

    def _path(self):
        """Return the absolute path, without symbolic links, as SQLite has it. Raises CannotOpen."""
        try:
            return os.path.realpath(self.name)
        except (EnvironmentError, UnicodeError):
            raise CannotOpen("cannot open the database %s: the working directory cannot be read"
                             % self.name)

    def _check_exists(self, path):
        try:
            os.stat(path)
        except EnvironmentError as error:
            if error.errno == errno.ENOENT:
                raise CannotOpen(orphaned_log(path) or "there is no database %s: create it with: %s"
                                 % (self.name, create_command(self.name)))
            raise CannotOpen("cannot open the database %s: %s" % (self.name, error.strerror))

    def _check_names(self):
        """Check that a server, if one runs, has the same files open; returns the path. Raises
        CannotOpen."""
        path = self._path()
        with self._explained():
            problem = conflict(path)
        if problem is not None:
            raise CannotOpen(problem)
        return path

    @contextlib.contextmanager
    def _explained(self):
        """A context that raises CannotOpen, with the reason, where the files cannot be held."""
        try:
            yield
        except FilesInUse as error:
            raise CannotOpen("%s" % error)
        except EnvironmentError as error:
            raise CannotOpen("cannot lock the database %s: %s" % (self.name, error.strerror))
        except STORAGE_ERRORS as error:
            raise CannotOpen("cannot open the database %s: %s" % (self.name, describe(error)))

    def _open(self, busy_seconds, pragmas, models=TABLES):
        """Connect to a file that has the tables of the models. Raises CannotOpen."""
        self._connect(busy_seconds, pragmas)
        try:
            check_schema(self.database, self.name, models)
        except CannotOpen:
            self.database.close()
            raise

    def _connect(self, busy_seconds, pragmas):
        """Connect; with DURABLE among the pragmas, check that commits will be durable.

        `busy_seconds` is the busy timeout. Raises CannotOpen.
        """
        self.database = peewee.SqliteDatabase(self._path(), timeout=busy_seconds,
                                              pragmas=pragmas)
        try:
            self.database.connect()
            settings = [self.query("PRAGMA " + name).fetchone()[0]
                        for name in ("journal_mode", "synchronous")]
        except STORAGE_ERRORS as error:
            self.database.close()
            raise CannotOpen("cannot open the database %s: %s" % (self.name, describe(error)))
        if ("synchronous", "full") in pragmas and settings != ["wal", 2]:
            self.database.close()
            raise CannotOpen("the database %s cannot be made durable (journal_mode, synchronous = "
                             "%s)" % (self.name, settings))


class BrokenText(Text):
    """Text of another program that is not UTF-8, as well as it can be shown."""


def _decode(data):
    """Return a text of the database. Broken text does not end a command."""
    try:
        return data.decode("utf-8")
    except UnicodeError:
        return BrokenText(data.decode("utf-8", "replace"))


def _blocks(database, sql):
    """Yield the rows of a SELECT in blocks, also those before an error.

    `sqlite3` decodes the text itself, faster than `_decode`, until it meets broken text. Then the
    statement begins again: in one transaction it returns the same rows.
    """
    cursor, error, count = None, None, 0
    while error is None:
        block = []
        try:
            with _fast_decoding(database.connection()):
                cursor = cursor or database.execute_sql(sql)
                block.extend(itertools.islice(cursor, STREAM_ROWS))
        except STORAGE_ERRORS as caught:
            error = caught
        yield block
        count += len(block)
        if not block and error is None:
            return
    if not _is_broken_text(error):
        raise error
    yield itertools.islice(database.execute_sql(sql), count, None)


@contextlib.contextmanager
def _fast_decoding(connection):
    """A context in which broken text is an error; statements outside may run between the blocks."""
    connection.text_factory = Text
    try:
        yield
    finally:
        connection.text_factory = _decode


def _is_broken_text(error):
    """Return whether one of STORAGE_ERRORS tells of text that is not UTF-8."""
    return "decode" in repr(error)              # sqlite3 has no class of its own for it


def _check_accounts(storage):
    """Check before an upgrade that the ledger can hold each account. Raises CannotOpen."""
    row = storage.query(
        "SELECT CAST(nickname AS TEXT) FROM account WHERE typeof(nickname) != 'text' "
        "OR typeof(items) != 'text' OR typeof(credits) != 'integer' OR credits < 0").fetchone()
    if row is not None:
        raise CannotOpen("account %s of %s has no usable credits or items: correct them before "
                         "the upgrade" % (show(row[0]), storage.name))


def check_one_name(path, name):
    """Check that the file has no second name: SQLite's log has the name that was opened. Raises
    CannotOpen."""
    status = os.stat(path)
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        raise CannotOpen("the database %s has %d names (hard links), of which each would have a "
                         "log of its own: copy it to a file with one name"
                         % (name, status.st_nlink))
