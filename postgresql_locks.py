# -*- coding: utf-8 -*-
"""The nicknames that a server holds in PostgreSQL: an advisory lock for each.

The locks belong to the session that stores the accounts
(postgresql.org/docs/current/explicit-locking.html): they end with it.
"""
from __future__ import unicode_literals

import peewee

from postgresql_connection import array
from storage import HeldElsewhere


class NicknameLocks(object):
    """The nicknames that a session has locked.

    `run(sql, *parameters)` executes a statement; it raises one of STORAGE_ERRORS.
    """

    LOCK = ("SELECT nickname, pg_try_advisory_lock(hashtextextended(nickname, 0)) "
            "FROM unnest(%s::text[]) AS nickname")
    UNLOCK = ("SELECT count(pg_advisory_unlock(hashtextextended(nickname, 0))) "
              "FROM unnest(%s::text[]) AS nickname")

    def __init__(self, run):
        self._run = run
        self.clear()

    def clear(self):
        """Forget all nicknames: the session has ended, and its locks with it."""
        self._held = set()              # nicknames of players
        self._released = set()          # nicknames without a player, to be unlocked
        self._unknown = set()           # nicknames whose lock or unlock failed

    def lock(self, nicknames):
        """Lock these nicknames, a set, unless they are locked already.

        Returns {nickname: class of the exception that says why} of those that are not locked.
        Raises one of STORAGE_ERRORS.
        """
        refused = dict.fromkeys(nicknames & self._unknown, peewee.OperationalError)
        new = nicknames - self._held - self._released - self._unknown
        if new:
            self._unknown |= new                # unless the statement succeeds
            for nickname, is_locked in self._run(self.LOCK, array(new)).fetchall():
                if is_locked:
                    self._released.add(nickname)
                else:
                    refused[nickname] = HeldElsewhere
            self._unknown -= new
        return refused

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
