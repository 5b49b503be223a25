# -*- coding: utf-8 -*-
"""Who is logged in: at most one session for each nickname."""
from __future__ import unicode_literals

import logging

from constants import LOGIN_SECONDS
from session import FOREVER, peer
from text import excerpt


class Players(dict):
    """{nickname: Session} of all who are logged in to an open `db.Shop`.

    Their log lines go to a GroupCommit, if a `log.LogRateLimiter` lets them. `clock` returns
    seconds.
    """

    def __init__(self, shop, group, limiter, clock):
        super(Players, self).__init__()
        self.shop = shop
        self.group = group
        self.limiter = limiter
        self.clock = clock

    def log_in(self, session, nickname, key):
        """Begin the login of a session; returns whether the account is new. Raises Refusal."""
        session.account, is_new = self.shop.login(nickname, key)
        self[nickname] = session
        session.deadline = FOREVER
        if session.account.is_dirty:
            self.group.uncommitted_logins.add(session)
        self.log(session, session.account.is_dirty, "login nickname=%s peer=%s created=%s",
                 "yes" if is_new else "no")
        return is_new

    def log_out(self, session, reason):
        """End the login of a session, and free its nickname."""
        self.log(session, session in self.group.uncommitted_logins,
                 "logout nickname=%s peer=%s reason=%s", reason)
        del self[session.account.nickname]
        self.shop.logout(session.account)
        session.account = None
        session.deadline = self.clock() + LOGIN_SECONDS
        self.group.uncommitted_logins.discard(session)

    def log(self, session, is_uncommitted, line, *values):
        """Have a line about a player logged, if its kind, the first word, is within its quota.

        A line that tells of an uncommitted change is dropped if that cannot be stored.
        """
        if self.limiter.has_quota(line.partition(" ")[0], session.address[0]):
            account = session.account
            self.group.log(logging.INFO, line, excerpt(account.nickname), peer(session), *values,
                           account=account if is_uncommitted else None)
