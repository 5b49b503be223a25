# -*- coding: utf-8 -*-
"""The shop: accounts in SQLite, who may buy and sell what, and one commit for many changes.

    python db.py [--database FILE]        creates the tables; safe to run again

The server loads an account when its player logs in; from then on it is checked and changed in
memory, since one login per nickname means that nobody else changes it. `Shop.commit` stores
everything that has changed in one transaction, and only then may anybody be told.

peewee has the schema, the connection and the transactions. The three statements that run for
every login and trade are plain SQL, since building one takes far longer than running it.
"""
from __future__ import unicode_literals

import argparse
import errno
import fcntl
import io
import logging
import os
import random
import sqlite3
import sys

import peewee

from constants import BUSY_SECONDS, CREDITS_RANGE, DATABASE, ITEMS, MAX_CREDITS
from models import TABLES, Account

log = logging.getLogger("lavka.db")

_SELECT = "SELECT credits, items FROM account WHERE nickname = ?"
_INSERT = "INSERT OR IGNORE INTO account (credits, items, nickname) VALUES (?, ?, ?)"
# Compares with what was last loaded or stored: a row that someone else changed since is left alone.
_UPDATE = ("UPDATE account SET credits = ?, items = ? "
           "WHERE nickname = ? AND credits = ? AND items = ?")

# peewee wraps the driver's errors where it runs a statement itself, but not in `executemany`.
_STORAGE_ERRORS = (peewee.PeeweeException, sqlite3.Error)


class Refusal(Exception):
    """The shop refuses; nothing was changed.

    `reason` is one of the contract's names, `message` a sentence for the player, `data` a dict
    of figures that belong to it.
    """

    def __init__(self, reason, message, **data):
        super(Refusal, self).__init__(reason, message, data)
        self.reason = reason
        self.message = message
        self.data = data


class UnusableRow(Exception):
    """Someone else has written what the shop never would: no number, no text, out of range."""


class CannotOpen(Exception):
    """The database cannot be used; the text is one sentence for whoever started the program."""


class OpenAccount(object):
    """An account in memory, for as long as its player is logged in.

    `stored` is the row (credits, items as text) as it was last loaded or stored, None when there
    is none; `unsaved` says that the account differs from it and waits for the next commit.
    """
    __slots__ = ("nickname", "credits", "items", "stored", "unsaved")

    def __init__(self, nickname, stored):
        self.nickname = nickname
        self.unsaved = False
        self.set_stored(stored)

    def set_stored(self, stored):
        """Be what the database holds."""
        self.stored = stored
        self.credits, items = stored or (0, "")
        self.items = items.split(",") if items else []

    def row(self):
        """What the database is to hold."""
        return self.credits, ",".join(self.items)


class Shop(object):
    """All accounts, in one SQLite file that this process alone may serve.

    Raises CannotOpen when the file cannot be used: it has no tables, other tables, is no database
    or is served by another process.
    """

    def __init__(self, path):
        if not os.path.exists(path):
            raise CannotOpen("there is no database %s: create it with: %s" % (path, _command(path)))
        self._lock = _lock(path)
        try:
            self._database = _connect(path)
            _check_schema(self._database, path)
        except CannotOpen:
            self._lock.close()
            raise
        self._unsaved = {}              # nickname -> OpenAccount
        self._failed_commits = 0        # in a row
        self._unusable = None           # the nickname whose row was last found unusable

    def close(self):
        """Give the file back. What was not committed is gone."""
        self._database.close()
        self._lock.close()

    # --- what players do; the effect is in memory until the next commit -------------------------

    def login(self, nickname):
        """Load the account of a nickname or open a new one: (OpenAccount, whether it is new).

        Raises Refusal (storage_failed) when the database cannot be read.
        """
        account = self._unsaved.get(nickname)       # logged out in this very tick
        if account is not None:
            return account, False
        try:
            stored = self._load(nickname)
        except UnusableRow:
            if nickname != self._unusable:      # once, not for every attempt
                log.error("the row of account %r cannot be used; its logins are refused", nickname)
            self._unusable = nickname
            raise Refusal("storage_failed", "This account cannot be read.")
        except _STORAGE_ERRORS as error:
            self._storage_failed(error)
            raise Refusal("storage_failed", "Accounts cannot be read at the moment.")
        account = OpenAccount(nickname, stored)
        if stored is None:
            account.credits = random.randint(*CREDITS_RANGE)
            self._changed(account)
        return account, stored is None

    def buy(self, account, item):
        """Take an item's price for it. Raises Refusal."""
        price = ITEMS.get(item)
        if price is None:
            raise _unknown_item()
        if item in account.items:
            raise Refusal("item_already_owned", "You own the %s already." % item)
        if account.credits < price:
            raise Refusal("not_enough_credits",
                          "The %s costs %d credits, you have %d." % (item, price, account.credits),
                          credits=account.credits, price=price)
        account.credits -= price
        account.items.append(item)
        self._changed(account)

    def sell(self, account, item):
        """Give an item's full price back for it. Raises Refusal."""
        if item not in account.items:
            raise Refusal("item_not_owned", "You do not own that item.")
        price = ITEMS.get(item)
        if price is None:                           # owned, but no longer in the catalog
            raise _unknown_item()
        if account.credits + price > MAX_CREDITS:
            raise Refusal("storage_failed", "You have as many credits as can be stored.")
        account.credits += price
        account.items.remove(item)
        self._changed(account)

    def _changed(self, account):
        account.unsaved = True
        self._unsaved[account.nickname] = account

    # --- storing it -------------------------------------------------------------------------

    def commit(self):
        """Store all changes since the last call, durably, in one transaction.

        Returns the set of the accounts whose changes could not be stored. They are as they were
        before these changes, or as someone else has made their rows meanwhile; `stored` is None
        where no row exists. With nothing to store there is no transaction.
        """
        if not self._unsaved:
            return frozenset()
        accounts = list(self._unsaved.values())
        self._unsaved = {}
        try:
            self._database.begin("IMMEDIATE")
            failed = self._write(accounts)
            self._database.commit()
        except _STORAGE_ERRORS as error:
            self._storage_failed(error)
            self._roll_back()
            failed = {account: account.stored for account in accounts}
        else:
            self._storage_works()
        for account in accounts:
            account.unsaved = False
            if account in failed:
                account.set_stored(failed[account])
            else:
                account.stored = account.row()
        return frozenset(failed)

    def _write(self, accounts):
        """Write rows; {account: row or None} of those that are not what was loaded."""
        new = [account for account in accounts if account.stored is None]
        known = [account for account in accounts if account.stored is not None]
        cursor = self._database.cursor()
        written = 0
        for statement, rows in (
                (_INSERT, [account.row() + (account.nickname,) for account in new]),
                (_UPDATE, [account.row() + (account.nickname,) + account.stored
                           for account in known])):
            if rows:
                cursor.executemany(statement, rows)
                written += cursor.rowcount
        if written == len(accounts):
            return {}
        conflicts = {}
        for account in accounts:
            try:
                row = self._load(account.nickname)
            except UnusableRow:
                row = None
            if row != account.row():
                conflicts[account] = row
                log.error("account %r was changed by another program; its player's change is "
                          "refused", account.nickname)
        return conflicts

    def _load(self, nickname):
        """The row of an account, None if there is none. Raises UnusableRow."""
        try:
            row = self._database.execute_sql(_SELECT, (nickname,)).fetchone()
        except _STORAGE_ERRORS as error:
            if "decode" in repr(error):         # sqlite3 has no class of its own for broken text
                raise UnusableRow()
            raise
        if row is not None and not (isinstance(row[0], int) and 0 <= row[0] <= MAX_CREDITS
                                    and isinstance(row[1], type(""))):
            raise UnusableRow()
        return row

    def _roll_back(self):
        try:
            self._database.rollback()
        except _STORAGE_ERRORS:
            pass                # SQLite has done so itself, as it does when the disk is full

    def _storage_failed(self, error):
        if not self._failed_commits:    # once, not for every player who is refused
            log.error("storage failed: %r; changes are refused until it works again", error)
        self._failed_commits += 1

    def _storage_works(self):
        if self._failed_commits:
            log.warning("storage works again after %d failures", self._failed_commits)
            self._failed_commits = 0


def _unknown_item():
    return Refusal("unknown_item", "There is no such item in the catalog.")


# --- the file -------------------------------------------------------------------------------

def create_tables(path):
    """Create what is missing in the file, and the file. Raises CannotOpen."""
    database = _connect(path)
    try:
        with database.bind_ctx(TABLES):
            database.create_tables(TABLES)
        _check_schema(database, path)
    except _STORAGE_ERRORS as error:
        raise CannotOpen("cannot create the tables in %s: %s" % (path, error))
    finally:
        database.close()


def _command(path):
    """What to type to create the tables in this file."""
    return "python db.py" if path == DATABASE else "python db.py --database %s" % path


def _connect(path):
    """A connected peewee database on which a commit is durable. Raises CannotOpen."""
    try:
        absolute = os.path.abspath(path)        # or "file:x" would be taken for a URI
    except (EnvironmentError, UnicodeError):
        raise CannotOpen("cannot open the database %s: the working directory cannot be read" % path)
    database = peewee.SqliteDatabase(absolute, timeout=BUSY_SECONDS, pragmas=[
        ("journal_mode", "wal"),        # one fsync a commit; commits need no new file
        ("synchronous", "full"),        # fsync the log at each commit (sqlite.org/pragma.html)
        ("foreign_keys", 1),
    ])
    try:
        database.connect()
        settings = [database.execute_sql("PRAGMA " + name).fetchone()[0]
                    for name in ("journal_mode", "synchronous")]
    except _STORAGE_ERRORS as error:
        database.close()
        raise CannotOpen("cannot open the database %s: %s" % (path, error))
    if settings != ["wal", 2]:
        database.close()
        raise CannotOpen("the database %s cannot be made durable (journal_mode, synchronous = %s)"
                         % (path, settings))
    return database


def _check_schema(database, path):
    """Raises CannotOpen unless the tables are there, with the columns of the models."""
    try:
        if not database.table_exists(Account._meta.table_name):
            raise CannotOpen("the database %s has no tables: create them with: %s"
                             % (path, _command(path)))
        columns = {column.name for column in database.get_columns(Account._meta.table_name)}
    except _STORAGE_ERRORS as error:
        raise CannotOpen("cannot read the database %s: %s" % (path, error))
    if columns != set(Account._meta.columns):
        raise CannotOpen("the table account of %s is not that of this program" % path)


def _lock(path):
    """The lock of the one process that serves this file; it goes when the process does.

    It is on a file of its own: closing any descriptor of the database would drop SQLite's locks
    (fcntl(2), "Record locking"; sqlite.org/howtocorrupt.html, section 2.2).
    """
    try:
        lock = io.open(os.path.realpath(path) + ".lock", "ab")
    except EnvironmentError as error:
        raise CannotOpen("cannot lock the database %s: %s" % (path, error.strerror))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except EnvironmentError as error:
        lock.close()
        if error.errno == errno.EWOULDBLOCK:
            raise CannotOpen("another server is serving the database %s" % path)
        raise CannotOpen("cannot lock the database %s: %s" % (path, error.strerror))
    return lock


# --- python db.py -----------------------------------------------------------------------------

def add_database_option(parser):
    """The option that the server has too."""
    parser.add_argument("--database", metavar="FILE", type=path_name,
                        default=os.environ.get("LAVKA_DATABASE") or DATABASE,
                        help="the SQLite file (default: LAVKA_DATABASE, or %s)" % DATABASE)


def path_name(argument):
    """The name of a file as text; on 2.7 it comes as bytes."""
    if not argument:
        raise argparse.ArgumentTypeError("the name of a file cannot be empty")
    return argument if type(argument) is type("") else argument.decode(sys.getfilesystemencoding())


def main(arguments=None):
    """Create the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description="Create the shop's tables; safe to run again.")
    add_database_option(parser)
    path = parser.parse_args(arguments).database
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        create_tables(path)
    except CannotOpen as error:
        log.error("%s", error)
        return 1
    log.info("the tables are ready in %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
