# -*- coding: utf-8 -*-
"""The shop: accounts in memory, the rules of buying and selling, one commit for many changes.

    python db.py [--database DATABASE] [--upgrade]      creates the tables; safe to run again

An account is loaded when its player logs in; from then on it is checked and changed in memory,
since one login per nickname means that no other player changes it. `Shop.commit` stores everything
that has changed in one transaction, together with its rows of the ledger, and only then may
anybody be told.
"""
from __future__ import unicode_literals

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))     # PYTHONSAFEPATH omits it
    import cli
    cli.prepare_process()

import hashlib
import hmac
import logging
import random

import cli
from constants import CREDITS_RANGE, ITEMS, MAX_CREDITS, NICKNAME_FREED_SECONDS, RECOVERY_SECONDS
from log import monotonic
from models import Trade
from postgresql import PostgreSQL
from sqlite import SQLite
from storage import STORAGE_ERRORS, CannotOpen, HeldElsewhere, NoRoom, UnusableRow, describe
from text import URL, Text, counted, excerpt

log = logging.getLogger("lavka.db")

NICKNAME_IN_USE = ("This nickname is in use; if its client vanished, it is free within %d seconds."
                   % NICKNAME_FREED_SECONDS)


class Refusal(Exception):
    """The shop refuses; nothing was changed.

    `reason` is that of a `protocol.ErrorCode`, `message` a sentence for the player, `data` a dict
    of figures that belong to it.
    """

    def __init__(self, reason, message, **data):
        super(Refusal, self).__init__(reason, message, data)
        self.reason = reason
        self.message = message
        self.data = data


class OpenAccount(object):
    """An account in memory, for as long as its player is logged in."""
    __slots__ = ("nickname", "id", "credits", "items", "key_hash", "stored", "is_dirty", "version")

    def __init__(self, nickname, stored, key_hash, version):
        self.nickname = nickname
        self.key_hash = key_hash        # hash of its key; None if it is not protected
        self.is_dirty = False           # True while a change waits for the commit
        self.version = version          # data version of the database when it was last loaded
        self.set_stored(stored)

    def set_stored(self, stored):
        """Become what the database holds: a row, or None where there is none."""
        self.stored = stored            # last loaded or stored row: (id, credits, items as text)
        self.id, self.credits, items = stored or (None, 0, "")
        self.items = items.split(",") if items else []

    def row(self):
        """Return what the database is to hold: (credits, items as text)."""
        return self.credits, ",".join(self.items)


class Shop(object):
    """All accounts of a database, served by this process.

    `database` is the name of an SQLite file, which this process alone may serve, or the URL of a
    PostgreSQL database, whose nicknames this process holds from login to logout. Raises
    CannotOpen.
    """

    def __init__(self, database):
        self.storage = open_storage(database)
        self.storage.serve()
        self.commits = 0                # transactions
        self.trades = 0                 # purchases and sales stored
        self.largest_batch = 0          # most changes in one transaction
        self._dirty = {}                # nickname -> OpenAccount with a change to store
        self._ledger = []               # changes to record: (OpenAccount, columns of Trade ...)
        self._old_keys = {}             # OpenAccount with a new key to store -> stored hash
        self._version = None            # last seen data version; changes when another connection
                                        # commits
        self._version_checked = False   # whether the version was read since the last commit
        self._failures = 0              # failures since the storage last worked
        self._failed_at = 0             # time of the last failure
        self._logged_error = None       # last error logged
        self._logged_at = 0             # time at which it was logged

    def close(self):
        """Close the storage; what was not committed is gone."""
        self.storage.close()

    # --- what players do; the effect is in memory until the next commit -----------------------

    def prefetch(self, logins, trades=()):
        """Get ready to log in with the first nicknames in this tick, and to trade for the others.

        A hint that saves round trips: whatever was not prefetched is loaded when it is needed.
        """
        try:
            self.storage.prefetch(logins, trades)
        except STORAGE_ERRORS as error:
            self._storage_failed(error)

    def login(self, nickname, key=None):
        """Load or open the account of a nickname; returns (OpenAccount, whether it is new).

        Raises Refusal: nickname_in_use when another server holds it, key_required or wrong_key when
        it is protected, storage_failed when the database cannot be read, or has no room for another
        player.
        """
        account = self._dirty.get(nickname)         # of a login that ended in this very tick
        if account is not None:
            _check_key(account, key)
            self.storage.hold(nickname)
            return account, False
        stored, key_hash = self._load(nickname)
        account = OpenAccount(nickname, stored, key_hash, self._version)
        _check_key(account, key)
        self.storage.hold(nickname)
        if stored is None:
            account.credits = random.randint(*CREDITS_RANGE)
            self._changed(account, Trade.OPENING, "", 0)
        return account, stored is None

    def check_takeover(self, account, key):
        """Check that a login with this key may end the one that has the account.

        Raises Refusal: nickname_in_use unless the account is protected; else as `login`.
        """
        if account.key_hash is not None and not account.is_dirty:
            # An operator may have removed it.
            account.key_hash = self._load(account.nickname)[1]
        _check_key(account, key)
        if account.key_hash is None:
            raise Refusal("nickname_in_use", NICKNAME_IN_USE)

    def _load(self, nickname):
        """Return (row, hash of the key), as `Storage.load`. Raises Refusal."""
        try:
            return self.storage.load(nickname)
        except HeldElsewhere:
            raise Refusal("nickname_in_use", NICKNAME_IN_USE)
        except NoRoom:
            raise Refusal("storage_failed",
                          "There is no room for another player now. Try again later.")
        except UnusableRow:
            log.error("unusable_row nickname=%s", excerpt(nickname))
            raise Refusal("storage_failed", "This account cannot be read.")
        except STORAGE_ERRORS as error:
            self._storage_failed(error)
            raise Refusal("storage_failed", "Accounts cannot be read now. Try again later.")

    def logout(self, account):
        """Let another server have the nickname, after the next commit."""
        self.storage.release(account.nickname)

    def protect(self, account, key):
        """Have every further login need this key."""
        self._refresh(account)
        self._old_keys.setdefault(account, account.key_hash)
        account.key_hash = hash_key(key)
        account.is_dirty = True
        self._dirty[account.nickname] = account

    def buy(self, account, item):
        """Exchange an item's price for the item. Raises Refusal."""
        price = ITEMS.get(item)
        if price is None:
            raise _unknown_item()
        if account.version != self._version or not self._version_checked:
            self._refresh(account)
        if item in account.items:
            raise Refusal("item_already_owned", "You already own the %s." % item)
        if account.credits < price:
            raise Refusal("not_enough_credits",
                          "The %s costs %s; you have %d." % (
                              item, counted(price, "credit"), account.credits),
                          credits=account.credits, price=price)
        account.credits -= price
        account.items.append(item)
        self._changed(account, Trade.PURCHASE, item, price)

    def sell(self, account, item):
        """Exchange an item for its full price. Raises Refusal."""
        if account.version != self._version or not self._version_checked:
            self._refresh(account)
        if item not in account.items:
            raise Refusal("item_not_owned", "You do not own %s." % (
                "the %s" % item if item in ITEMS else "that item"))
        price = ITEMS.get(item)
        if price is None:                           # it has left the catalog
            raise _unknown_item()
        if account.credits + price > MAX_CREDITS:
            raise Refusal("storage_failed", "You have as many credits as can be stored.")
        account.credits += price
        account.items.remove(item)
        self._changed(account, Trade.SALE, item, price)

    def _changed(self, account, kind, item, price):
        account.is_dirty = True
        self._dirty[account.nickname] = account
        self._ledger.append((account, kind, item, price, account.credits))

    def _refresh(self, account):
        """Load the row again if another program may have changed it, by a grant above all.

        Read errors are ignored here: optimistic locking detects the conflict at the commit.
        """
        try:
            if not self._version_checked:
                self._version = self.storage.data_version()
                self._version_checked = True
            if account.version != self._version and not account.is_dirty:
                account.set_stored(self.storage.reload(account.nickname) or account.stored)
                account.version = self._version
        except (UnusableRow, HeldElsewhere, NoRoom) + STORAGE_ERRORS:
            pass

    # --- storing it ---------------------------------------------------------------------------

    def has_changes(self):
        """Return whether a commit would have something to do."""
        return bool(self._dirty) or self.storage.has_released()

    def commit(self):
        """Store all changes since the last call, durably, in one transaction.

        Then the nicknames of ended logins are given back. Returns the set of accounts whose
        changes could not be stored. Such an account is set back to its stored row; if another
        program has changed the row, to the new one; if it is gone, `stored` is None. Without
        changes there is no transaction. Raises ConnectionLost, once for each lost connection.
        """
        self._version_checked = False
        failed = self._store() if self._dirty else frozenset()
        self.storage.end_tick()
        return failed

    def _store(self):
        rows = {account: account.row() for account in self._dirty.values()}
        ledger, old_keys = self._ledger, self._old_keys
        keys = {account: account.key_hash for account in old_keys}
        self._dirty, self._ledger, self._old_keys = {}, [], {}
        try:
            failed = self.storage.save(rows, ledger, keys)
        except STORAGE_ERRORS as error:
            self._storage_failed(error)
            failed = {account: account.stored for account in rows}
        else:
            self._storage_worked()
            self._count(ledger, failed)
        for account, row in rows.items():
            account.is_dirty = False
            if account in failed:
                account.set_stored(failed[account])
            else:
                account.stored = (account.id,) + row
        for account, key_hash in old_keys.items():
            if account in failed:
                account.key_hash = key_hash
        return frozenset(failed)

    def _count(self, ledger, conflicts):
        """Count what a transaction has stored, and log what it has not."""
        if conflicts:
            ledger = [change for change in ledger if change[0] not in conflicts]
            for account, row in conflicts.items():
                log.warning("row_locked nickname=%s" if row == account.stored else
                            "changed_outside nickname=%s", excerpt(account.nickname))
        self.commits += 1
        self.trades += sum(kind != Trade.OPENING for _, kind, _, _, _ in ledger)
        self.largest_batch = max(self.largest_batch, len(ledger))

    def _storage_failed(self, error):
        if self.storage.is_lost:        # the storage logs that itself
            self._failures = 0
            return
        # A line for the first failure, not for each player who is refused; another line for
        # another error.
        error = describe(error)
        now = monotonic()
        if not self._failures or (error != self._logged_error
                                  and now >= self._logged_at + RECOVERY_SECONDS):
            log.error("storage_failed error=%s", excerpt(error))
            self._logged_error, self._logged_at = error, now
        self._failures += 1
        self._failed_at = now

    def _storage_worked(self):
        # Debounced: a lock that comes and goes is one failure, not a line each time.
        if self._failures and monotonic() >= self._failed_at + RECOVERY_SECONDS:
            log.warning("storage_recovered failures=%d", self._failures)
            self._failures = 0


def _unknown_item():
    return Refusal("unknown_item", "There is no such item in the catalog.")


def hash_key(key):
    """Return the hash of a key, as text.

    A key is random, so nobody can guess it from its hash, however fast that is computed. A slow
    hash, as passwords need, would stop the loop.
    """
    return Text(hashlib.sha256(key.encode("ascii")).hexdigest())


def _check_key(account, key):
    """Check that a login with this key, or None, may have the account. Raises Refusal."""
    if account.key_hash is None:
        return
    if key is None:
        raise Refusal("key_required", "This account is protected: logging in takes its key.")
    # Comparing takes as long for every wrong hash: otherwise its time would tell how much is right.
    if not hmac.compare_digest(hash_key(key).encode("utf-8"), account.key_hash.encode("utf-8")):
        raise Refusal("wrong_key", "This is not the key of this account.")


# --- the database -----------------------------------------------------------------------------

def open_storage(database):
    """Return the storage that --database names, not yet connected. Raises CannotOpen."""
    return (PostgreSQL if URL.match(database) else SQLite)(database)


def create_tables(database, upgrade_only=False):
    """Create what is missing: the file, the tables, the first rows of the ledger.

    With `upgrade_only` there has to be a table of accounts, and what it lacks beside it is added.
    Safe to run again, and beside servers. Returns the storage, not connected. Raises CannotOpen.
    """
    storage = open_storage(database)
    storage.create_tables(upgrade_only)
    return storage


# --- python db.py -----------------------------------------------------------------------------

def main(arguments=None):
    """Create the tables; returns the exit status."""
    parser = cli.Parser(description="Create the shop's tables; safe to run again. "
                        "Accounts from before the ledger get their first row there.")
    cli.add_database_option(parser)
    parser.add_argument("--upgrade", action="store_true",
                        help="add what an existing database lacks; never create one")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        storage = create_tables(options.database, options.upgrade)
    except CannotOpen as error:
        log.error("%s", error)
        return 1
    log.info("the tables are ready in %s", storage.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
