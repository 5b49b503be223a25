# -*- coding: utf-8 -*-
"""What a storage is: the base class that documents each method once, and its errors.

A storage keeps accounts and their ledger durably. `sqlite` and `postgresql` have one each, of which
`sqlite_file` and `postgresql_database` have what the commands need. The shop (`db`) and the
operators' commands (`admin`) work on either.
"""
from __future__ import unicode_literals

import sqlite3

import peewee

from constants import MAX_CREDITS
from models import TABLES
from text import Text, escape

# Errors of a statement. peewee wraps those of the driver, but not in `executemany`; a damaged
# schema makes the driver raise UnicodeError.
STORAGE_ERRORS = (peewee.PeeweeException, sqlite3.Error, UnicodeError)


class CannotOpen(Exception):
    """The database cannot be used; the text is one sentence for whoever started the program."""


class CannotBackUp(Exception):
    """No backup was written; the text is one sentence for whoever asked for it."""


class ConnectionLost(Exception):
    """The connection to the database ended, and with it the hold on every nickname.

    Whether the last changes were stored is unknown.
    """


class HeldElsewhere(Exception):
    """Another server on the same database holds the nickname."""


class NoRoom(Exception):
    """The database has no room for the nickname of another player."""


class UnusableRow(Exception):
    """An account's row holds what the shop never writes: no number, no text, out of range."""


class Storage(object):
    """The base of `sqlite.SQLite` and `postgresql.PostgreSQL`.

    The defaults are those of a storage that belongs to one server, has no connection that could
    end, and reads a row as soon as it is asked for. A row is (id, credits, items as text).
    """
    name = None             # for people: a file, or a URL without its password
    engine = None           # for people: the database system and its version
    database = None         # peewee's Database, once opened
    is_lost = False         # the connection ended, and there is no new one yet
    prefetches = False      # whether `prefetch` saves anything
    wal_size = 0            # bytes of the write-ahead log's file, if the storage looks after it

    SELECT = "SELECT id, credits, items FROM account WHERE nickname = ?"    # the row of a nickname
    SELECT_TO_CHANGE = SELECT       # the same, locked until the transaction ends
    MOMENT = None                   # SQL for the time of a ledger's row, as text

    # --- for a server: opening ----------------------------------------------------------------

    def serve(self):
        """Open the database for a server. Raises CannotOpen."""
        raise NotImplementedError()

    def close(self):
        """Close the database; what was not saved is gone."""
        raise NotImplementedError()

    # --- for a server: accounts ---------------------------------------------------------------

    def prefetch(self, logins, trades=()):
        """Get ready to `load` the first nicknames in this tick, and to `reload` the others.

        A hint, which may be left out. Raises one of STORAGE_ERRORS; then they cannot be loaded in
        this tick.
        """

    def load(self, nickname):
        """Return (row, hash of the key) of an account, for a login.

        Both are None where there is no account, the hash where it is not protected. Raises
        UnusableRow, HeldElsewhere, NoRoom, or one of STORAGE_ERRORS.
        """
        raise NotImplementedError()

    def reload(self, nickname):
        """Return the row alone, as `load`, for an account whose player is logged in."""
        raise NotImplementedError()

    def data_version(self):
        """Return a number that changes whenever another connection may have changed a row."""
        raise NotImplementedError()

    def save(self, rows, ledger, keys):
        """Store changed accounts, their ledger and their keys durably, in one transaction.

        `rows` is {OpenAccount: (credits, items as text)}, `ledger` a list of (OpenAccount, kind,
        item, price, credits afterwards), in order, `keys` {OpenAccount: hash} of those among the
        accounts whose key is new. New accounts get their `id`. Optimistic locking: accounts whose
        row changed since it was loaded, or is locked by somebody else, are skipped, and returned
        with their current row, {OpenAccount: row or None}. Raises one of STORAGE_ERRORS; then
        nothing was stored.
        """
        raise NotImplementedError()

    # --- for a server: nicknames that several servers share -----------------------------------

    def hold(self, nickname):
        """Note that a player is logged in with the nickname, which `load` has returned."""

    def release(self, nickname):
        """Note that the login has ended; `end_tick` gives the nickname back."""

    def has_released(self):
        """Return whether nicknames wait for `end_tick`."""
        return False

    def end_tick(self):
        """Give back the nicknames of ended logins; called in each tick, after any `save`.

        Raises ConnectionLost, once for each lost connection.
        """

    # --- for the event loop: a storage is one of its event sources ----------------------------

    socket = None           # socket to watch, or None; a new object after connecting again

    def on_readable(self):
        """Find out why the socket is readable."""

    def has_pending_work(self):
        """Return whether `do_pending_work` has something to do now or soon."""
        return False

    def do_pending_work(self, clock):
        """Do periodic work that is due; `clock` returns seconds."""

    # --- for the commands ---------------------------------------------------------------------

    def create_tables(self, upgrade_only=False):
        """Create what is missing; safe to run again, and beside servers. Raises CannotOpen.

        With `upgrade_only` the table of accounts has to be there.
        """
        raise NotImplementedError()

    def reading(self, models=TABLES):
        """Return a context in which the database, with these tables, is open for reading only."""
        raise NotImplementedError()

    def changing(self):
        """Return a context in which the database is open for one durable transaction."""
        raise NotImplementedError()

    def query(self, sql, *parameters):
        """Return the rows of a statement, with a `?` in it for each parameter."""
        raise NotImplementedError()

    def stream(self, sql):
        """Return the rows of a SELECT after `begin_reading` one by one, in constant memory.

        Several streams can be read in turn.
        """
        raise NotImplementedError()

    def begin_reading(self, progress):
        """Begin a transaction that reads one state of the database; report to `progress`."""
        raise NotImplementedError()

    def find_damage(self):
        """Return what is wrong with the database's files, a sentence for each."""
        return []

    def copy_to(self, path, progress):
        """Write a copy of one state to a file, without fsync. Raises CannotBackUp."""
        raise NotImplementedError()


class Target(object):
    """The base of `sqlite_target.SQLiteTarget` and `postgresql_target.PostgreSQLTarget`: a storage
    that receives all rows of another one, for the command `copy`."""

    def receiving(self, source):
        """Return a context in which `write` fills the database, in one durable transaction.

        Missing tables are created in that transaction, too. No server can start meanwhile. `source`
        is the storage that is read. Raises CannotOpen where the database is that one, is not empty,
        or is open in a server.
        """
        raise NotImplementedError()

    def write(self, table, columns, rows):
        """Add a list of rows to a table, in the order of these columns, in `receiving`."""
        raise NotImplementedError()


def describe(error):
    """Return the first line of what one of STORAGE_ERRORS says, escaped."""
    if isinstance(error, UnicodeError):
        return "it holds names that are no text"
    cause = error
    while isinstance(cause, Exception):                 # peewee wraps the driver's exception
        cause = cause.args[0] if cause.args else ""
    if isinstance(cause, bytes):                        # 2.7
        cause = cause.decode("utf-8", "replace")
    return escape(("%s" % cause).strip().split("\n")[0])


def is_usable(row):
    """Return whether the shop could have written this row."""
    _, credits, items = row
    return isinstance(credits, int) and 0 <= credits <= MAX_CREDITS and isinstance(items, Text)


def check_usable(row):
    """Return the row, which may be None. Raises UnusableRow."""
    if row is not None and not is_usable(row):
        raise UnusableRow()
    return row
