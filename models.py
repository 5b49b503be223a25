# -*- coding: utf-8 -*-
"""The tables, as peewee models. Which file they are in is for `db` to say."""
from __future__ import unicode_literals

import peewee

from constants import MAX_NICKNAME


class Account(peewee.Model):
    """A player's account; it outlives every login.

    The constraints repeat what the shop checks, for whoever else writes to the file.
    """
    id = peewee.BigAutoField()                  # SQLite has no other; 32 bits would be used up
    nickname = peewee.CharField(max_length=MAX_NICKNAME, unique=True)
    credits = peewee.BigIntegerField(constraints=[peewee.Check("credits >= 0")])
    items = peewee.TextField(default="")        # names joined by commas, in order of purchase

    class Meta(object):
        table_name = "account"


class Trade(peewee.Model):
    """A row of the ledger: one change of an account, stored together with it and never changed.

    Replayed in the order of their ids, an account's rows give its credits and items. Every trade
    pays for what stands here: an index on `account` would halve the speed of a commit, and a check
    of `what` costs as much as the whole row, so looking for an account's rows takes time, and wrong
    ones are for `python db.py verify` to find.
    """
    OPENING, PURCHASE, SALE, GRANT = "opening", "purchase", "sale", "grant"

    id = peewee.BigAutoField()
    account = peewee.ForeignKeyField(Account, index=False)
    time = peewee.TimestampField(utc=True)      # of the commit, seconds since 1970: a short row
    what = peewee.CharField(max_length=8)
    item = peewee.TextField()                   # of an opening, all items that were there already
    price = peewee.BigIntegerField()            # paid or got for the item; the credits of a grant
    credits = peewee.BigIntegerField(constraints=[peewee.Check("credits >= 0")])    # afterwards

    class Meta(object):
        table_name = "trade"


TABLES = [Account, Trade]
