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
        self.log_of(session, "login", " created=%s" % ("yes" if is_new else "no"),
                    session.account.is_dirty)
        return is_new

    def log_out(self, session, reason):
        """End the login of a session, and free its nickname."""
        self.log_of(session, "logout", " reason=%s" % reason,
                    session in self.group.uncommitted_logins)
        del self[session.account.nickname]
        self.shop.logout(session.account)
        session.account = None
        session.deadline = self.clock() + LOGIN_SECONDS
        self.group.uncommitted_logins.discard(session)

    def log_of(self, session, event, detail="", is_uncommitted=False):
        """Have a line about a player logged: after the commit, if what it tells is uncommitted."""
        if self.limiter.has_quota(event, session.address[0]):
            account = session.account
            self.group.log(logging.INFO, "%s nickname=%s peer=%s%s", event,
                           excerpt(account.nickname), peer(session), detail,
                           account=account if is_uncommitted else None)
