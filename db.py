# -*- coding: utf-8 -*-
"""The shop: accounts in SQLite, who may buy and sell what, and one commit for many changes.

    python db.py [--database FILE]              creates the tables; safe to run again
    python db.py [--database FILE] COMMAND      looks after the file; --help lists the commands

The server loads an account when its player logs in; from then on it is checked and changed in
memory, since one login per nickname means that nobody else changes it. `Shop.commit` stores
everything that has changed in one transaction, together with the rows of the ledger that tell of
it, and only then may anybody be told.

peewee has the schema, the connection, the transactions and the commands. The statements that run
for every login and trade are plain SQL, since building one takes far longer than running it.
"""
from __future__ import unicode_literals

import signal

if __name__ == "__main__":      # Ctrl-C is quiet from the first moment, and not from `main` on
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import errno
import fcntl
import io
import itertools
import locale
import logging
import operator
import os
import random
import re
import sqlite3
import sys
import tempfile
import time

import peewee

from constants import (BUSY_SECONDS, CALM_SECONDS, CREDITS_RANGE, DATABASE, ITEMS, MAX_CREDITS,
                       PAGE_SIZE, TOOL_SECONDS, WAL_SIZE)
from models import TABLES, Account, Trade

log = logging.getLogger("lavka.db")

_TEXT = type("")                # unicode on 2.7

_SELECT = "SELECT id, credits, items FROM account WHERE nickname = ?"
_INSERT = "INSERT OR IGNORE INTO account (credits, items, nickname) VALUES (?, ?, ?)"
# Compares with what was last loaded or stored: a row that someone else changed since is left alone.
_UPDATE = "UPDATE account SET credits = ?, items = ? WHERE id = ? AND credits = ? AND items = ?"
_RECORD = ("INSERT INTO trade (account_id, time, what, item, price, credits) "
           "VALUES (?, ?, ?, ?, ?, ?)")

# peewee wraps the driver's errors where it runs a statement itself, but not in `executemany`; a
# damaged schema makes the driver raise UnicodeError.
_STORAGE_ERRORS = (peewee.PeeweeException, sqlite3.Error, UnicodeError)


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

    `stored` is the row (id, credits, items as text) as it was last loaded or stored, None when
    there is none; `unsaved` says that a change waits for the next commit; `version` is that of the
    file when it was last loaded.
    """
    __slots__ = ("nickname", "id", "credits", "items", "stored", "unsaved", "version")

    def __init__(self, nickname, stored, version):
        self.nickname = nickname
        self.unsaved = False
        self.version = version
        self.set_stored(stored)

    def set_stored(self, stored):
        """Be what the database holds."""
        self.stored = stored
        self.id, self.credits, items = stored or (None, 0, "")
        self.items = items.split(",") if items else []

    def row(self):
        """What the database is to hold: credits, items as text."""
        return self.credits, ",".join(self.items)


class Shop(object):
    """All accounts, in one SQLite file that this process alone may serve.

    Raises CannotOpen when the file cannot be used: it has no tables, other tables, is no database
    or is served by another process.

    For those who watch it, `engine` names what stores the accounts, `commits` counts the
    transactions, `trades` the purchases and sales in them, and `largest_batch` is the most changes
    that one of them has stored.
    """

    def __init__(self, path):
        _check_exists(path)
        self._lock = _lock(path)
        try:
            self._database = _open(path, BUSY_SECONDS, _DURABLE)
            page_size, = self._database.execute_sql("PRAGMA page_size").fetchone()
            self._database.execute_sql("PRAGMA wal_autocheckpoint = %d" % (WAL_SIZE // page_size))
        except CannotOpen:
            self._lock.close()
            raise
        self.engine = "SQLite " + sqlite3.sqlite_version
        self.commits = 0
        self.trades = 0
        self.largest_batch = 0
        self._unsaved = {}              # nickname -> OpenAccount
        self._ledger = []               # what was done to them: (OpenAccount, the columns of Trade)
        self._version = None            # of the file; changes when another program stores something
        self._has_looked = False        # for another version, since the last commit
        self._failures = 0              # since storage last worked
        self._failed_at = 0             # the time of the last one

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
            log.error("unusable_row nickname=%s", quoted(nickname))
            raise Refusal("storage_failed", "This account cannot be read.")
        except _STORAGE_ERRORS as error:
            self._storage_failed(error)
            raise Refusal("storage_failed", "Accounts cannot be read at the moment.")
        account = OpenAccount(nickname, stored, self._version)
        if stored is None:
            account.credits = random.randint(*CREDITS_RANGE)
            self._changed(account, Trade.OPENING, "", 0)
        return account, stored is None

    def buy(self, account, item):
        """Take an item's price for it. Raises Refusal."""
        price = ITEMS.get(item)
        if price is None:
            raise _unknown_item()
        if account.version != self._version or not self._has_looked:
            self._look_again(account)
        if item in account.items:
            raise Refusal("item_already_owned", "You own the %s already." % item)
        if account.credits < price:
            raise Refusal("not_enough_credits",
                          "The %s costs %d credits, you have %d." % (item, price, account.credits),
                          credits=account.credits, price=price)
        account.credits -= price
        account.items.append(item)
        self._changed(account, Trade.PURCHASE, item, price)

    def sell(self, account, item):
        """Give an item's full price back for it. Raises Refusal."""
        if account.version != self._version or not self._has_looked:
            self._look_again(account)
        if item not in account.items:
            raise Refusal("item_not_owned", "You do not own that item.")
        price = ITEMS.get(item)
        if price is None:                           # owned, but no longer in the catalog
            raise _unknown_item()
        if account.credits + price > MAX_CREDITS:
            raise Refusal("storage_failed", "You have as many credits as can be stored.")
        account.credits += price
        account.items.remove(item)
        self._changed(account, Trade.SALE, item, price)

    def _changed(self, account, what, item, price):
        account.unsaved = True
        self._unsaved[account.nickname] = account
        self._ledger.append((account, what, item, price, account.credits))

    def _look_again(self, account):
        """Take over the row as it is if another program has stored something, credits granted by
        an operator mostly. Where that fails, the commit of a change will find out."""
        try:
            if not self._has_looked:
                self._has_looked = True
                self._version, = self._database.execute_sql("PRAGMA data_version").fetchone()
            if account.version != self._version and not account.unsaved:
                account.set_stored(self._load(account.nickname) or account.stored)
                account.version = self._version
        except (UnusableRow,) + _STORAGE_ERRORS:
            pass

    # --- storing it -------------------------------------------------------------------------

    def has_changes(self):
        """Whether a commit would have something to store."""
        return bool(self._unsaved)

    def commit(self):
        """Store all changes since the last call, durably, in one transaction.

        Returns the set of the accounts whose changes could not be stored. They are as they were
        before these changes, or as someone else has made their rows meanwhile; `stored` is None
        where no row exists. With nothing to store there is no transaction.
        """
        self._has_looked = False
        if not self._unsaved:
            return frozenset()
        rows = {account: account.row() for account in self._unsaved.values()}
        ledger = self._ledger
        self._unsaved, self._ledger = {}, []
        try:
            self._database.begin("IMMEDIATE")
            failed = self._write(rows)
            recorded = self._record(ledger, failed)
            self._database.commit()
        except _STORAGE_ERRORS as error:
            self._storage_failed(error)
            self._roll_back()
            failed = {account: account.stored for account in rows}
        else:
            self._storage_works()
            self.commits += 1
            self.trades += sum(row[2] != Trade.OPENING for row in recorded)
            self.largest_batch = max(self.largest_batch, len(recorded))
        for account, row in rows.items():
            account.unsaved = False
            if account in failed:
                account.set_stored(failed[account])
            else:
                account.stored = (account.id,) + row
        return frozenset(failed)

    def _write(self, rows):
        """Write {account: row}; returns {account: row or None} of those that are not as loaded."""
        cursor = self._database.cursor()
        known, suspects = [], []
        for account, row in rows.items():
            if account.stored is not None:
                known.append(account)
            else:
                cursor.execute(_INSERT, row + (account.nickname,))
                account.id = cursor.lastrowid
                if not cursor.rowcount:
                    suspects.append(account)
        if known:
            cursor.executemany(_UPDATE, [rows[account] + account.stored for account in known])
            if cursor.rowcount != len(known):
                suspects += known
        conflicts = {}
        for account in suspects:
            try:
                row = self._load(account.nickname)
            except UnusableRow:
                row = None
            if account.stored is None or row != (account.id,) + rows[account]:
                conflicts[account] = row
                log.warning("changed_outside nickname=%s", quoted(account.nickname))
        return conflicts

    def _record(self, ledger, failed):
        """Append to the ledger what was done to accounts that did not fail; returns the rows."""
        now = int(time.time())
        if failed:
            ledger = [change for change in ledger if change[0] not in failed]
        rows = [(account.id, now, what, item, price, credits)
                for account, what, item, price, credits in ledger]
        self._database.cursor().executemany(_RECORD, rows)
        return rows

    def _load(self, nickname):
        """The row of an account, None if there is none. Raises UnusableRow."""
        try:
            row = self._database.cursor().execute(_SELECT, (nickname,)).fetchone()
        except _STORAGE_ERRORS as error:
            if "decode" in repr(error):         # sqlite3 has no class of its own for broken text
                raise UnusableRow()
            raise
        if row is not None and not _is_usable(row):
            raise UnusableRow()
        return row

    def _roll_back(self):
        try:
            self._database.rollback()
        except _STORAGE_ERRORS:
            pass                # SQLite has done so itself, as it does when the disk is full

    def _storage_failed(self, error):
        if not self._failures:          # once, not for every player who is refused
            log.error("storage_failed error=%s", quoted(_said(error)))
        self._failures += 1
        self._failed_at = time.time()

    def _storage_works(self):
        # Not at once: a lock that comes and goes is one failure, not a line each time.
        if self._failures and time.time() >= self._failed_at + CALM_SECONDS:
            log.warning("storage_works failures=%d", self._failures)
            self._failures = 0


def _said(error):
    """What one of _STORAGE_ERRORS says."""
    if isinstance(error, UnicodeError):
        return "it holds names that are no text"
    said = error.args[0] if error.args else ""
    if isinstance(said, bytes):                         # 2.7
        said = said.decode("utf-8", "replace")
    return printable("%s" % said)


def _is_usable(row):
    _, credits, items = row
    return isinstance(credits, int) and 0 <= credits <= MAX_CREDITS and isinstance(items, _TEXT)


def _unknown_item():
    return Refusal("unknown_item", "There is no such item in the catalog.")


# --- the file -------------------------------------------------------------------------------

# For whoever writes. With WAL there is one fsync a commit, and commits need no new file; FULL is
# an fsync of the log at each commit (sqlite.org/pragma.html).
_DURABLE = [("journal_mode", "wal"), ("synchronous", "full"), ("foreign_keys", 1)]

# For everyone who comes to the file while a server may run: the log is for the server to empty. Two
# who do that at once can damage the file, before SQLite 3.51.3 (sqlite.org/wal.html, section 11).
_BESIDE_A_SERVER = [("wal_autocheckpoint", 0)]

_OPEN_ACCOUNTS = ("INSERT INTO trade (account_id, time, what, item, price, credits) "
                  "SELECT id, ?, ?, items, 0, credits FROM account ORDER BY id")


def create_tables(path):
    """Create the file and what is missing in it. Accounts from before the ledger get their first
    row there. Raises CannotOpen."""
    lock = None
    # The size of a page is settled before the journal_mode is.
    database = _connect(path, TOOL_SECONDS,
                        [("page_size", PAGE_SIZE)] + _DURABLE + _BESIDE_A_SERVER)
    try:
        with database.bind_ctx(TABLES):
            if Account.table_exists() and not Trade.table_exists():
                lock = _lock(path)      # a server of before the ledger would go on without it
            with database.atomic("IMMEDIATE"):
                upgrade = Account.table_exists() and not Trade.table_exists()       # still
                database.create_tables(TABLES)
                _check_schema(database, path)
                if upgrade:
                    _check_rows(database, path)
                    database.execute_sql(_OPEN_ACCOUNTS, (int(time.time()), Trade.OPENING))
    except _STORAGE_ERRORS as error:
        raise CannotOpen("cannot create the tables in %s: %s" % (path, _said(error)))
    finally:
        database.close()
        if lock:
            lock.close()


def _check_rows(database, path):
    """Raises CannotOpen if an account is not such as the shop writes."""
    row = database.execute_sql(
        "SELECT CAST(nickname AS TEXT) FROM account WHERE typeof(nickname) != 'text' "
        "OR typeof(items) != 'text' OR typeof(credits) != 'integer' OR credits < 0").fetchone()
    if row is not None:
        raise CannotOpen("account %s of %s has no usable credits or items: correct them before the "
                         "upgrade" % (shown(row[0]), path))


def _command(path):
    """What to type to create the tables in this file."""
    return "python db.py" if path == DATABASE else "python db.py --database %s" % path


def _check_exists(path):
    if not os.path.exists(path):
        raise CannotOpen("there is no database %s: create it with: %s" % (path, _command(path)))


def _open(path, patience, pragmas, models=TABLES):
    """A connected peewee database that has the tables of the models. Raises CannotOpen."""
    _check_exists(path)
    database = _connect(path, patience, pragmas)
    try:
        _check_schema(database, path, models)
    except CannotOpen:
        database.close()
        raise
    return database


def _connect(path, patience, pragmas):
    """A connected peewee database, with _DURABLE one on which a commit is durable; `patience` is
    how many seconds it waits for others who write. Raises CannotOpen."""
    try:
        absolute = os.path.abspath(path)        # or "file:x" would be taken for a URI
    except (EnvironmentError, UnicodeError):
        raise CannotOpen("cannot open the database %s: the working directory cannot be read" % path)
    database = peewee.SqliteDatabase(absolute, timeout=patience, pragmas=pragmas)
    try:
        database.connect()
        settings = [database.execute_sql("PRAGMA " + name).fetchone()[0]
                    for name in ("journal_mode", "synchronous")]
    except _STORAGE_ERRORS as error:
        database.close()
        raise CannotOpen("cannot open the database %s: %s" % (path, _said(error)))
    if ("synchronous", "full") in pragmas and settings != ["wal", 2]:
        database.close()
        raise CannotOpen("the database %s cannot be made durable (journal_mode, synchronous = %s)"
                         % (path, settings))
    return database


def _check_schema(database, path, models=TABLES):
    """Raises CannotOpen unless the tables are there, with the columns of the models, and nicknames
    are unique."""
    for model in models:
        table = model._meta.table_name
        try:
            if not database.table_exists(table):
                raise CannotOpen("the database %s has no table %s: create it with: %s"
                                 % (path, table, _command(path)))
            columns = {column.name for column in database.get_columns(table)}
            unique = [index.columns for index in database.get_indexes(table) if index.unique]
        except _STORAGE_ERRORS as error:
            raise CannotOpen("cannot read the database %s: %s" % (path, _said(error)))
        if columns != set(model._meta.columns) or (model is Account and ["nickname"] not in unique):
            raise CannotOpen("the table %s of %s is not that of this program" % (table, path))


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


# --- the commands of python db.py -----------------------------------------------------------
# Each is safe while a server runs on the file. They write text to `out`; they raise CannotOpen,
# CommandFailed, or what SQLite has to say.

class CommandFailed(Exception):
    """A command was not carried out; the text is one sentence for whoever typed it."""


def create(path, out):
    """Create the tables; safe to run again. A file from before the ledger is upgraded. This is
    what happens without a command."""
    create_tables(path)
    log.info("the tables are ready in %s", path)


def show(path, out, nickname):
    """Print an account."""
    with _open_to_read(path) as database:
        _, credits, items = _find_usable(database, nickname)
    out.write("nickname  %s\ncredits   %s\nitems     %s\n" % (
        quoted(nickname), credits, printable(items).replace(",", ", ") or "none"))


def history(path, out, nickname):
    """Print what the ledger has of an account, the oldest row first."""
    with _open_to_read(path) as database:
        layout = "%-19s  %-8s  %7s  %9s  %s"
        id, _, _ = _find(database, nickname)
        out.write(layout % ("time (UTC)", "what", "price", "credits", "item") + "\n")
        for when, what, price, credits, item in database.execute_sql(
                "SELECT datetime(time, 'unixepoch'), CAST(what AS TEXT), price, credits, "
                "CAST(item AS TEXT) FROM trade WHERE account_id = ? ORDER BY id", (id,)):
            price = "" if what == Trade.OPENING else price
            line = layout % (when, what, price, credits, item)
            out.write(printable(line.rstrip()) + "\n")


def grant(path, out, nickname, credits):
    """Give an account credits, or take some with a number below 0. Its player may be logged in:
    the next purchase or sale counts with them, and shows them. (If it happens in this very moment
    it may be refused once, with nothing lost.)"""
    with contextlib.closing(_open(path, TOOL_SECONDS, _DURABLE + _BESIDE_A_SERVER)) as database:
        with database.bind_ctx(TABLES), database.atomic("IMMEDIATE"):
            id, before, _ = _find_usable(database, nickname)
            after = before + credits
            if not 0 <= after <= MAX_CREDITS:
                raise CommandFailed("%s has %d credits; they can be 0 to %d"
                                    % (quoted(nickname), before, MAX_CREDITS))
            Account.update(credits=after).where(Account.id == id).execute()
            Trade.create(account=id, time=int(time.time()), what=Trade.GRANT, item="",
                         price=credits, credits=after)
    out.write("%s has %d credits now\n" % (quoted(nickname), after))


def backup(path, out, target):
    """Write a copy of the database, as it is at one moment, to a new file."""
    folder = os.path.dirname(os.path.abspath(target))
    if os.path.lexists(target):
        raise CommandFailed("%s exists already; a backup overwrites nothing" % target)
    # The ledger may be missing: one makes a backup before an upgrade.
    with contextlib.closing(_open(path, TOOL_SECONDS, _BESIDE_A_SERVER, [Account])) as database:
        handle, unfinished = tempfile.mkstemp(".unfinished", os.path.basename(target) + ".", folder)
        try:
            with Progress(database.connection(), "copying"):
                database.execute_sql("VACUUM INTO ?", (unfinished,))    # of one state; locks nobody
                os.fsync(handle)
            os.link(unfinished, target)                 # fails where rename would overwrite
        finally:
            os.remove(unfinished)
            os.close(handle)
    folder = os.open(folder, os.O_RDONLY)
    os.fsync(folder)                                    # the name, too, outlives a power cut
    os.close(folder)
    out.write("%s has %d bytes\n" % (target, os.path.getsize(target)))


def verify(path, out):
    """Check the file, replay the ledger and compare it with every account. The exit status is 1
    if anything is not as it should be."""
    with _open_to_read(path) as database, \
            Progress(database.connection(), "checking the file") as progress:
        database.begin()                                # one state of the file, however long
        accounts, rows = [database.execute_sql("SELECT COUNT(*) FROM " + table).fetchone()[0]
                          for table in ("account", "trade")]
        problems = (row[0] for row in database.execute_sql("PRAGMA integrity_check"))
        found = 0
        for problem in itertools.chain((problem for problem in problems if problem != "ok"),
                                       _differences(database, progress, accounts)):
            found += 1
            progress.clear()
            out.write("%s\n" % problem)
    out.write("accounts: %d, rows of the ledger: %d, problems: %d\n" % (accounts, rows, found))
    return 1 if found else 0


def _differences(database, progress, total):
    """Replay the ledger, one account after the other; a sentence for each thing that is wrong."""
    progress.stage("sorting the ledger")
    merged = itertools.groupby(database.execute_sql(    # each account before its rows
        "SELECT id, 0, 0, nickname, items, 0, credits, 0 FROM account UNION ALL "
        "SELECT account_id, 1, id, what, item, price, credits, time FROM trade ORDER BY 1, 2, 3"),
        operator.itemgetter(0))
    for number, (id, rows) in enumerate(merged):
        progress.advance("replaying the ledger", number, total)
        first = next(rows)
        if first[1]:
            for row in itertools.chain([first], rows):
                yield ("row %d of the ledger is of account %s, which is not there"
                       % (row[2], shown(id)))
        else:
            _, _, _, nickname, items, _, credits, _ = first
            for problem in _replay(nickname, credits, items, rows):
                yield "account %s: %s" % (shown(nickname), problem)


def _replay(nickname, stored_credits, stored_items, rows):
    """What is wrong with an account, given its rows of the ledger."""
    if not isinstance(nickname, _TEXT) or not nickname:
        yield "its nickname is no text"
    credits, items = None, []
    for _, _, id, what, item, price, credits_afterwards, when in rows:
        row = "row %d of the ledger" % id
        if not _is_row(what, item, price, credits_afterwards, when):
            yield "%s is none that the shop writes" % row
            continue
        if (what == Trade.OPENING) != (credits is None):
            yield "%s is %s opening" % (row, "no" if credits is None else "another")
        if what == Trade.OPENING:
            credits, items = credits_afterwards, item.split(",") if item else []
        elif what == Trade.PURCHASE:
            credits = (credits or 0) - price
            if item in items:
                yield "%s buys %s, which was owned" % (row, quoted(item))
            items.append(item)
        else:
            credits = (credits or 0) + price
            if what == Trade.SALE and item in items:
                items.remove(item)
            elif what == Trade.SALE:
                yield "%s sells %s, which was not owned" % (row, quoted(item))
        if credits != credits_afterwards:
            yield "%s should have %d credits, it has %d" % (row, credits, credits_afterwards)
            credits = credits_afterwards
    if credits is None:
        yield "it has no opening in the ledger"
    elif stored_credits != credits or not isinstance(stored_credits, int):
        yield ("it has %s credits, by the ledger it should have %d"
               % (shown(stored_credits), credits))
    if not isinstance(stored_items, _TEXT) or stored_items != ",".join(items):
        yield ("its items are %s, by the ledger they should be %s"
               % (shown(stored_items), quoted(",".join(items))))


def _is_row(what, item, price, credits, when):
    """Whether the types and values are such as the shop writes; SQLite itself takes any."""
    if not (type(price) is type(credits) is type(when) is int
            and type(item) is type(what) is _TEXT):
        return False
    if credits < 0:
        return False
    if what == Trade.PURCHASE or what == Trade.SALE:
        return item != "" and price > 0
    return what == Trade.OPENING and price == 0 or what == Trade.GRANT and item == ""


def shown(value):
    """Any value of the database, for people."""
    return quoted(value) if isinstance(value, _TEXT) else printable("%r" % (value,))


@contextlib.contextmanager
def _open_to_read(path):
    """A connection that stores nothing, not even a setting: the file may be a backup."""
    with contextlib.closing(_open(path, TOOL_SECONDS, _BESIDE_A_SERVER)) as database:
        # What others wrote may be no text at all; that is to be told, not to fail on.
        database.connection().text_factory = lambda data: data.decode("utf-8", "replace")
        yield database


def _find(database, nickname):
    """The row (id, credits, items as text) of an account."""
    row = database.execute_sql(_SELECT, (nickname,)).fetchone()
    if row is None:
        raise CommandFailed("there is no account %s" % quoted(nickname))
    return row


def _find_usable(database, nickname):
    row = _find(database, nickname)
    if not _is_usable(row):
        raise CommandFailed("the row of account %s cannot be used; verify tells more"
                            % quoted(nickname))
    return row


class Progress(object):
    """One line on the terminal about a long command; nothing where there is no terminal."""

    def __init__(self, connection, stage):
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.begin = time.time()
        self.stage(stage)
        # SQLite calls this out of a long statement; Ctrl-C, too, has its effect then.
        connection.set_progress_handler(self.draw, 100000)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.clear()

    def stage(self, text):
        """Say what begins."""
        self.text = text
        self.draw()

    def advance(self, text, done, total):
        """Show a bar; to be called for each of many small steps."""
        if not done % 5000:
            full = 30 * done // max(total, 1)
            self.stage("%s [%s%s] %3d %%" % (text, "#" * full, "." * (30 - full),
                                             100 * done // max(total, 1)))

    def draw(self):
        if self.is_terminal:        # which is to cut it, not to go on in the next line
            sys.stderr.write(str("\r\x1b[?7l%s %d s\x1b[K\x1b[?7h"
                                 % (self.text, time.time() - self.begin)))
            sys.stderr.flush()

    def clear(self):
        if self.is_terminal:
            sys.stderr.write(str("\r\x1b[K"))
            sys.stderr.flush()


# --- python db.py -----------------------------------------------------------------------------

# What a terminal would take for a command, or show otherwise than it is: control characters, and
# marks that change the direction or are not seen (Unicode's categories Cc, Zl, Zp, parts of Cf).
# Halves of surrogate pairs, too, but for a narrow build of 2.7, which has whole characters so.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e"
                          "\u2060-\u206f\ufeff\ufff9-\ufffb%s]"
                          % ("\ud800-\udfff" if sys.maxunicode > 0xffff else ""))


def printable(text):
    """Text for a log or a terminal; what could be taken for more than text is escaped."""
    return _UNPRINTABLE.sub(lambda match: "\\u%04x" % ord(match.group()), text)


def quoted(text):
    """Any text as one word in quotation marks, which cannot be taken for anything beside it."""
    return '"%s"' % printable(text.replace("\\", "\\\\").replace('"', '\\"'))


def add_database_option(parser):
    """The option that the server has too."""
    parser.add_argument("--database", metavar="FILE", type=path_name,
                        default=os.environ.get("LAVKA_DATABASE") or DATABASE,
                        help="the SQLite file (default: LAVKA_DATABASE, or %s)" % DATABASE)


def path_name(argument):
    """The name of a file as text; on 2.7 it comes as bytes."""
    if not argument:
        raise argparse.ArgumentTypeError("the name of a file cannot be empty")
    return _text(argument)


def _text(argument):
    return argument if type(argument) is _TEXT else argument.decode(sys.getfilesystemencoding())


def nickname(argument):
    """A nickname of the command line, as text."""
    try:
        name = _text(argument)
        name.encode("utf-8")            # 3.x: fails for what was no text on the command line
        return name
    except UnicodeError:
        raise argparse.ArgumentTypeError("a nickname is text")


def credits_to_grant(argument):
    """A number other than 0."""
    try:
        return int(argument) or int("nothing")
    except ValueError:
        raise argparse.ArgumentTypeError("%s is not a number of credits to give or take" % argument)


COMMANDS = [        # each with its arguments
    (create, []),
    (verify, []),
    (history, [("nickname", nickname, "whose trades")]),
    (show, [("nickname", nickname, "whose account")]),
    (backup, [("file", path_name, "the copy; it must not exist")]),
    (grant, [("nickname", nickname, "whose account"),
             ("credits", credits_to_grant, "how many; below 0 to take some")]),
]


def main(arguments=None):
    """Carry out a command; returns the exit status."""
    common = argparse.ArgumentParser(add_help=False)
    add_database_option(common)
    options, rest = common.parse_known_args(arguments)      # where it stands is no matter
    parser = argparse.ArgumentParser(
        parents=[common], description="Create the shop's tables, or look after its file. Every "
        "command may be used while a server runs on the file.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for run, parameters in COMMANDS:
        command = commands.add_parser(run.__name__, parents=[common], description=run.__doc__,
                                      help=run.__doc__.split(".")[0].replace("\n   ", ""))
        for name, kind, meaning in parameters:
            command.add_argument(name, type=kind, metavar=name.upper(), help=meaning)
        command.set_defaults(run=run, parameters=[name for name, _, _ in parameters])
    chosen = parser.parse_args(rest or ["create"])

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:          # nohup(1)
            signal.signal(number, signal.default_int_handler)   # which leaves nothing half done
    interrupted = 128 + signal.SIGINT                           # as shells have it
    out = _open_output()
    try:
        status = chosen.run(options.database, out,
                            *[getattr(chosen, name) for name in chosen.parameters]) or 0
        return status if _close_output(out) else 1
    except (CannotOpen, CommandFailed) as error:
        log.error("%s", error)
    except _STORAGE_ERRORS as error:
        if _said(error) == "interrupted":               # the signal came while SQLite was at work
            return interrupted
        log.error("%s failed: %s", chosen.run.__name__, _said(error))
    except EnvironmentError as error:
        if error.errno != errno.EPIPE:                  # whoever read our output has enough
            log.error("%s failed: %s%s", chosen.run.__name__, error.strerror,
                      ": %s" % error.filename if error.filename else "")
    except KeyboardInterrupt:
        return interrupted
    return 1


def _open_output():
    """Standard output for text; what it cannot show is escaped."""
    try:
        return io.open(sys.stdout.fileno(), "w", encoding=locale.getpreferredencoding(),
                       errors="backslashreplace", closefd=False)
    except (AttributeError, EnvironmentError):          # closed by whoever started us
        return io.open(os.devnull, "w")


def _close_output(out):
    """Write what is left of it; whether that was possible. What was to be done is done."""
    try:
        out.close()
    except EnvironmentError as error:
        if error.errno != errno.EPIPE:
            log.error("it is done, but the output cannot be written: %s", error.strerror)
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
