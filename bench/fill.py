# -*- coding: utf-8 -*-
"""A database as after long use: many accounts, each with some trades, in the order of a busy shop.

    python bench/fill.py [--accounts N] [--trades N] FILE

For measuring `python admin.py verify` and `backup`. The rows are those that the server would have
stored; `verify` says whether that is so.
"""
from __future__ import print_function, unicode_literals

import argparse
import os
import random
import sqlite3
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import db
from constants import CREDITS_RANGE, ITEMS
from models import Trade

TIME = 1767225600       # 2026-01-01 00:00:00 UTC


def rows(accounts, number, rng):
    """The ledger: an opening for each account, then a number of trades of anybody; `accounts` is
    left as it is afterwards."""
    for id in range(1, len(accounts) + 1):
        yield id, TIME, Trade.OPENING, "", 0, accounts[id - 1][0]
    names = list(ITEMS)
    while number:
        index = rng.randrange(len(accounts))
        credits, items = accounts[index]
        item = rng.choice(names)
        if item in items:
            credits, what = credits + ITEMS[item], Trade.SALE
            items = tuple(one for one in items if one != item)
        elif credits >= ITEMS[item]:
            credits, what = credits - ITEMS[item], Trade.PURCHASE
            items += item,
        else:
            continue
        accounts[index] = credits, items
        number -= 1
        yield index + 1, TIME, what, item, ITEMS[item], credits


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="FILE", help="the database; it must not exist")
    parser.add_argument("--accounts", type=int, default=1000000)
    parser.add_argument("--trades", type=int, default=4000000)
    options = parser.parse_args()
    if os.path.exists(options.file):
        raise SystemExit("%s exists already" % options.file)
    db.create_tables(options.file)
    rng = random.Random(1)
    accounts = [(rng.randint(*CREDITS_RANGE), ()) for _ in range(options.accounts)]
    with sqlite3.connect(options.file) as connection:
        connection.executemany(
            "INSERT INTO trade (account_id, time, what, item, price, credits, note) "
            "VALUES (?, ?, ?, ?, ?, ?, '')", rows(accounts, options.trades, rng))
        connection.executemany(
            "INSERT INTO account (id, nickname, credits, items) VALUES (?, ?, ?, ?)",
            ((number, "player %d" % number, credits, ",".join(items))
             for number, (credits, items) in enumerate(accounts, 1)))
    print("%d bytes" % os.path.getsize(options.file))


if __name__ == "__main__":
    main()
