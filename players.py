# -*- coding: utf-8 -*-
"""Who is logged in: at most one session for each nickname."""
from __future__ import unicode_literals

import logging

from constants import LOGIN_SECONDS
from session import FOREVER, KICKED, peer
from text import excerpt


class Players(dict):
    """{nickname: Session} of all who are logged in to an open `db.Shop`.

    Their log lines go to a GroupCommit, if a `log.LogRateLimiter` lets them. The line of a kick is
    always written. `clock` returns seconds.
    """

    def __init__(self, shop, group, limiter, clock):
        super(Players, self).__init__()
        self.shop = shop
        self.group = group
        self.limiter = limiter
        self.clock = clock

    def log_in(self, session, nickname, key):
        """Begin the login of a session; returns whether the account is new. Raises Refusal."""
        account, is_new = self.shop.login(nickname, key)
        self[nickname] = session
        session.account = account
        session.login_time = self.clock()
        session.deadline = FOREVER
        if account.is_dirty:
            self.group.uncommitted_logins.add(session)
        if self.limiter.has_quota("login", session.address[0]):
            self.group.log(logging.INFO, "login nickname=%s peer=%s created=%s", excerpt(nickname),
                           peer(session), "yes" if is_new else "no",
                           account=account if account.is_dirty else None)
        return is_new

    def log_out(self, session, reason):
        """End the login of a session, and free its nickname."""
        account = session.account
        # A kicked player may have used up the quota of the address.
        if reason == KICKED or self.limiter.has_quota("logout", session.address[0]):
            is_uncommitted = session in self.group.uncommitted_logins
            self.group.log(logging.INFO, "logout nickname=%s peer=%s reason=%s",
                           excerpt(account.nickname), peer(session), reason,
                           account=account if is_uncommitted else None)
        del self[account.nickname]
        self.shop.logout(account)
        session.account = None
        session.deadline = self.clock() + LOGIN_SECONDS
        self.group.uncommitted_logins.discard(session)
