# -*- coding: utf-8 -*-
"""The tables, as peewee models. Which file they are in is for `db` to say."""
from __future__ import unicode_literals

import peewee

from constants import MAX_NICKNAME


class Account(peewee.Model):
    """A player's account; it outlives every login.

    The constraints repeat what the shop checks, for whoever else writes to the file.
    """
    nickname = peewee.CharField(max_length=MAX_NICKNAME, unique=True)
    credits = peewee.IntegerField(constraints=[peewee.Check("credits >= 0")])
    items = peewee.TextField(default="")        # names joined by commas, in order of purchase

    class Meta(object):
        table_name = "account"


TABLES = [Account]
