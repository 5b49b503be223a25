# -*- coding: utf-8 -*-
"""The shop: accounts in SQLite or PostgreSQL, who may buy and sell what, and one commit for many
changes.

    python db.py [--database DATABASE]          creates the tables; safe to run again
    python db.py [--database DATABASE] COMMAND  looks after them; --help lists the commands

The server loads an account when its player logs in; from then on it is checked and changed in
memory, since one login per nickname means that nobody else changes it. `Shop.commit` stores
everything that has changed in one transaction, together with the rows of the ledger that tell of
it, and only then may anybody be told.

What the two databases do differently stands in two classes, `SQLite` and `PostgreSQL`. peewee has
the schema, the connection, the transactions and the commands. The statements that run for every
login and trade are plain SQL, since building one takes far longer than running it.
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
import select
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

try:
    import peewee
except ImportError:             # outside the virtual environment, say
    sys.exit("peewee is missing; install it with: pip install -r requirements.txt")

from constants import (BUSY_SECONDS, RECOVERY_SECONDS, CONNECT_SECONDS, CREDITS_RANGE, DATABASE,
                       NICKNAME_FREED_SECONDS, ITEMS, KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS,
                       KEEPALIVE_PROBES, MAX_CLIENTS, MAX_CREDITS, PAGE_SIZE, RETRY_SECONDS,
                       STATEMENT_SECONDS, COMMAND_BUSY_SECONDS, USER_TIMEOUT_SECONDS, WAL_SIZE)
from models import TABLES, Account, Trade

log = logging.getLogger("lavka.db")

_TEXT = type("")                # unicode on 2.7

# peewee wraps the driver's errors where it runs a statement itself, but not in `executemany`; a
# damaged schema makes the driver raise UnicodeError.
_STORAGE_ERRORS = (peewee.PeeweeException, sqlite3.Error, UnicodeError)


NICKNAME_IN_USE = ("This nickname is in use; if its client vanished, it is free within %d seconds."
                   % NICKNAME_FREED_SECONDS)


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


class NotYet(Exception):
    """An account has to come from the database first: ask again after the next `Shop.fetch`, which
    gets all that was missed with one question. Nothing was changed."""


class ConnectionLost(Exception):
    """The database is gone, and with it every nickname: another server may give them to others by
    now. Whether the last changes were stored is not known."""


class UnusableRow(Exception):
    """Someone else has written what the shop never would: no number, no text, out of range."""


class CannotOpen(Exception):
    """The database cannot be used; the text is one sentence for whoever started the program."""


class OpenAccount(object):
    """An account in memory, for as long as its player is logged in.

    `stored` is the row (id, credits, items as text) as it was last loaded or stored, None when
    there is none; `unsaved` says that a change waits for the next commit; `version` is that of the
    database when it was last loaded.
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
    """All accounts of a database: the name of an SQLite file, which this process alone may serve,
    or the URL of a PostgreSQL database, whose nicknames are this process's from login to logout.

    Raises CannotOpen when it cannot be used: it has no tables, other tables, is no database, cannot
    be reached or is a file that is served by another process.

    `storage` is where they are: an `SQLite` or a `PostgreSQL`. For those who watch it, `commits`
    counts the transactions, `trades` the purchases and sales in them, and `largest_batch` is the
    most changes that one of them has stored.
    """

    def __init__(self, database):
        self.storage = storage_of(database)
        self.storage.serve()
        self.commits = 0
        self.trades = 0
        self.largest_batch = 0
        self._unsaved = {}              # nickname -> OpenAccount
        self._ledger = []               # what was done to them: (OpenAccount, the columns of Trade)
        self._version = None            # of the database; another one when others may have stored
                                        # something in it
        self._has_looked = False        # for another version, since the last commit
        self._failures = 0              # since storage last worked
        self._failed_at = 0             # the time of the last one
        self._said = None               # the last one that was logged, and when
        self._said_at = 0

    def close(self):
        """Give the database back. What was not committed is gone."""
        self.storage.close()

    # --- what players do; the effect is in memory until the next commit -------------------------

    def login(self, nickname):
        """Load the account of a nickname or open a new one: (OpenAccount, whether it is new).

        Raises NotYet, and Refusal: nickname_in_use when another server has it, storage_failed when
        the database cannot be read.
        """
        account = self._unsaved.get(nickname)       # logged out in this very tick
        if account is not None:
            self.storage.keep(nickname)
            return account, False
        try:
            stored = self.storage.load(nickname)
        except UnusableRow:
            log.error("unusable_row nickname=%s", quoted(nickname))
            raise Refusal("storage_failed", "This account cannot be read.")
        except _STORAGE_ERRORS as error:
            self._storage_failed(error)
            raise Refusal("storage_failed", "Accounts cannot be read now. Try again later.")
        self.storage.keep(nickname)
        account = OpenAccount(nickname, stored, self._version)
        if stored is None:
            account.credits = random.randint(*CREDITS_RANGE)
            self._changed(account, Trade.OPENING, "", 0)
        return account, stored is None

    def logout(self, account):
        """Let another server have the nickname, after the next commit."""
        self.storage.release(account.nickname)

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
            raise Refusal("item_not_owned", "You do not own %s." % (
                "the %s" % item if item in ITEMS else "that item"))
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
        an operator mostly. Raises NotYet. Where it fails, the commit of a change will find out."""
        try:
            if not self._has_looked:
                self._version = self.storage.version()
                self._has_looked = True
            if account.version != self._version and not account.unsaved:
                account.set_stored(self.storage.load(account.nickname) or account.stored)
                account.version = self._version
        except (UnusableRow,) + _STORAGE_ERRORS:
            pass

    # --- what comes from the database -----------------------------------------------------------

    def fetch(self):
        """Get everything that was not there yet. Only PostgreSQL has to."""
        try:
            self.storage.fetch()
        except _STORAGE_ERRORS as error:
            self._storage_failed(error)

    def need(self, account, nicknames):
        """Raises NotYet unless this account (or None) can trade, and these nicknames can log in,
        all together: for those who cannot stop in the middle."""
        self.storage.need(nicknames if account is None else nicknames + [account.nickname])

    # --- storing it -----------------------------------------------------------------------------

    def has_changes(self):
        """Whether a commit would have something to do."""
        return bool(self._unsaved) or self.storage.has_released()

    def commit(self):
        """Store all changes since the last call, durably, in one transaction; then give back the
        nicknames of those who have logged out.

        Returns the set of the accounts whose changes could not be stored. They are as they were
        before these changes, or as someone else has made their rows meanwhile; `stored` is None
        where no row exists. With nothing to store there is no transaction. Raises ConnectionLost,
        once.
        """
        self._has_looked = False
        failed = self._store() if self._unsaved else frozenset()
        self.storage.finish()
        return failed

    def _store(self):
        rows = {account: account.row() for account in self._unsaved.values()}
        ledger = self._ledger
        self._unsaved, self._ledger = {}, []
        try:
            failed = self.storage.save(rows, ledger)
        except _STORAGE_ERRORS as error:
            self._storage_failed(error)
            failed = {account: account.stored for account in rows}
        else:
            self._storage_works()
            if failed:
                ledger = [change for change in ledger if change[0] not in failed]
                for account in failed:
                    log.warning("changed_outside nickname=%s", quoted(account.nickname))
            self.commits += 1
            self.trades += sum(what != Trade.OPENING for _, what, _, _, _ in ledger)
            self.largest_batch = max(self.largest_batch, len(ledger))
        for account, row in rows.items():
            account.unsaved = False
            if account in failed:
                account.set_stored(failed[account])
            else:
                account.stored = (account.id,) + row
        return frozenset(failed)

    def _storage_failed(self, error):
        if self.storage.is_lost:        # of which it tells itself
            self._failures = 0
            return
        # Once, not for every player who is refused; again when it is another failure.
        said = _said(error)
        now = time.time()
        if not self._failures or (said != self._said and now >= self._said_at + RECOVERY_SECONDS):
            log.error("storage_failed error=%s", quoted(said))
            self._said, self._said_at = said, now
        self._failures += 1
        self._failed_at = now

    def _storage_works(self):
        # Not at once: a lock that comes and goes is one failure, not a line each time.
        if self._failures and time.time() >= self._failed_at + RECOVERY_SECONDS:
            log.warning("storage_works failures=%d", self._failures)
            self._failures = 0


def _said(error):
    """What one of _STORAGE_ERRORS says, its first line."""
    if isinstance(error, UnicodeError):
        return "it holds names that are no text"
    said = error
    while isinstance(said, Exception):                  # peewee has the driver's in its own
        said = said.args[0] if said.args else ""
    if isinstance(said, bytes):                         # 2.7
        said = said.decode("utf-8", "replace")
    return printable(("%s" % said).strip().split("\n")[0])


def _unknown_item():
    return Refusal("unknown_item", "There is no such item in the catalog.")


# --- the two databases ----------------------------------------------------------------------
# Both classes have the methods that `Shop`, the server's loop and the commands call; what is not
# needed in one of them does nothing there. `name` and `engine` are for people.

def storage_of(database):
    """The storage that --database names. Raises CannotOpen."""
    return (PostgreSQL if _URL.match(database) else SQLite)(database)


class SQLite(object):
    """The accounts in one file, of which one process is the server: it reads a row as soon as it is
    asked for, and has no nicknames to share."""

    SELECT = "SELECT id, credits, items FROM account WHERE nickname = ?"
    SELECT_TO_CHANGE = SELECT                       # in a transaction that nobody else can begin
    INSERT = "INSERT OR IGNORE INTO account (credits, items, nickname) VALUES (?, ?, ?)"
    # Compares with what was last loaded or stored: what someone else changed since is left alone.
    UPDATE = "UPDATE account SET credits = ?, items = ? WHERE id = ? AND credits = ? AND items = ?"
    RECORD = ("INSERT INTO trade (account_id, time, what, item, price, credits) "
              "VALUES (?, ?, ?, ?, ?, ?)")
    MOMENT = "datetime(time, 'unixepoch')"

    # For whoever writes. With WAL there is one fsync a commit, and commits need no new file; FULL
    # is an fsync of the log at each commit (sqlite.org/pragma.html).
    DURABLE = [("journal_mode", "wal"), ("synchronous", "full"), ("foreign_keys", 1)]

    # For everyone who comes to the file while a server may run: the log is for the server to empty.
    # Two who do that at once can damage the file, before SQLite 3.51.3 (sqlite.org/wal.html,
    # section 11).
    BESIDE_A_SERVER = [("wal_autocheckpoint", 0)]

    socket = None
    is_lost = False
    engine = "SQLite " + sqlite3.sqlite_version

    def __init__(self, path):
        self.name = path
        self.database = None        # of peewee

    # --- for the server -------------------------------------------------------------------------

    def serve(self):
        """Open the file for its one server."""
        self._check_exists()
        self._lock = self._take_lock()
        try:
            self._open(BUSY_SECONDS, self.DURABLE)
            page_size, = self.database.execute_sql("PRAGMA page_size").fetchone()
            self.database.execute_sql("PRAGMA wal_autocheckpoint = %d" % (WAL_SIZE // page_size))
        except CannotOpen:
            self._lock.close()
            raise

    def close(self):
        self.database.close()
        self._lock.close()

    def load(self, nickname):
        """The row of an account, None if there is none. Raises UnusableRow."""
        try:
            row = self.database.cursor().execute(self.SELECT, (nickname,)).fetchone()
        except _STORAGE_ERRORS as error:
            if "decode" in repr(error):         # sqlite3 has no class of its own for broken text
                raise UnusableRow()
            raise
        return _usable(row)

    def version(self):
        """A number that is another one when another program has stored something."""
        return self.database.execute_sql("PRAGMA data_version").fetchone()[0]

    def save(self, rows, ledger):
        """Write {account: row} and the ledger in one transaction, but for accounts that are not as
        they were loaded: {account: row or None} of these."""
        try:
            self.database.begin("IMMEDIATE")
            failed = self._write(rows)
            self._record(ledger, failed)
            self.database.commit()
            return failed
        except _STORAGE_ERRORS:
            self._roll_back()
            raise

    def _roll_back(self):
        try:
            self.database.rollback()
        except _STORAGE_ERRORS:
            pass                # SQLite has done so itself, as it does when the disk is full

    def _write(self, rows):
        cursor = self.database.cursor()
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
                suspects += known
        conflicts = {}
        for account in suspects:
            try:
                row = self.load(account.nickname)
            except UnusableRow:
                row = None
            if account.stored is None or row != (account.id,) + rows[account]:
                conflicts[account] = row
        return conflicts

    def _record(self, ledger, failed):
        now = int(time.time())
        if failed:
            ledger = [change for change in ledger if change[0] not in failed]
        self.database.cursor().executemany(self.RECORD, [
            (account.id, now, what, item, price, credits)
            for account, what, item, price, credits in ledger])

    # What follows is for those who share a database, and has nothing to do here.

    def need(self, nicknames):
        pass

    def fetch(self):
        pass

    def keep(self, nickname):
        pass

    def release(self, nickname):
        pass

    def has_released(self):
        return False

    def needs_care(self):
        return False

    def finish(self):
        pass

    def reconnect(self, clock):
        pass

    # --- for the commands -----------------------------------------------------------------------

    def create_tables(self):
        lock = None
        # The size of a page is settled before the journal_mode is.
        self._connect(COMMAND_BUSY_SECONDS,
                      [("page_size", PAGE_SIZE)] + self.DURABLE + self.BESIDE_A_SERVER)
        try:
            with self.database.bind_ctx(TABLES):
                if Account.table_exists() and not Trade.table_exists():
                    lock = self._take_lock()        # a server of before the ledger goes on without
                with self.database.atomic("IMMEDIATE"):
                    upgrade = Account.table_exists() and not Trade.table_exists()       # still
                    self.database.create_tables(TABLES)
                    _check_schema(self.database, self.name, TABLES)
                    if upgrade:
                        self._check_rows()
                        self.database.execute_sql(
                            "INSERT INTO trade (account_id, time, what, item, price, credits) "
                            "SELECT id, ?, ?, items, 0, credits FROM account ORDER BY id",
                            (int(time.time()), Trade.OPENING))
        except _STORAGE_ERRORS as error:
            raise CannotOpen("cannot create the tables in %s: %s" % (self.name, _said(error)))
        finally:
            self.database.close()
            if lock:
                lock.close()

    def _check_rows(self):
        """Raises CannotOpen if an account is not such as the shop writes."""
        row = self.database.execute_sql(
            "SELECT CAST(nickname AS TEXT) FROM account WHERE typeof(nickname) != 'text' "
            "OR typeof(items) != 'text' OR typeof(credits) != 'integer' OR credits < 0").fetchone()
        if row is not None:
            raise CannotOpen("account %s of %s has no usable credits or items: correct them before "
                             "the upgrade" % (shown(row[0]), self.name))

    @contextlib.contextmanager
    def reading(self, models=TABLES):
        """Open it to store nothing, not even a setting: the file may be a backup."""
        self._check_exists()
        self._open(COMMAND_BUSY_SECONDS, self.BESIDE_A_SERVER, models)
        with contextlib.closing(self.database):
            # What others wrote may be no text at all; that is to be told, not to fail on.
            self.database.connection().text_factory = lambda data: data.decode("utf-8", "replace")
            yield

    @contextlib.contextmanager
    def changing(self):
        """Open it for one transaction, which is durable."""
        self._check_exists()
        self._open(COMMAND_BUSY_SECONDS, self.DURABLE + self.BESIDE_A_SERVER)
        with contextlib.closing(self.database), self.database.atomic("IMMEDIATE"):
            yield

    def query(self, sql, *parameters):
        """The rows of a SELECT, one after the other."""
        return self.database.execute_sql(sql, parameters)

    stream = query

    def begin_reading(self, progress):
        """See one state from now on, however long, and show that a long statement goes on."""
        # SQLite calls this out of a long statement; Ctrl-C, too, has its effect then.
        self.database.connection().set_progress_handler(progress.draw, 100000)
        self.database.begin()

    def damages(self):
        """What is wrong with the file itself, a sentence for each."""
        for said, in self.query("PRAGMA integrity_check"):
            if said != "ok":
                yield said

    def copy_to(self, path, progress):
        """Write a copy of one state to a file; locks nobody. It is for the caller to fsync."""
        self.database.connection().set_progress_handler(progress.draw, 100000)
        self.database.execute_sql("VACUUM INTO ?", (path,))

    # --- the file -------------------------------------------------------------------------------

    def _check_exists(self):
        if not os.path.exists(self.name):
            raise CannotOpen("there is no database %s: create it with: %s"
                             % (self.name, _command(self.name)))

    def _open(self, patience, pragmas, models=TABLES):
        """Connect to a file that has the tables of the models. Raises CannotOpen."""
        self._connect(patience, pragmas)
        try:
            _check_schema(self.database, self.name, models)
        except CannotOpen:
            self.database.close()
            raise

    def _connect(self, patience, pragmas):
        """Connect, with DURABLE so that a commit is durable; `patience` is how many seconds it
        waits for others who write. Raises CannotOpen."""
        try:
            absolute = os.path.abspath(self.name)       # or "file:x" would be taken for a URI
        except (EnvironmentError, UnicodeError):
            raise CannotOpen("cannot open the database %s: the working directory cannot be read"
                             % self.name)
        self.database = peewee.SqliteDatabase(absolute, timeout=patience, pragmas=pragmas)
        try:
            self.database.connect()
            settings = [self.database.execute_sql("PRAGMA " + name).fetchone()[0]
                        for name in ("journal_mode", "synchronous")]
        except _STORAGE_ERRORS as error:
            self.database.close()
            raise CannotOpen("cannot open the database %s: %s" % (self.name, _said(error)))
        if ("synchronous", "full") in pragmas and settings != ["wal", 2]:
            self.database.close()
            raise CannotOpen("the database %s cannot be made durable (journal_mode, synchronous = "
                             "%s)" % (self.name, settings))

    def _take_lock(self):
        """The lock of the one process that serves this file; it goes when the process does.

        It is on a file of its own: closing any descriptor of the database would drop SQLite's locks
        (fcntl(2), "Record locking"; sqlite.org/howtocorrupt.html, section 2.2).
        """
        try:
            lock = io.open(os.path.realpath(self.name) + ".lock", "ab")
        except EnvironmentError as error:
            raise CannotOpen("cannot lock the database %s: %s" % (self.name, error.strerror))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except EnvironmentError as error:
            lock.close()
            if error.errno == errno.EWOULDBLOCK:
                raise CannotOpen("another server is serving the database %s" % self.name)
            raise CannotOpen("cannot lock the database %s: %s" % (self.name, error.strerror))
        return lock


class PostgreSQL(object):
    """The accounts in a database that several servers may share.

    A server has the nicknames of its players, and no other, by an advisory lock for each, of the
    very session that stores the accounts (postgresql.org/docs/current/explicit-locking.html). So a
    server that is gone has none, and one that lost its connection can store nothing for players who
    may be another server's by now.

    A statement takes longer on its way than all that a request costs. So a tick has a few of them,
    however many players trade: what is missing is noted, and `fetch` gets all of it; one statement
    stores everything; one gives back the nicknames of those who left.
    """

    SELECT = SQLite.SELECT
    SELECT_TO_CHANGE = SELECT + " FOR UPDATE"
    # Before the row is read, in a statement of its own: one that waited with both would read what
    # was there when it began, and the server that had the nickname may have stored something since.
    LOCK = ("SELECT nickname, pg_try_advisory_lock(hashtextextended(nickname, 0)) "
            "FROM unnest(%s::text[]) AS nickname")
    UNLOCK = ("SELECT count(pg_advisory_unlock(hashtextextended(nickname, 0))) "
              "FROM unnest(%s::text[]) AS nickname")
    ROWS = "SELECT nickname, id, credits, items FROM account WHERE nickname = ANY(%s::text[])"
    # The changes of a tick. Outside BEGIN and COMMIT a statement is a transaction. It stores the
    # new accounts that nobody else has opened, the known ones that are as they were loaded, and
    # the ledger of both; it returns who was stored.
    SAVE = """
        WITH opened AS (
            INSERT INTO account (nickname, credits, items)
            SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[])
            ON CONFLICT (nickname) DO NOTHING
            RETURNING nickname, id),
        saved AS (
            UPDATE account SET credits = new.credits, items = new.items
            FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::bigint[],
                        %s::text[])
                AS new (nickname, id, credits, items, loaded_credits, loaded_items)
            WHERE account.id = new.id AND account.nickname = new.nickname
                AND account.credits = loaded_credits AND account.items = loaded_items
            RETURNING account.nickname, account.id),
        stored AS (SELECT * FROM opened UNION ALL SELECT * FROM saved),
        recorded AS (
            INSERT INTO trade (account_id, time, what, item, price, credits)
            SELECT stored.id, %s, what, item, price, credits
            FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
                WITH ORDINALITY AS change (nickname, what, item, price, credits, number)
            JOIN stored USING (nickname) ORDER BY number)
        SELECT * FROM stored"""
    MOMENT = "to_char(to_timestamp(time) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"

    # Of each session; those that a server is too old for are left out. No timeout but that for a
    # lock: a commit that waits for a replica and is cancelled says that it has succeeded. The last
    # ones let the database notice that a server's machine has vanished, and free its nicknames.
    SETTINGS = [
        ("statement_timeout", "0"), ("transaction_timeout", "0"), ("idle_session_timeout", "0"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("tcp_keepalives_idle", "%d" % KEEPALIVE_IDLE_SECONDS),
        ("tcp_keepalives_interval", "%d" % KEEPALIVE_INTERVAL_SECONDS),
        ("tcp_keepalives_count", "%d" % KEEPALIVE_PROBES),
        ("tcp_user_timeout", "%d" % (1000 * USER_TIMEOUT_SECONDS))]

    IN_USE, UNREAD = "in use", "unread"     # where a row could be

    def __init__(self, url):
        try:
            import psycopg2
        except ImportError:
            raise CannotOpen("PostgreSQL needs a driver: pip install -r "
                             "requirements-postgresql.txt")
        self._driver = psycopg2
        self._parameters, self._hosts, self.name = _read_url(url, psycopg2)
        self._session = None            # the process of PostgreSQL's for us, and when it began
        self.socket = None              # becomes readable when the connection ends; a new one for
                                        # each, for the caller to close when it is another one
        self.is_lost = False            # the connection
        self._is_told = True            # whether `finish` has told of it
        self._why = None                # it could not be made again, as was logged last
        self._retry_at = 0              # the time of the next attempt to connect
        self._pause = RETRY_SECONDS[0]  # before the one after it
        self._lock_seconds = COMMAND_BUSY_SECONDS
        self._answer_seconds = None     # the most that a statement may take
        self._ticks = 0
        self._wanted = set()            # nicknames
        self._at_hand = {}              # nickname -> row, None, IN_USE or UNREAD; of this tick
        self._kept = set()              # the nicknames of our players
        self._released = set()          # others that are still locked
        self._doubtful = set()          # others that may be, since a statement failed

    # --- for the server -------------------------------------------------------------------------

    def serve(self):
        """Connect as a server."""
        self._lock_seconds, self._answer_seconds = BUSY_SECONDS, STATEMENT_SECONDS
        self._open(TABLES)
        self._begin_session()
        room, = self.query("SELECT current_setting('max_locks_per_transaction')::bigint * "
                           "(current_setting('max_connections')::bigint "
                           "+ current_setting('max_prepared_transactions')::bigint)").fetchone()
        if room < MAX_CLIENTS:
            log.warning("few_locks room_for=%d: players of all servers together; a greater "
                        "max_locks_per_transaction has room for more", room)

    def close(self):
        self.database.close()
        if self.socket is not None:
            self.socket.close()

    def load(self, nickname):
        """The row of an account, None if there is none. Raises NotYet, and Refusal when another
        server has the nickname."""
        if self.is_lost:
            raise peewee.OperationalError("there is no connection")
        self.need([nickname])
        row = self._at_hand[nickname]
        if row is self.IN_USE:
            raise Refusal("nickname_in_use", NICKNAME_IN_USE)
        if row is self.UNREAD:
            raise peewee.OperationalError("it could not be read")
        return _usable(row)

    def version(self):
        """Another number in each tick: to ask for changes costs as much as to read the rows."""
        return self._ticks

    def need(self, nicknames):
        missing = [nickname for nickname in nicknames if nickname not in self._at_hand]
        if missing and not self.is_lost:
            self._wanted.update(missing)
            raise NotYet()

    def fetch(self):
        """Get the rows that were missed, and the nicknames that are not ours yet."""
        if not self._wanted:
            return
        wanted, self._wanted = self._wanted, set()
        self._at_hand.update(dict.fromkeys(wanted, self.UNREAD))
        wanted -= self._doubtful
        self._lock(wanted - self._kept - self._released)
        ours = [nickname for nickname in wanted if self._at_hand[nickname] is not self.IN_USE]
        rows = self._rows(ours)
        self._at_hand.update((nickname, rows.get(nickname)) for nickname in ours)

    def _lock(self, nicknames):
        if nicknames:
            self._doubtful |= nicknames         # if it fails
            for nickname, is_ours in self._run(self.LOCK, _array(nicknames)).fetchall():
                if is_ours:
                    self._released.add(nickname)
                else:
                    self._at_hand[nickname] = self.IN_USE
            self._doubtful -= nicknames

    def _rows(self, nicknames):
        """{nickname: row} of those that there are."""
        return {row[0]: row[1:] for row in self._run(self.ROWS, _array(nicknames)).fetchall()}

    def save(self, rows, ledger):
        """Write {account: row} and the ledger in one transaction, but for accounts that are not as
        they were loaded: {account: row or None} of these."""
        opened = [account for account in rows if account.stored is None]
        columns = (
            _columns([(account.nickname,) + rows[account] for account in opened], 3)
            + _columns([(account.nickname, account.id) + rows[account] + account.stored[1:]
                        for account in rows if account.stored is not None], 6)
            + [int(time.time())]
            + _columns([(change[0].nickname,) + change[1:] for change in ledger], 5))
        ids = dict(self._run(self.SAVE, *columns).fetchall())
        for account in opened:
            account.id = ids.get(account.nickname)
        failed = [account for account in rows if account.nickname not in ids]
        if not failed:
            return {}
        try:
            current = self._rows([account.nickname for account in failed])
        except peewee.PeeweeException:          # the others are stored
            return {account: account.stored for account in failed}
        return {account: current.get(account.nickname) for account in failed}

    def keep(self, nickname):
        """It is one of our players'."""
        if not self.is_lost:
            self._released.discard(nickname)
            self._kept.add(nickname)

    def release(self, nickname):
        """It is not any more; `finish` gives it back."""
        if nickname in self._kept:              # and was not lost meanwhile
            self._kept.discard(nickname)
            self._released.add(nickname)

    def has_released(self):
        return bool(self._released)

    def needs_care(self):
        """Whether there is something to do now and then, though nobody asks for it."""
        return self.is_lost or bool(self._doubtful)

    def finish(self):
        """End a tick. Raises ConnectionLost, once."""
        self._at_hand = {}
        self._ticks += 1
        self._doubtful |= self._released
        self._released = set()
        if self._doubtful:
            try:
                self._run(self.UNLOCK, _array(self._doubtful))
                self._doubtful = set()
            except peewee.PeeweeException as error:
                if not self.is_lost:            # which has freed them; or the next tick tries again
                    log.error("unlock_failed error=%s", quoted(_said(error)))
        if not self._is_told:
            self._is_told = True
            raise ConnectionLost()

    def listen(self):
        """See why the socket is readable."""
        if not self.is_lost:
            try:
                self._connection.poll()
            except self._driver.Error as error:
                self._lose(error)

    def _run(self, sql, *parameters):
        """Execute a statement of the server's."""
        if self.is_lost:
            raise peewee.OperationalError("there is no connection")
        try:
            return self.database.execute_sql(sql, parameters)
        except peewee.PeeweeException as error:
            if self._connection.closed:
                self._lose(error)
            raise

    def _lose(self, error):
        """Give up the connection, and with it every nickname."""
        if not self.is_lost:
            log.error("storage_lost error=%s", quoted(_said(error)))
            self.is_lost = True
            self._is_told = False
            self.database.close()
            self.socket = None
            self._retry_at = 0
            self._pause = RETRY_SECONDS[0]
            for nicknames in (self._wanted, self._at_hand, self._kept, self._released,
                              self._doubtful):
                nicknames.clear()

    def reconnect(self, clock):
        """Try to connect again, if it is time by this clock, in seconds."""
        begin = clock()
        if self.is_lost and begin >= self._retry_at:
            try:
                self._open(TABLES)
                # Ours is gone, but its process may not have noticed, and then has the nicknames.
                self.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                           "WHERE pid = ? AND backend_start = ?", *self._session)
                self._begin_session()
            except (CannotOpen, peewee.PeeweeException, socket.error) as error:
                self.database.close()
                if _said(error) != self._why:
                    self._why = _said(error)
                    log.error("storage_unreachable error=%s", quoted(self._why))
                took = clock() - begin          # nobody was served meanwhile
                self._retry_at = begin + took + max(took, self._pause)
                self._pause = min(2 * self._pause, RETRY_SECONDS[1])
            else:
                self.is_lost = False
                self._why = None
                log.warning("storage_found")

    # --- for the commands -----------------------------------------------------------------------

    def create_tables(self):
        self._connect()
        try:
            with self.database.bind_ctx(TABLES), self._transaction():
                # Two who create them at once would be in each other's way; and who creates what is
                # there already would be in the servers' way.
                self.query("SELECT pg_advisory_xact_lock(hashtextextended('', 0))")
                if not Account.table_exists():      # there never were accounts without a ledger
                    self.database.create_tables(TABLES)
                _check_schema(self.database, self.name, TABLES)
        except _STORAGE_ERRORS as error:
            raise CannotOpen("cannot create the tables in %s: %s" % (self.name, _said(error)))
        finally:
            self.database.close()

    @contextlib.contextmanager
    def reading(self, models=TABLES):
        """Open it to store nothing."""
        self._open(models)
        with contextlib.closing(self.database):
            yield

    @contextlib.contextmanager
    def changing(self):
        """Open it for one transaction."""
        self._open(TABLES)
        with contextlib.closing(self.database), self._transaction():
            yield

    @contextlib.contextmanager
    def _transaction(self):
        """One that is undone by closing the connection, as whoever uses it does."""
        self.database.begin()
        yield
        self.database.commit()

    def query(self, sql, *parameters):
        """The rows of a SELECT."""
        return self.database.execute_sql(sql.replace("?", "%s"), parameters)

    def stream(self, sql):
        """The rows of a SELECT after `begin_reading`, one after the other, however many."""
        self.query("DECLARE stream NO SCROLL CURSOR FOR " + sql)
        fetch = iter(lambda: self.query("FETCH 10000 FROM stream").fetchall(), [])
        return itertools.chain.from_iterable(fetch)

    def begin_reading(self, progress):
        """See one state from now on, however long."""
        self.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def damages(self):
        """Nothing: the database has its own tools for that."""
        return []

    def copy_to(self, path, progress):
        """Have pg_dump write a copy of one state to a file, for pg_restore."""
        parameters, variables = dict(self._parameters), dict(os.environ)
        for name in ("host", "port"):
            values = [host.get(name, "") for host in self._hosts]
            if any(values):
                parameters[name] = ",".join(values)
        if "password" in parameters:            # which everybody could read in a command line
            variables["PGPASSWORD"] = parameters.pop("password")
        command = ["pg_dump", "--format=custom", "--no-password", "--file", path, "--dbname",
                   self._driver.extensions.make_dsn(**parameters)]
        try:
            process = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE)
        except EnvironmentError:
            raise CommandFailed("a backup of PostgreSQL needs pg_dump, which is not here")
        try:
            said = process.communicate()[1].decode("utf-8", "replace").strip()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
            raise
        if process.returncode:
            raise CommandFailed(printable(said.split("\n")[0]) or "pg_dump failed")

    # --- the connection -------------------------------------------------------------------------

    def _wait(self, connection):
        """Wait for an answer, for the driver: in libpq, signals would have to wait, too."""
        is_connecting = connection.status == self._driver.extensions.STATUS_SETUP
        seconds = CONNECT_SECONDS if is_connecting else self._answer_seconds
        poller = select.poll()                  # select has no descriptors over 1023
        events = {self._driver.extensions.POLL_READ: select.POLLIN,
                  self._driver.extensions.POLL_WRITE: select.POLLOUT}
        while True:
            state = connection.poll()
            if state == self._driver.extensions.POLL_OK:
                return
            poller.register(connection.fileno(), events[state])
            try:
                answer = poller.poll(seconds and 1000 * seconds)
            except select.error as error:       # 2.7: after a signal
                if error.args[0] != errno.EINTR:
                    raise
            else:
                if not answer:                  # the driver ends the connection
                    raise self._driver.OperationalError("no answer for %s s" % seconds)

    def _open(self, models):
        """Connect to a database that has the tables of the models. Raises CannotOpen."""
        self._connect()
        try:
            _check_schema(self.database, self.name, models)
        except CannotOpen:
            self.database.close()
            raise

    def _connect(self):
        """Connect to the first host that has a database on which a commit is durable; libpq would
        wait for each without a limit here. Raises CannotOpen."""
        reasons = []
        for host in self._hosts:
            try:
                return self._connect_to(host)
            except CannotOpen as error:
                reasons.append("%s" % error)
        raise CannotOpen("; ".join(reasons))

    def _connect_to(self, host):
        parameters = dict(self._parameters, **host)
        parameters.setdefault("fallback_application_name", "lavka")
        self.database = _PostgresqlDatabase(parameters.pop("dbname"), encoding="utf8", **parameters)
        extensions = self._driver.extensions
        extensions.set_wait_callback(self._wait)
        try:
            self.database.connect()
            self._connection = self.database.connection()
            if sys.version_info[0] < 3:         # 2.7: or numbers would be long, not int
                bigint = extensions.new_type(
                    (20,), str("BIGINT"), lambda text, cursor: text and int(text))
                extensions.register_type(bigint, self._connection)
            self.query("SELECT set_config(name, value, false) FROM pg_settings JOIN "
                       "unnest(?::text[], ?::text[]) AS wanted (name, value) USING (name)",
                       *_columns(self.SETTINGS
                                 + [("lock_timeout", "%d" % (1000 * self._lock_seconds))], 2))
            # It waits for the log, and for the replicas that synchronous_standby_names has; only
            # remote_apply waits for more.
            self.query("SELECT set_config('synchronous_commit', 'on', false) "
                       "WHERE current_setting('synchronous_commit') != 'remote_apply'")
            version, encoding, is_replica, is_durable = self.query(
                "SELECT current_setting('server_version'), current_setting('server_encoding'), "
                "pg_is_in_recovery(), current_setting('fsync') = 'on' "
                "AND current_setting('full_page_writes') = 'on' "
                "AND current_setting('synchronous_commit') IN ('on', 'remote_apply')").fetchone()
        except peewee.PeeweeException as error:
            self.database.close()
            raise CannotOpen("cannot open the database %s: %s" % (self.name, _said(error)))
        for is_wrong, why in [
                (self._connection.server_version < 110000, "needs PostgreSQL 11 or a later one"),
                (is_replica, "is a replica, which cannot be written to"),
                (encoding != "UTF8", "has the encoding %s, it has to be UTF8" % encoding),
                (not is_durable, "cannot be made durable: fsync, full_page_writes and "
                                 "synchronous_commit have to be on")]:
            if is_wrong:
                self.database.close()
                raise CannotOpen("the database %s %s" % (self.name, why))
        self.engine = "PostgreSQL " + version.split()[0]

    def _begin_session(self):
        """Be a server on this connection."""
        self._session = self.query("SELECT pid, backend_start FROM pg_stat_activity "
                                   "WHERE pid = pg_backend_pid()").fetchone()
        self.socket = socket.fromfd(self._connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)


class _PostgresqlDatabase(peewee.PostgresqlDatabase):
    """peewee's, whose errors are all peewee's."""

    def execute_sql(self, *arguments, **options):
        try:
            return super(_PostgresqlDatabase, self).execute_sql(*arguments, **options)
        except self.connection().Error as error:        # 2.7: QueryCanceled
            raise peewee.OperationalError(*error.args)


# A URL's password, user and host end where libpq thinks they do; where people might think
# otherwise, it is refused, or a part of a password would be taken for a host and told to everyone.
# Nor is anything a file's name that somebody could have meant as a URL.
_URL = re.compile(r".*://|.*password\s*=|[^\w./]*postgres(ql)?(:|;|//)|/*[^/]*:[^/]*@")
_POSTGRESQL_URL = re.compile(r"postgres(ql)?://([^@/?#]*@)?[^@#]*$")


def _read_url(url, driver):
    """(the parameters of a connection, those of each host, the URL without its password). Raises
    CannotOpen."""
    if not re.match("postgres(ql)?:", url):
        raise CannotOpen("a database is a file, or postgresql://user:password@host/name")
    parameters = {}
    if _POSTGRESQL_URL.match(url):
        try:
            parameters = driver.extensions.parse_dsn(url)
            "".join(parameters.values())        # 2.7: fails for more than ASCII, as the driver
        except (driver.Error, UnicodeError):    # whose text may have a part of the password
            pass
    user, name = parameters.get("user", ""), parameters.get("dbname")
    hosts = parameters.pop("host", "").split(",")
    ports = parameters.pop("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if not name or len(ports) != len(hosts) or not re.match("[0-9]*$", "".join(ports)):
        raise CannotOpen("this is no URL of a database: it has to be "
                         "postgresql://user:password@host:port/name, with %XX for each special "
                         "character in a name or the password")
    places = [dict([("host", host)] * bool(host) + [("port", port)] * bool(port))
              for host, port in zip(hosts, ports)]
    return parameters, places, printable("postgresql://%s%s/%s" % (
        user and user + "@",
        ",".join(host + (port and ":" + port) for host, port in zip(hosts, ports)), name))


def _columns(rows, number):
    """The columns of rows as arrays: what unnest makes rows of again."""
    return [_array([row[column] for row in rows]) for column in range(number)]


def _array(values):
    """An array in PostgreSQL's notation; the driver's takes five times as long."""
    return "{%s}" % ",".join([
        '"%s"' % ("%s" % value).replace("\\", "\\\\").replace('"', '\\"') for value in values])


# --- what both have in common ---------------------------------------------------------------

def _usable(row):
    """The row, if the shop could have written it. Raises UnusableRow."""
    if row is not None and not _is_usable(row):
        raise UnusableRow()
    return row


def _is_usable(row):
    _, credits, items = row
    return isinstance(credits, int) and 0 <= credits <= MAX_CREDITS and isinstance(items, _TEXT)


def _check_schema(database, name, models):
    """Raises CannotOpen unless the tables are there, with the columns of the models, and nicknames
    are unique."""
    for model in models:
        table = model._meta.table_name
        try:
            if not database.table_exists(table):
                raise CannotOpen("the database %s has no table %s: create it with: %s"
                                 % (name, table, _command(name)))
            database.execute_sql("SELECT * FROM %s LIMIT 0" % table)    # if we may
            columns = {column.name for column in database.get_columns(table)}
            unique = [index.columns for index in database.get_indexes(table) if index.unique]
        except _STORAGE_ERRORS as error:
            raise CannotOpen("cannot read the database %s: %s" % (name, _said(error)))
        if columns != set(model._meta.columns) or (model is Account and ["nickname"] not in unique):
            raise CannotOpen("the table %s of %s is not that of this program" % (table, name))


def _command(name):
    """What to type to create the tables of this database."""
    if _URL.match(name):                        # of which the password is not told
        return "python db.py, with the same database"
    return "python db.py" if name == DATABASE else "python db.py --database %s" % name


# --- the commands of python db.py -----------------------------------------------------------
# Each is safe while servers run on the database. They write text to `out`; they raise CannotOpen,
# CommandFailed, or what the database has to say.

class CommandFailed(Exception):
    """A command was not carried out; the text is one sentence for whoever typed it."""


def create_tables(database):
    """Create what is missing: the file, the tables. Accounts from before the ledger get their first
    row there. Raises CannotOpen."""
    storage_of(database).create_tables()


def create(storage, out):
    """Create the tables; safe to run again. A file from before the ledger is upgraded. This is
    what happens without a command."""
    storage.create_tables()
    log.info("the tables are ready in %s", storage.name)


def show(storage, out, nickname):
    """Print an account."""
    with storage.reading():
        _, credits, items = _find_usable(storage, nickname)
    out.write("nickname  %s\ncredits   %s\nitems     %s\n" % (
        quoted(nickname), credits, printable(items).replace(",", ", ") or "none"))


def history(storage, out, nickname):
    """Print what the ledger has of an account, the oldest row first."""
    with storage.reading():
        layout = "%-19s  %-8s  %7s  %9s  %s"
        id, _, _ = _find(storage, nickname)
        out.write(layout % ("time (UTC)", "what", "price", "credits", "item") + "\n")
        for when, what, price, credits, item in storage.query(
                "SELECT " + storage.MOMENT + ", CAST(what AS TEXT), price, credits, "
                "CAST(item AS TEXT) FROM trade WHERE account_id = ? ORDER BY id", id):
            price = "" if what == Trade.OPENING else price
            line = layout % (when, what, price, credits, item)
            out.write(printable(line.rstrip()) + "\n")


def grant(storage, out, nickname, credits):
    """Give an account credits, or take some with a number below 0. Its player may be logged in:
    the next purchase or sale counts with them, and shows them. (If it happens in this very moment
    it may be refused once, with nothing lost.)"""
    with storage.changing(), storage.database.bind_ctx(TABLES):
        id, before, _ = _find_usable(storage, nickname, storage.SELECT_TO_CHANGE)
        after = before + credits
        if not 0 <= after <= MAX_CREDITS:
            raise CommandFailed("%s has %d credits; they can be 0 to %d"
                                % (quoted(nickname), before, MAX_CREDITS))
        Account.update(credits=after).where(Account.id == id).execute()
        Trade.create(account=id, time=int(time.time()), what=Trade.GRANT, item="",
                     price=credits, credits=after)
    out.write("%s has %d credits now\n" % (quoted(nickname), after))


def backup(storage, out, target):
    """Write a copy of the database, as it is at one moment, to a new file: an SQLite file, or of
    PostgreSQL what pg_restore reads."""
    folder = os.path.dirname(os.path.abspath(target))
    if os.path.lexists(target):
        raise CommandFailed("%s exists already; a backup overwrites nothing" % target)
    # The ledger may be missing: one makes a backup before an upgrade.
    with storage.reading([Account]):
        handle, unfinished = tempfile.mkstemp(".unfinished", os.path.basename(target) + ".", folder)
        try:
            with Progress("copying") as progress:
                storage.copy_to(unfinished, progress)
                os.fsync(handle)
            os.link(unfinished, target)                 # fails where rename would overwrite
        finally:
            os.remove(unfinished)
            os.close(handle)
    folder = os.open(folder, os.O_RDONLY)
    os.fsync(folder)                                    # the name, too, outlives a power cut
    os.close(folder)
    out.write("%s has %d bytes\n" % (target, os.path.getsize(target)))


def verify(storage, out):
    """Check the file, replay the ledger and compare it with every account. The exit status is 1
    if anything is not as it should be. (PostgreSQL has its own tools to check its files.)"""
    with storage.reading(), Progress("checking the file") as progress:
        storage.begin_reading(progress)
        accounts, rows = [storage.query("SELECT COUNT(*) FROM " + table).fetchone()[0]
                          for table in ("account", "trade")]
        found = 0
        for problem in itertools.chain(storage.damages(),
                                       _differences(storage, progress, accounts)):
            found += 1
            progress.clear()
            out.write("%s\n" % problem)
    out.write("accounts: %d, rows of the ledger: %d, problems: %d\n" % (accounts, rows, found))
    return 1 if found else 0


def _differences(storage, progress, total):
    """Replay the ledger, one account after the other; a sentence for each thing that is wrong."""
    progress.stage("sorting the ledger")
    merged = itertools.groupby(storage.stream(          # each account before its rows
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


def _find(storage, nickname, select=None):
    """The row (id, credits, items as text) of an account."""
    row = storage.query(select or storage.SELECT, nickname).fetchone()
    if row is None:
        raise CommandFailed("there is no account %s" % quoted(nickname))
    return row


def _find_usable(storage, nickname, select=None):
    row = _find(storage, nickname, select)
    if not _is_usable(row):
        raise CommandFailed("the row of account %s cannot be used; verify tells more"
                            % quoted(nickname))
    return row


class Progress(object):
    """One line on the terminal about a long command; nothing where there is no terminal."""

    def __init__(self, stage):
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.begin = time.time()
        self.stage(stage)

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


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors have no URL in them, which may have a password."""

    def error(self, message):
        super(Parser, self).error(re.sub(r":/\S+", ":/...", message))


def add_database_option(parser):
    """The option that the server has too."""
    parser.add_argument("--database", metavar="DATABASE", type=path_name,
                        default=os.environ.get("LAVKA_DATABASE") or DATABASE,
                        help="an SQLite file, or postgresql://user:password@host/name "
                        "(default: LAVKA_DATABASE, or %s)" % DATABASE)


def path_name(argument):
    """The name of a file as text, or a URL; on 2.7 it comes as bytes."""
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
    common = Parser(add_help=False)
    add_database_option(common)
    options, rest = common.parse_known_args(arguments)      # where it stands is no matter
    parser = Parser(
        parents=[common], description="Create the shop's tables, or look after its accounts. Every "
        "command may be used while a server runs on them.")
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
        status = chosen.run(storage_of(options.database), out,
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
