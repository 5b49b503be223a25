# -*- coding: utf-8 -*-
"""Replaying the ledger, as pure functions of rows.

The statement `ACCOUNTS` reads the accounts as rows of id, nickname, items and credits; the
statement `CHANGES` reads their ledger as rows of account id, id, kind, item, price, credits and
time. Both sort by the account, so that one pass over the two replays any number of rows in constant
memory.
"""
from __future__ import unicode_literals

import numbers

from models import Trade
from text import Text, quote, show

ACCOUNTS = "SELECT id, nickname, items, credits FROM account ORDER BY id"
CHANGES = ("SELECT account_id, id, what, item, price, credits, time FROM trade "
           "ORDER BY account_id, id")

PURCHASE, SALE = Trade.PURCHASE, Trade.SALE     # quicker to read than an attribute of a model
END = (object(),)               # stands for a row after the last one, of no account


def find_differences(accounts, changes):
    """Replay the ledger, account by account, given what `ACCOUNTS` and `CHANGES` return.

    Yields for each account the list of what is wrong with it, a sentence for each problem; and such
    a list for each account that is not there, but has rows in the ledger.
    """
    changes = iter(changes)
    change = next(changes, END)
    for account in accounts:
        while change[0] != account[0] and _precedes(change, account):
            problems, change = _report_orphans(change, changes)
            yield problems
        problems, change = _replay(account, change, changes)
        yield ["account %s: %s" % (show(account[1]), problem) for problem in problems]
    while change is not END:
        problems, change = _report_orphans(change, changes)
        yield problems


def _precedes(change, account):
    """Return whether a row of the ledger belongs before an account, and so to none."""
    return change is not END and _sort_key(change[0]) < _sort_key(account[0])


def _sort_key(id):
    """Return a key that sorts ids as SQLite does: NULL, numbers, text, bytes."""
    if id is None:
        return 0, 0
    if isinstance(id, numbers.Number):
        return 1, id
    return (2 if isinstance(id, Text) else 3), id


def _report_orphans(change, changes):
    """Return the problems of the rows that are of the same missing account as `change`, and the
    row after them."""
    account_id, problems = change[0], []
    while change[0] == account_id:
        problems.append("row %d of the ledger is of account %s, which is not there"
                        % (change[1], show(account_id)))
        change = next(changes, END)
    return problems, change


def _replay(account, change, changes):
    """Return what is wrong with an account, and the first row of the ledger after those of it.

    `change` is its first row, if it has one, and `changes` the rows after that.
    """
    account_id, nickname, _, _ = account
    problems, credits, items = [], None, []
    if not isinstance(nickname, Text) or not nickname:
        problems.append("its nickname is no text")
    if change[0] == account_id:
        credits, items = _apply(change, credits, items, problems)
        for change in changes:
            owner, _, kind, item, price, after, time = change
            if owner != account_id:
                break
            # Most rows are purchases and sales without a problem: a short way for these, for speed.
            if (type(price) is type(after) is type(time) is int and price > 0 <= after
                    and type(item) is type(kind) is Text and item and credits is not None):
                if kind == PURCHASE and after == credits - price and item not in items:
                    items.append(item)
                    credits = after
                    continue
                if kind == SALE and after == credits + price and item in items:
                    items.remove(item)
                    credits = after
                    continue
            credits, items = _apply(change, credits, items, problems)
        else:
            change = END
    return problems + _compare(account, credits, items), change


def _compare(account, credits, items):
    """Return what differs between an account and what its ledger gives: credits, which are None
    without an opening, and a list of items."""
    problems = []
    _, _, stored_items, stored_credits = account
    if credits is None:
        problems.append("it has no opening in the ledger")
    elif stored_credits != credits or not isinstance(stored_credits, int):
        problems.append("it has %s credits, by the ledger it should have %d"
                        % (show(stored_credits), credits))
    if not isinstance(stored_items, Text) or stored_items != ",".join(items):
        problems.append("its items are %s, by the ledger they should be %s"
                        % (show(stored_items), quote(",".join(items))))
    return problems


def _apply(change, credits, items, problems):
    """Return the credits and the items of an account after any row of its ledger.

    `credits` are None before its opening. What is wrong with the row is added to `problems`.
    """
    _, id, kind, item, price, after, _ = change
    if not _is_valid_change(change):
        problems.append("row %d of the ledger is none that the shop writes" % id)
        return credits, items
    if kind == Trade.OPENING:
        if credits is not None:
            problems.append("row %d of the ledger is another opening" % id)
        return after, item.split(",") if item else []
    if credits is None:
        problems.append("row %d of the ledger is no opening" % id)
        credits = 0
    problem = _move_item(kind, item, items)
    if problem:
        problems.append("row %d of the ledger%s" % (id, problem))
    credits += -price if kind == Trade.PURCHASE else price
    if credits != after:
        problems.append("row %d of the ledger should have %d credits, it has %d"
                        % (id, credits, after))
    return after, items


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
    _, _, kind, item, price, credits, time = row
    if not (type(price) is type(credits) is type(time) is int
            and type(item) is type(kind) is Text):
        return False
    if credits < 0:
        return False
    if kind == Trade.OPENING:
        return price == 0
    if kind in (Trade.PURCHASE, Trade.SALE):
        return item != "" and price > 0
    if kind == Trade.GIFT:
        return item != "" and price == 0
    return kind == Trade.GRANT and item == ""
