# -*- coding: utf-8 -*-
"""Replaying the ledger, as pure functions of rows.

The statement `ROWS` reads both tables as rows of eight columns, and sorts each account before its
ledger: account id; 0 for the account, 1 for a row of its ledger; that row's id; nickname or kind;
items or item; price; credits; time. An account has zeros where it has no such value.
"""
from __future__ import unicode_literals

import itertools
import operator

from models import Trade
from text import Text, quote, show

# The statement that returns these rows, in this order.
ROWS = ("SELECT id, 0, 0, nickname, items, 0, credits, 0 FROM account UNION ALL "
        "SELECT account_id, 1, id, what, item, price, credits, time FROM trade ORDER BY 1, 2, 3")


def find_differences(rows):
    """Replay the ledger, account by account.

    Yields for each account the list of what is wrong with it, a sentence for each problem.
    """
    for id, group in itertools.groupby(rows, operator.itemgetter(0)):
        first = next(group)
        if first[1]:
            yield ["row %d of the ledger is of account %s, which is not there" % (row[2], show(id))
                   for row in itertools.chain([first], group)]
        else:
            nickname = first[3]
            yield ["account %s: %s" % (show(nickname), problem)
                   for problem in _replay(first, group)]


def _replay(account, changes):
    """Yield what is wrong with an account, given its row and those of its ledger."""
    _, _, _, nickname, stored_items, _, stored_credits, _ = account
    if not isinstance(nickname, Text) or not nickname:
        yield "its nickname is no text"
    credits, items = None, []
    for change in changes:
        _, _, id, kind, item, price, credits_afterwards, _ = change
        row = "row %d of the ledger" % id
        if not _is_valid_change(change):
            yield "%s is none that the shop writes" % row
            continue
        if (kind == Trade.OPENING) != (credits is None):
            yield "%s is %s opening" % (row, "no" if credits is None else "another")
        if kind == Trade.OPENING:
            credits, items = credits_afterwards, item.split(",") if item else []
        else:
            credits = (credits or 0) + (-price if kind == Trade.PURCHASE else price)
            problem = _move_item(kind, item, items)
            if problem:
                yield row + problem
        if credits != credits_afterwards:
            yield "%s should have %d credits, it has %d" % (row, credits, credits_afterwards)
            credits = credits_afterwards
    if credits is None:
        yield "it has no opening in the ledger"
    elif stored_credits != credits or not isinstance(stored_credits, int):
        yield ("it has %s credits, by the ledger it should have %d"
               % (show(stored_credits), credits))
    if not isinstance(stored_items, Text) or stored_items != ",".join(items):
        yield ("its items are %s, by the ledger they should be %s"
               % (show(stored_items), quote(",".join(items))))


def _move_item(kind, item, items):
    """Add an item that was bought or given to the list, or remove one that was sold; returns what
    is wrong with that."""
    problem = None
    if kind in (Trade.PURCHASE, Trade.GIFT):
        if item in items:
            problem = " %s %s, which was owned" % (
                "buys" if kind == Trade.PURCHASE else "gives", quote(item))
        items.append(item)
    elif kind == Trade.SALE:
        if item in items:
            items.remove(item)
        else:
            problem = " sells %s, which was not owned" % quote(item)
    return problem


def _is_valid_change(row):
    """Return whether the shop could have written this row; SQLite itself takes any types."""
    _, _, _, kind, item, price, credits, time = row
    if not (type(price) is type(credits) is type(time) is int
            and type(item) is type(kind) is Text):
        return False
    if credits < 0:
        return False
    if kind in (Trade.PURCHASE, Trade.SALE):
        return item != "" and price > 0
    if kind == Trade.GIFT:
        return item != "" and price == 0
    return kind == Trade.OPENING and price == 0 or kind == Trade.GRANT and item == ""
