# -*- coding: utf-8 -*-
"""An SQLite file as the commands use it: creating its tables, reading, changing, and copying it.

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

import peewee

from constants import COMMAND_BUSY_SECONDS, PAGE_SIZE, STREAM_ROWS
from files import FilesInUse, HeldFiles, conflict, orphaned_log
from models import TABLES, Account, Trade
from schema import check_schema, create_command, create_tables, is_outdated
from storage import STORAGE_ERRORS, CannotOpen, Storage, describe
from text import Text, show

# The settings of a connection that writes.
DURABLE = [("journal_mode", "wal"), ("synchronous", "full"), ("foreign_keys", 1)]

# The setting of a connection that may run beside a server: it makes no checkpoint. Two connections
# that do so at once can damage the file, before SQLite 3.51.3 (sqlite.org/wal.html, section 11).
BESIDE_A_SERVER = [("wal_autocheckpoint", 0)]


class SQLiteFile(Storage):
    """One file; see `Storage` for what each method does."""

    MOMENT = "datetime(time, 'unixepoch')"

    engine = "SQLite " + sqlite3.sqlite_version

    def __init__(self, path):
        self.name = path

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
    if not is_broken_text(error):
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


def is_broken_text(error):
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
