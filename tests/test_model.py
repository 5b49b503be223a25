# -*- coding: utf-8 -*-
"""Random sessions against a model of the shop: every reply, and every row after each step.

LAVKA_TEST_EXAMPLES=1000 python -m pytest tests/test_model.py runs more examples. A failure prints
the steps that lead to it.
"""
from __future__ import unicode_literals

import io
import os
import shutil
import tempfile

import pytest
from conftest import Peer, Ticker, audit, connect, hold, reason
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model import Model

import admin_database
import db
import pgcluster
from constants import ITEMS

CLIENTS = st.integers(0, 2)
NICKNAMES = st.sampled_from(["ann", "\U0001f600"])     # fewer than clients, so that they collide
KEYS = st.sampled_from(["first key " * 4, "second key " * 4])
THINGS = st.sampled_from(["potion", "torch", "horse", "excalibur"])     # the last is not for sale


class Sessions(RuleBasedStateMachine):
    """Clients of one server, which may lose its storage for a while, and may be restarted."""
    cluster = None              # pgcluster.Cluster; None for an SQLite file

    @initialize()
    def open_database(self):
        self.directory = tempfile.mkdtemp(dir=pgcluster.memory())       # no fsync is waited for
        if self.cluster is None:
            self.database = os.path.join(self.directory, "lavka.db")
            db.create_tables(self.database)
        else:
            self.database = self.cluster.url(self.cluster.create_database(self.cluster.template))
        self.model = Model()
        self.totals = {}        # nickname -> credits plus prices of the items; a grant changes it
        self.outside = connect(self.database)
        self.start()

    def start(self):
        self.ticker = Ticker(self.database)
        self.ticker.shop.storage.query(         # no busy timeout: a lock fails the commit at once
            "PRAGMA busy_timeout = 0" if self.cluster is None else "SET lock_timeout = 1")
        self.clients = {}       # number -> (Peer, its Connection in the server)

    def call(self, client, method, **params):
        """Return the reason of a refusal, or (credits, items), or another result."""
        if client not in self.clients:
            self.clients[client] = self.ticker.client()
        reply = self.ticker.call(self.clients[client][0], method, **params)
        if "error" in reply:
            return reason(reply)
        result = reply["result"]
        if method in ("ping", "logout", "protect"):
            return result
        return result["account"]["credits"], result["account"]["items"]

    @rule(client=CLIENTS, nickname=NICKNAMES, key=st.one_of(st.none(), KEYS))
    def login(self, client, nickname, key=None):
        """Log in; the connection that this takes the nickname over from is closed."""
        before = set(self.model.logins)
        expected = self.model.login(client, nickname, key)
        found = self.call(client, "login", nickname=nickname, **({"key": key} if key else {}))
        for other in before - set(self.model.logins):
            peer, connection = self.clients.pop(other)
            assert connection.close_reason == "taken_over" and peer.line() is None
        if expected == "new":                   # its credits are random
            credits, items = found
            assert items == []
            self.model.accounts[nickname] = expected = found
            self.totals[nickname] = credits
        assert found == expected

    @rule(client=CLIENTS, nickname=NICKNAMES, items=st.lists(THINGS, min_size=1, max_size=3))
    def log_in_and_trade(self, client, nickname, items):
        """Buy and sell again; random single calls seldom get that far."""
        self.login(client, nickname)
        for item in items:
            self.buy(client, item)
        self.sell(client, items[0])

    @rule(client=CLIENTS, item=THINGS)
    def buy(self, client, item):
        assert self.call(client, "buy", item=item) == self.model.buy(client, item)

    @rule(client=CLIENTS, item=THINGS)
    def sell(self, client, item):
        assert self.call(client, "sell", item=item) == self.model.sell(client, item)

    @rule(client=CLIENTS, key=KEYS)
    def protect(self, client, key):
        assert self.call(client, "protect", key=key) == self.model.protect(client, key)

    @rule(client=CLIENTS, other=CLIENTS, nickname=NICKNAMES, key=KEYS, item=THINGS)
    def protect_and_take_over(self, client, other, nickname, key, item):
        """Random single calls seldom get that far."""
        self.login(client, nickname, key)
        self.protect(client, key)
        self.buy(client, item)
        self.login(other, nickname, key)

    @rule(nickname=NICKNAMES)
    def unprotect(self, nickname):
        """Remove a key as an operator, while the player may be logged in."""
        if nickname in self.model.keys and not self.model.is_broken:
            admin_database.unprotect(db.open_storage(self.database), io.StringIO(), nickname)
            del self.model.keys[nickname]

    @rule(client=CLIENTS)
    def ping(self, client):
        assert self.call(client, "ping") == "pong"

    @rule(client=CLIENTS)
    def logout(self, client):
        assert self.call(client, "logout") == self.model.logout(client)

    @rule(client=CLIENTS, leave=st.sampled_from([Peer.close, Peer.reset]))
    def disconnect(self, client, leave):
        if client in self.clients:
            peer, connection = self.clients.pop(client)
            leave(peer)
            self.ticker.until(lambda: connection not in self.ticker.server.connections)
            self.model.logout(client)

    @rule(nickname=NICKNAMES, credits=st.sampled_from([1, 40, 500, -25, -1]))
    def grant(self, nickname, credits):
        """Grant credits as an operator, while the player may be logged in."""
        before, items = self.model.accounts.get(nickname, (0, []))
        if nickname in self.model.accounts and not self.model.is_broken and before + credits >= 0:
            admin_database.grant(db.open_storage(self.database), io.StringIO(), nickname, credits)
            self.model.accounts[nickname] = (before + credits, items)
            self.totals[nickname] += credits

    @rule()
    def break_or_repair_storage(self):
        self.model.is_broken = not self.model.is_broken
        if self.model.is_broken:
            hold(self.outside)
        else:
            self.outside.execute("ROLLBACK")

    @rule()
    def restart(self):
        self.ticker.close()
        self.model.logins.clear()
        self.start()

    @invariant()
    def rows_and_players_match_the_model(self):
        if hasattr(self, "model"):
            rows = self.outside.execute("SELECT nickname, credits, items FROM account").fetchall()
            stored = {nickname: (credits, items.split(",") if items else [])
                      for nickname, credits, items in rows}
            assert stored == self.model.accounts
            for nickname, (credits, items) in stored.items():
                assert credits + sum(ITEMS[item] for item in items) == self.totals[nickname]
            assert set(self.ticker.service.players) == set(self.model.logins.values())
            keys = self.outside.execute("SELECT nickname, hash FROM account_key JOIN account "
                                        "ON account.id = account_id").fetchall()
            assert dict(keys) == {nickname: db.hash_key(key)
                                  for nickname, key in self.model.keys.items()}

    def teardown(self):
        if hasattr(self, "ticker"):
            self.ticker.close()
            self.outside.close()
            audit(self.database)
            shutil.rmtree(self.directory)


class SessionsOnPostgreSQL(Sessions):
    """The same on a database of the cluster that `set_cluster` gives."""


@pytest.fixture
def set_cluster(cluster):
    SessionsOnPostgreSQL.cluster = cluster


TestSessions = Sessions.TestCase
TestSessionsOnPostgreSQL = pytest.mark.usefixtures("set_cluster")(SessionsOnPostgreSQL.TestCase)


def set_examples(case, number):
    """Set how many examples of 40 steps a test case runs; the environment overrides the number."""
    case.settings = settings(
        max_examples=int(os.environ.get("LAVKA_TEST_EXAMPLES", number)), stateful_step_count=40,
        deadline=None, suppress_health_check=list(HealthCheck))


set_examples(TestSessions, 30)
set_examples(TestSessionsOnPostgreSQL, 8)
