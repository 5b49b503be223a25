# -*- coding: utf-8 -*-
"""The shop of the Python peers: peewee's models, and a transaction a request.

It does the work that Lavka does, with the same tables and the same durability, as most servers
would: each request that changes something is on disk before the next one is looked at. Several of
them may share a PostgreSQL database; that nobody is logged in on two is not looked after.
"""
import json
import os
import random
import sys

import peewee

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from constants import CREDITS_RANGE, ITEMS, PAGE_SIZE, WAL_SIZE
from models import TABLES, Account, Trade

HOST, PORT, DATABASE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
LISTEN_QUEUE = 1024

# One connection; the peer with threads has a lock around everything that uses it.
if DATABASE.startswith("postgresql://"):
    database = peewee.PostgresqlDatabase(DATABASE, thread_safe=False)
    MODE = None                 # of a transaction; its first statement locks the row
else:
    database = peewee.SqliteDatabase(
        DATABASE, thread_safe=False, check_same_thread=False,
        pragmas=[("page_size", PAGE_SIZE), ("journal_mode", "wal"), ("synchronous", "full"),
                 ("foreign_keys", 1), ("wal_autocheckpoint", WAL_SIZE // PAGE_SIZE)])
    MODE = "IMMEDIATE"
database.bind(TABLES)
database.connect()
database.create_tables(TABLES)

CATALOG = [{"name": name, "price": price} for name, price in ITEMS.items()]
PARAMS = {"login": "nickname", "ping": None, "buy": "item", "sell": "item", "logout": None}
online = set()


class Refusal(Exception):
    """A request is refused: a code and a reason of docs/protocol.md."""


class Session(object):
    """What a connection has to remember, and the answers to its lines."""

    def __init__(self):
        self.nickname = None

    def answer(self, line):
        """The line that answers a line, both as bytes."""
        id = None
        try:
            request = json.loads(line)
            id, method = request.get("id"), request.get("method")
            if request.get("jsonrpc") != "2.0":
                raise Refusal(-32600, "invalid_request")
            if method not in PARAMS:
                raise Refusal(-32601, "method_not_found")
            params = request.get("params", {})
            if list(params) != [PARAMS[method]] * (PARAMS[method] is not None):
                raise Refusal(-32602, "invalid_params")
            if self.nickname is None and method in ("buy", "sell", "logout"):
                raise Refusal(1001, "not_logged_in")
            reply = {"jsonrpc": "2.0", "result": getattr(self, method)(**params), "id": id}
        except Refusal as refusal:
            code, reason = refusal.args
            reply = {"jsonrpc": "2.0", "id": id,
                     "error": {"code": code, "message": reason, "data": {"reason": reason}}}
        except ValueError:
            reply = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "no JSON"}}
        return json.dumps(reply).encode() + b"\n"

    def close(self):
        """The connection is gone."""
        online.discard(self.nickname)
        self.nickname = None

    def ping(self):
        return "pong"

    def login(self, nickname):
        if self.nickname is not None:
            raise Refusal(1002, "already_logged_in")
        if nickname in online:
            raise Refusal(1003, "nickname_in_use")
        account = Account.get_or_none(Account.nickname == nickname)
        created = account is None
        if created:
            with database.atomic(MODE):
                account = Account.create(nickname=nickname, credits=random.randint(*CREDITS_RANGE))
                record(account, Trade.OPENING, "", 0)
        self.nickname = nickname
        online.add(nickname)
        return {"account": tell(account), "created": created, "catalog": CATALOG}

    def buy(self, item):
        price = ITEMS.get(item)
        if price is None:
            raise Refusal(2001, "unknown_item")
        with database.atomic(MODE):
            account = account_to_change(self.nickname)
            items = owned(account)
            if item in items:
                raise Refusal(2002, "item_already_owned")
            if account.credits < price:
                raise Refusal(2003, "not_enough_credits")
            account.credits -= price
            account.items = ",".join(items + [item])
            account.save(only=[Account.credits, Account.items])
            record(account, Trade.PURCHASE, item, price)
        return {"account": tell(account)}

    def sell(self, item):
        price = ITEMS.get(item)
        if price is None:
            raise Refusal(2001, "unknown_item")
        with database.atomic(MODE):
            account = account_to_change(self.nickname)
            items = owned(account)
            if item not in items:
                raise Refusal(2004, "item_not_owned")
            items.remove(item)
            account.credits += price
            account.items = ",".join(items)
            account.save(only=[Account.credits, Account.items])
            record(account, Trade.SALE, item, price)
        return {"account": tell(account)}

    def logout(self):
        self.close()
        return True


def account_to_change(nickname):
    """The account, as no other server changes it before this transaction ends."""
    query = Account.select().where(Account.nickname == nickname)
    return (query.for_update() if database.for_update else query).get()


def record(account, what, item, price):
    Trade.create(account=account, what=what, item=item, price=price, credits=account.credits,
                 note="")


def owned(account):
    return account.items.split(",") if account.items else []


def tell(account):
    return {"nickname": account.nickname, "credits": account.credits, "items": owned(account)}
