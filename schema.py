# -*- coding: utf-8 -*-
"""The tables of a database: creating them, bringing older ones up to date, checking them."""
from __future__ import unicode_literals

import time

from constants import DATABASE
from models import TABLES, Account, Trade
from storage import STORAGE_ERRORS, CannotOpen, describe
from text import URL


def is_outdated(database):
    """Return whether the database has accounts, and lacks something beside them.

    `database` is peewee's, here and below, bound to the models.
    """
    return Account.table_exists() and not (all(model.table_exists() for model in TABLES)
                                           and _has_notes(database))


def create_tables(database, name):
    """Create what is missing; the caller has begun a transaction. Raises CannotOpen.

    No server may run on a database that `is_outdated`: it would go on without what is added here.
    """
    has_accounts = Account.table_exists()
    missing = [model for model in TABLES if not model.table_exists()]
    if Trade not in missing and not _has_notes(database):
        database.execute_sql("ALTER TABLE trade ADD COLUMN note TEXT NOT NULL DEFAULT ''")
    database.create_tables(missing)
    check_schema(database, name, TABLES)
    if has_accounts and Trade in missing:
        _open_ledger(database)


def _has_notes(database):
    return "note" in _columns(database, Trade)


def _open_ledger(database):
    """Give each account from before the ledger its first row there."""
    database.execute_sql(
        "INSERT INTO trade (account_id, time, what, item, price, credits, note) "
        "SELECT id, %d, '%s', items, 0, credits, '' FROM account ORDER BY id"
        % (int(time.time()), Trade.OPENING))


def check_schema(database, name, models):
    """Check that the tables are there, with the models' columns and unique nicknames.

    `name` is for people. Raises CannotOpen.
    """
    for model in models:
        table = model._meta.table_name
        try:
            if not database.table_exists(table):
                raise CannotOpen("the database %s has no table %s: create it with: %s"
                                 % (name, table, create_command(name)))
            database.execute_sql("SELECT * FROM %s LIMIT 0" % table)    # are we allowed to?
            columns = _columns(database, model)
            unique = [index.columns for index in database.get_indexes(table) if index.unique]
        except STORAGE_ERRORS as error:
            raise CannotOpen("cannot read the database %s: %s" % (name, describe(error)))
        expected = set(model._meta.columns)
        if model is Trade and columns == expected - {"note"}:
            raise CannotOpen("the database %s is from an older version: bring it up to date with: "
                             "%s" % (name, create_command(name)))
        if columns != expected or (model is Account and ["nickname"] not in unique):
            raise CannotOpen("the table %s of %s is not that of this program" % (table, name))


def check_empty(database, name):
    """Check that no table of ours has a row; tables may be missing. Raises CannotOpen."""
    for model in TABLES:
        if model.table_exists() and database.execute_sql(
                "SELECT 1 FROM %s LIMIT 1" % model._meta.table_name).fetchone():
            raise CannotOpen("the database %s is not empty: its table %s has rows"
                             % (name, model._meta.table_name))


def _columns(database, model):
    return {column.name for column in database.get_columns(model._meta.table_name)}


def create_command(name):
    """Return what to type to create the tables of this database."""
    if URL.match(name):                         # without its password it would be of no use
        return "python db.py, with the same database"
    return "python db.py" if name == DATABASE else "python db.py --database %s" % name
