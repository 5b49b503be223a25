# -*- coding: utf-8 -*-
"""Copying all accounts and their ledger into another database."""
from __future__ import unicode_literals

import itertools

import peewee

from admin_database import verify
from cli import CommandFailed
from constants import COPY_ROWS
from models import TABLES, Account, AccountKey, Trade
from postgresql_target import PostgreSQLTarget
from progress import Progress
from sqlite_target import SQLiteTarget
from storage import describe
from text import URL, Text, is_whole, show

# A row of each table, for people, by its primary key.
_NAMES = {Account: "account %s", AccountKey: "the key of account %s", Trade: "row %s of the ledger"}


def copy(source, out, target):
    """Copy all accounts, their keys and their ledger into another database, which has none yet, and
    verify both. Servers may run on the database that is read, none on the other one. Tables are
    created where they are missing. All is copied, or nothing, if the copy is interrupted."""
    target = open_target(target)
    with source.reading(), Progress("counting") as progress:
        source.begin_reading(progress)
        try:
            with target.receiving(source):
                numbers = [_copy_table(source, target, model, progress) for model in TABLES]
                progress.stage("storing")
        except peewee.IntegrityError as error:      # PostgreSQL's references hold for all rows
            raise CommandFailed(_find_orphan(source) or describe(error))
    out.write("%s has %d accounts now, %d rows of the ledger and %d keys\n"
              % ((target.name,) + tuple(numbers)))
    statuses = []
    for storage in (source, target):
        out.write("verify %s\n" % storage.name)
        out.flush()                     # what is stored is told, even if Ctrl-C ends the rest
        statuses.append(verify(storage, out))
    return max(statuses)


def open_target(database):
    """Return the storage to copy into, not yet connected. Raises CannotOpen."""
    return (PostgreSQLTarget if URL.match(database) else SQLiteTarget)(database)


def _find_orphan(source):
    """Return which key or row of the ledger is of no account, a sentence; None if there is none."""
    for model in (AccountKey, Trade):
        row = source.query(
            "SELECT %s, account_id FROM %s WHERE NOT EXISTS "
            "(SELECT 1 FROM account WHERE account.id = account_id) LIMIT 1"
            % (model._meta.primary_key.column_name, model._meta.table_name)).fetchone()
        if row is not None:
            return "%s cannot be copied: there is no account %s" % (
                _NAMES[model] % show(row[0]), show(row[1]))
    return None


def _copy_table(source, target, model, progress):
    """Copy the rows of a table, in order; return how many. Raises CommandFailed."""
    table = model._meta.table_name
    columns = [field.column_name for field in model._meta.sorted_fields]
    total, = source.query("SELECT COUNT(*) FROM " + table).fetchone()
    rows = source.stream("SELECT %s FROM %s ORDER BY %s" % (
        ", ".join(columns), table, model._meta.primary_key.column_name))
    done = 0
    while True:
        progress.advance("copying the table %s" % table, done, total)
        batch = list(itertools.islice(rows, COPY_ROWS))
        if not batch:
            return done
        _check(model, batch)
        target.write(table, columns, batch)
        done += len(batch)


def _check(model, rows):
    """Check that each database can hold the rows. Raises CommandFailed, which names the first that
    one cannot."""
    fields = model._meta.sorted_fields
    if not any(map(_problem, fields, zip(*rows))):      # all rows at once: a tenth of the time
        return
    for row in rows:
        for field, value in zip(fields, row):
            problem = _problem(field, [value])
            if problem:
                raise CommandFailed("%s cannot be copied: its column %s %s" % (
                    _NAMES[model] % show(row[0]), field.column_name, problem))


def _problem(field, values):
    """Return what is wrong with one of a column's values, else None."""
    if not isinstance(field, (peewee.CharField, peewee.TextField)):
        if set(map(type, values)) != {int}:
            return "is no whole number"
        return "is below 0" if field.name == "credits" and min(values) < 0 else None
    if set(map(type, values)) != {Text}:
        return "is no text"
    together = "\n".join(values)
    if "\0" in together or not is_whole(together):
        return "has a NUL or half a character"
    most = getattr(field, "max_length", None)
    if most is not None and max(map(len, values)) > most:
        return "has more than %d characters" % most
    return None
