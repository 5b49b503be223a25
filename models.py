# -*- coding: utf-8 -*-
"""The tables, as peewee models; `storage` says which database they are in."""
from __future__ import unicode_literals

import sys

try:
    import peewee
except ImportError:             # outside the virtual environment, say
    sys.exit("peewee is missing; install it with: pip install -r requirements.txt")

from constants import MAX_NICKNAME


class Account(peewee.Model):
    """A player's account; it outlives every login.

    The constraints repeat what the shop checks, for other programs that write to the database.
    """
    id = peewee.BigAutoField()                  # 32 bits would be used up; SQLite has 64 anyway
    nickname = peewee.CharField(max_length=MAX_NICKNAME, unique=True)
    credits = peewee.BigIntegerField(constraints=[peewee.Check("credits >= 0")])
    items = peewee.TextField(default="")        # names joined by commas, in order of purchase

    class Meta(object):
        table_name = "account"


class Trade(peewee.Model):
    """A row of the ledger: one change of an account, stored together with it and never changed.

    Replayed in the order of their ids, an account's rows give its credits and items. The table has
    neither an index on `account`, which would halve the speed of a commit, nor a CHECK of `what`,
    which takes as long as the whole row; `python admin.py verify` finds wrong rows instead.
    """
    OPENING, PURCHASE, SALE = "opening", "purchase", "sale"
    GRANT, GIFT = "grant", "gift"               # by an operator: credits, an item

    id = peewee.BigAutoField()
    account = peewee.ForeignKeyField(Account, index=False)
    time = peewee.TimestampField(utc=True)      # of the commit, in seconds since 1970
    what = peewee.CharField(max_length=8)       # the kind of change, one of the five above
    item = peewee.TextField()                   # or, of an account's opening, all that it owned
    price = peewee.BigIntegerField()            # paid or got for the item; the credits of a grant
    credits = peewee.BigIntegerField(constraints=[peewee.Check("credits >= 0")])    # afterwards
    note = peewee.TextField()                   # an operator's name, and ": " with the reason, if
                                                # there is one; empty for players' changes

    class Meta(object):
        table_name = "trade"


class AccountKey(peewee.Model):
    """The key of a protected account, as a hash; an account without a row needs no key."""
    account = peewee.ForeignKeyField(Account, primary_key=True)
    hash = peewee.CharField(max_length=64)      # SHA-256, as 64 hexadecimal digits

    class Meta(object):
        table_name = "account_key"


TABLES = [Account, Trade, AccountKey]
