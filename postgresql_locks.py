# -*- coding: utf-8 -*-
"""The nicknames that a server holds in PostgreSQL: an advisory lock for each.

The locks belong to the session that stores the accounts
(postgresql.org/docs/current/explicit-locking.html): they end with it.
"""
from __future__ import unicode_literals

import logging

import peewee

from constants import LOCK_COUNT_SECONDS, LOCK_COUNT_SHARE, LOCK_TABLE_SHARE
from log import monotonic
from postgresql_connection import array
from storage import HeldElsewhere, NoRoom

log = logging.getLogger("lavka.postgresql")     # rate-limited together with that module


class NicknameLocks(object):
    """The nicknames that a session has locked.

    `run(sql, *parameters)` executes a statement; it raises one of STORAGE_ERRORS.
    """

    LOCK = ("SELECT nickname, pg_try_advisory_lock(hashtextextended(nickname, 0)) "
            "FROM unnest(%s::text[]) AS nickname")
    UNLOCK = ("SELECT count(pg_advisory_unlock(hashtextextended(nickname, 0))) "
              "FROM unnest(%s::text[]) AS nickname")
    COUNT = "SELECT count(*) FROM pg_locks WHERE NOT fastpath"
    # The guaranteed size of the lock table, which all databases share; then the count. Fast-path
    # locks are kept elsewhere (postgresql.org/docs/current/view-pg-locks.html).
    CAPACITY = ("SELECT current_setting('max_locks_per_transaction')::bigint * "
                "(current_setting('max_connections')::bigint "
                "+ current_setting('max_prepared_transactions')::bigint), (" + COUNT + ")")

    def __init__(self, run):
        self._run = run
        self.limit = 0                  # locks of all sessions together, beyond which none is taken
        self.clear()

    def begin(self, capacity, count):
        """Begin with a session that has no locks; the numbers are those of CAPACITY."""
        self.limit = int(LOCK_TABLE_SHARE * capacity)
        self._share_room(count, 0, 0)

    def clear(self):
        """Forget all nicknames: the session has ended, and its locks with it."""
        self._held = set()              # nicknames of players
        self._released = set()          # nicknames without a player, to be unlocked
        self._unknown = set()           # nicknames whose lock or unlock failed
        self._most = 0                  # locks of ours, up to which nothing is counted again
        self._is_full = False           # whether there is no room beyond these
        self._count_at = 0              # time after which all locks are counted again

    def lock(self, nicknames):
        """Lock these nicknames, a set, unless they are locked already.

        Returns {nickname: class of the exception that says why} of those that are not locked.
        Raises one of STORAGE_ERRORS.
        """
        refused = dict.fromkeys(nicknames & self._unknown, peewee.OperationalError)
        new = list(nicknames - self._held - self._released - self._unknown)
        room = self._find_room(len(new)) if new else 0
        if len(new) > room:
            log.error("locks_full room_for=%d", self.limit)
            refused.update(dict.fromkeys(new[room:], NoRoom))
            del new[room:]
        if new:
            self._unknown.update(new)           # unless the statement succeeds
            for nickname, is_locked in self._run(self.LOCK, array(new)).fetchall():
                if is_locked:
                    self._released.add(nickname)
                else:
                    refused[nickname] = HeldElsewhere
            self._unknown.difference_update(new)
        return refused

    def _find_room(self, wanted):
        """Return how many nicknames may be locked now, of which so many are wanted."""
        ours = len(self._held) + len(self._released) + len(self._unknown)
        if monotonic() >= self._count_at or (ours + wanted > self._most and not self._is_full):
            self._share_room(self._run(self.COUNT).fetchone()[0], ours, wanted)
        return max(0, self._most - ours)

    def _share_room(self, count, ours, wanted):
        """Take a share of the room that is left in the lock table, before the next count.

        Counting takes long, and stops whoever locks anything. Several servers that fill the table
        may go a little beyond the limit.
        """
        room = max(0, self.limit - count)
        share = max(wanted, int(LOCK_COUNT_SHARE * room))
        self._most = ours + min(room, share)
        self._is_full = share >= room
        self._count_at = monotonic() + LOCK_COUNT_SECONDS

    def hold(self, nickname):
        """Note that a player is logged in with a locked nickname."""
        self._released.discard(nickname)
        self._held.add(nickname)

    def release(self, nickname):
        """Note that the login has ended."""
        if nickname in self._held:              # otherwise it was lost with the session
            self._held.discard(nickname)
            self._released.add(nickname)

    def has_released(self):
        """Return whether nicknames wait for `unlock_released`."""
        return bool(self._released)

    def has_unknown(self):
        """Return whether a lock or unlock has failed, so that `unlock_released` tries again."""
        return bool(self._unknown)

    def unlock_released(self):
        """Unlock what no player holds. Raises one of STORAGE_ERRORS; the next call tries again."""
        self._unknown |= self._released
        self._released = set()
        if self._unknown:
            self._run(self.UNLOCK, array(self._unknown))
            self._unknown = set()
