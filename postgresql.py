# -*- coding: utf-8 -*-
"""The accounts in a PostgreSQL database that several servers share.

A server holds the nicknames of its players, and no others: by an advisory lock for each, of the
session that stores the accounts (postgresql.org/docs/current/explicit-locking.html). Fencing: a
server that is gone has no locks, and one that lost its session can store nothing for players who
may be logged in elsewhere.

A round trip takes longer than all the rest of a request. So a tick makes a few, however many
players trade: `prefetch` locks and reads what the tick needs, `save` stores all changes,
`end_tick` gives back the nicknames of ended logins.

It opens the database as the commands do, by `postgresql_database`.
"""
from __future__ import unicode_literals

import logging
import socket
import time

import peewee

from constants import (BRIEF_LOCK_SECONDS, BUSY_SECONDS, MAX_CLIENTS, RETRY_SECONDS,
                       STATEMENT_SECONDS)
from log import monotonic
from models import TABLES
from postgresql_connection import array, columns, duplicate_socket, is_lock_timeout, prepare
from postgresql_database import PostgreSQLDatabase
from postgresql_locks import NicknameLocks
from storage import CannotOpen, ConnectionLost, check_usable, describe
from text import excerpt

log = logging.getLogger("lavka.postgresql")

# Sent with a statement, in one round trip and one transaction, so that it waits briefly for a lock.
_BRIEFLY = "SET LOCAL lock_timeout = %d; " % (1000 * BRIEF_LOCK_SECONDS)

# One statement is one transaction. It inserts new accounts, unless the nickname exists; updates
# known ones whose row is as it was loaded; records the ledger of both; stores new keys, where there
# are any; returns those stored.
_SAVE = """
    WITH opened AS (
        INSERT INTO account (nickname, credits, items)
        SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[])
        ON CONFLICT (nickname) DO NOTHING
        RETURNING nickname, id),
    saved AS (
        UPDATE account SET credits = new.credits, items = new.items
        FROM {}unnest(%s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::text[])
                AS new (nickname, id, credits, items, loaded_credits, loaded_items){}
        WHERE account.id = new.id AND account.nickname = new.nickname
            AND account.credits = loaded_credits AND account.items = loaded_items
        RETURNING account.nickname, account.id),
    stored AS (SELECT * FROM opened UNION ALL SELECT * FROM saved),
    recorded AS (
        INSERT INTO trade (account_id, time, what, item, price, credits, note)
        SELECT stored.id, %s::bigint, what, item, price, credits, ''
        FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
            WITH ORDINALITY AS change (nickname, what, item, price, credits, number)
        JOIN stored USING (nickname) ORDER BY number)"""
_PROTECT = """,
    protected AS (
        INSERT INTO account_key (account_id, hash)
        SELECT stored.id, hash FROM unnest(%s::text[], %s::text[]) AS key (nickname, hash)
        JOIN stored USING (nickname)
        ON CONFLICT (account_id) DO UPDATE SET hash = excluded.hash)"""
_RETURN = """
    SELECT * FROM stored"""


class PostgreSQL(PostgreSQLDatabase):
    """The accounts in one database; see `Storage` for what each method does."""

    prefetches = True

    ROWS = "SELECT nickname, id, credits, items FROM account WHERE nickname = ANY(%s::text[])"
    # A join instead would read all keys, as soon as there are many nicknames.
    ROWS_AND_KEYS = ROWS.replace(
        " FROM", ", (SELECT hash FROM account_key WHERE account_id = id) FROM", 1)
    SAVE = _SAVE.format("", "")
    # Leaves out the rows that others have locked. A row that changed before this statement has
    # locked it is compared anew by the UPDATE, as READ COMMITTED has it.
    SAVE_UNLOCKED = _SAVE.format(
        "(SELECT new.* FROM ",
        " JOIN account USING (id) FOR NO KEY UPDATE OF account SKIP LOCKED) AS new")

    def __init__(self, url):
        super(PostgreSQL, self).__init__(url)
        self._session = None            # pid and start of this session's backend process
        self._loss_reported = True      # whether `end_tick` has raised ConnectionLost
        self._retry_error = None        # last logged error of connecting again
        self._retry_at = 0              # time of the next attempt to connect
        self._retry_pause = RETRY_SECONDS[0]    # seconds until the attempt after it
        self._tick = 0                  # number of ticks so far
        self._prefetched = {}           # nickname -> row, None, or class of what `load` raises
        self._key_hashes = {}           # nickname -> hash or None, of those read for a login
        self._locks = NicknameLocks(self._run)
        self._prepared = {}             # statement -> SQL that executes it, for this session
        self._is_blocked = False        # whether a lock outlasted BUSY_SECONDS, until a save

    # --- for a server: opening ----------------------------------------------------------------

    def serve(self):
        self._connector.busy_seconds = BUSY_SECONDS
        self._connector.answer_seconds = STATEMENT_SECONDS
        self._open(TABLES)
        self._begin_session()
        if self._locks.limit < MAX_CLIENTS:
            log.warning("few_locks room_for=%d: players of all servers together; a greater "
                        "max_locks_per_transaction has room for more", self._locks.limit)

    def close(self):
        self.database.close()
        if self.socket is not None:
            self.socket.close()

    # --- for a server: accounts ---------------------------------------------------------------

    def prefetch(self, logins, trades=()):
        logins = set(logins).difference(self._key_hashes)
        wanted = logins.union(set(trades).difference(self._prefetched))
        if not wanted or self.is_lost:
            return
        self._prefetched.update(dict.fromkeys(wanted, peewee.OperationalError))
        if logins:
            self._key_hashes.update(dict.fromkeys(wanted))
        # Lock and read separately: a combined statement would read a snapshot older than the lock,
        # and the server that held the nickname may have stored something since.
        refused = self._locks.lock(wanted)
        self._prefetched.update(refused)
        ours = wanted.difference(refused)
        rows = self._rows(ours, self.ROWS_AND_KEYS if logins else self.ROWS)
        if logins:
            self._key_hashes.update((nickname, row[3]) for nickname, row in rows.items())
        self._prefetched.update((nickname, rows[nickname][:3] if nickname in rows else None)
                                for nickname in ours)

    def _rows(self, nicknames, statement):
        """Return {nickname: row} of those that have an account."""
        if not nicknames:
            return {}
        return {row[0]: row[1:] for row in self._run(statement, array(nicknames)).fetchall()}

    def load(self, nickname):
        if nickname not in self._key_hashes:
            self.prefetch([nickname])
        return self.reload(nickname), self._key_hashes[nickname]

    def reload(self, nickname):
        if nickname not in self._prefetched:
            self.prefetch((), [nickname])
        if self.is_lost:
            raise peewee.OperationalError("there is no connection")
        row = self._prefetched[nickname]
        if isinstance(row, type):
            raise row("it could not be read")
        return check_usable(row)

    def data_version(self):
        """See `Storage`. The number of the tick: asking would cost as much as reading rows."""
        return self._tick

    def save(self, rows, ledger, keys):
        try:
            ids = self._store(self.SAVE, rows, rows, ledger, keys, _BRIEFLY)
        except peewee.PeeweeException as error:
            if not is_lock_timeout(error):
                raise
            ids = self._store_unlocked(rows, ledger, keys)
        for account in rows:
            if account.stored is None:
                account.id = ids.get(account.nickname)
        conflicts = [account for account in rows if account.nickname not in ids]
        if not conflicts:
            return {}
        try:
            current = self._rows([account.nickname for account in conflicts], self.ROWS)
        except peewee.PeeweeException:          # the other accounts are stored all the same
            return {account: account.stored for account in conflicts}
        return {account: current.get(account.nickname) for account in conflicts}

    def _store(self, statement, accounts, rows, ledger, keys, prefix=""):
        """Store some of the accounts, with their part of the ledger and the keys; return {nickname:
        id} of those that are stored. `prefix` is sent with the statement."""
        parameters = _save_parameters(accounts, rows, ledger)
        if keys:
            statement += _PROTECT
            parameters += columns([(account.nickname, key_hash)
                                   for account, key_hash in keys.items()], 2)
        ids = dict(self._run_prepared(statement + _RETURN, parameters, prefix).fetchall())
        self._is_blocked = False
        return ids

    def _store_unlocked(self, rows, ledger, keys):
        """Store the accounts that nobody has locked; return {nickname: id} of those stored.

        Raises one of STORAGE_ERRORS, if a table is locked above all; then nothing was stored.
        """
        known = [account for account in rows if account.stored is not None and account not in keys]
        ids = self._store(self.SAVE_UNLOCKED, known, rows, ledger, {})
        # Somebody inserts a new nickname or has locked a key, and no statement can skip it.
        others = [account for account in rows if account.stored is None or account in keys]
        ids.update(_store_in_parts(
            others, lambda part: self._store(self.SAVE, part, rows, ledger, keys, _BRIEFLY)))
        return ids

    # --- for a server: nicknames --------------------------------------------------------------

    def hold(self, nickname):
        if not self.is_lost:
            self._locks.hold(nickname)

    def release(self, nickname):
        self._locks.release(nickname)

    def has_released(self):
        return self._locks.has_released()

    def end_tick(self):
        self._prefetched, self._key_hashes = {}, {}
        self._tick += 1
        try:
            self._locks.unlock_released()
        except peewee.PeeweeException as error:         # the next tick tries again
            if not self.is_lost:                # a lost connection has freed all of them
                log.error("unlock_failed error=%s", excerpt(describe(error)))
        if not self._loss_reported:
            self._loss_reported = True
            raise ConnectionLost()

    def _run(self, sql, *parameters):
        """Execute a statement of the server. Raises one of STORAGE_ERRORS."""
        if self.is_lost:
            raise peewee.OperationalError("there is no connection")
        if self._is_blocked:
            sql = _BRIEFLY + sql
        try:
            return self.database.execute_sql(sql, parameters)
        except peewee.PeeweeException as error:
            if self.database.connection().closed:
                self._lose(error)
            elif is_lock_timeout(error) and not sql.startswith(_BRIEFLY):
                self._is_blocked = True
            raise

    def _run_prepared(self, statement, parameters, prefix):
        """Execute a statement that is prepared when the session first needs it."""
        if statement not in self._prepared:
            preparing, executing = prepare("save_%d" % len(self._prepared), statement)
            self._run(prefix + preparing)
            self._prepared[statement] = executing
        return self._run(prefix + self._prepared[statement], *parameters)

    # --- for the event loop -------------------------------------------------------------------

    def on_readable(self):
        if not self.is_lost:
            try:
                self.database.connection().poll()
            except self._connector.driver.Error as error:
                self._lose(error)

    def has_pending_work(self):
        return self.is_lost or self._locks.has_unknown()

    def do_pending_work(self, clock):
        """See `Storage`. Connects again, if the connection is lost and the time has come."""
        begin = clock()
        if not self.is_lost or begin < self._retry_at:
            return
        try:
            self._open(TABLES)
            # The last session, with its locks, may have outlived its connection: end it.
            self.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                       "WHERE pid = ? AND backend_start = ?", *self._session)
            self._begin_session()
        except (CannotOpen, peewee.PeeweeException, socket.error) as error:
            self.database.close()
            if describe(error) != self._retry_error:
                self._retry_error = describe(error)
                log.error("storage_unreachable error=%s", excerpt(self._retry_error))
            took = clock() - begin          # no client was served meanwhile
            self._retry_at = begin + took + max(took, self._retry_pause)
            self._retry_pause = min(2 * self._retry_pause, RETRY_SECONDS[1])
        else:
            self.is_lost = False
            self._retry_error = None
            log.warning("storage_reconnected")

    def _begin_session(self):
        """Make this connection's session the one that holds nicknames."""
        self._session = self.query("SELECT pid, backend_start FROM pg_stat_activity "
                                   "WHERE pid = pg_backend_pid()").fetchone()
        self._prepared = {}
        # PostgreSQL keeps the plan of a prepared statement. Made while there were few accounts, it
        # would read the whole table, also when there are many.
        self.query("SET enable_seqscan = off")
        self._locks.begin(*self.query(self._locks.CAPACITY).fetchone())
        self.socket = duplicate_socket(self.database.connection())

    def _lose(self, error):
        """Give up the connection, and with it the hold on every nickname."""
        if not self.is_lost:
            log.error("storage_lost error=%s", excerpt(describe(error)))
            self.is_lost = True
            self._loss_reported = False
            self.database.close()
            self.socket = None
            self._retry_at = 0
            self._retry_pause = RETRY_SECONDS[0]
            self._prefetched, self._key_hashes = {}, {}
            self._locks.clear()


def _save_parameters(accounts, rows, ledger):
    """Return the parameters of _SAVE; see `Storage.save`."""
    return (columns([(account.nickname,) + rows[account] for account in accounts
                     if account.stored is None], 3)
            + columns([(account.nickname, account.id) + rows[account] + account.stored[1:]
                       for account in accounts if account.stored is not None], 6)
            + [int(time.time())]
            + columns([(change[0].nickname,) + change[1:] for change in ledger], 5))


def _store_in_parts(accounts, store):
    """Store accounts, divided until each that cannot be stored is alone; return {nickname: id} of
    those stored. `store` does it for a list of them."""
    ids = {}
    parts = [accounts] if accounts else []
    deadline = monotonic() + BUSY_SECONDS
    while parts and monotonic() < deadline:
        part = parts.pop()
        try:
            ids.update(store(part))
        except peewee.PeeweeException:
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[:middle], part[middle:]]
    return ids
