# -*- coding: utf-8 -*-
"""What all storages share: methods, errors as sentences, usable rows, the schema check, URLs."""
from __future__ import unicode_literals

import inspect
import sqlite3
import sys

import peewee
import pytest
from conftest import both

import db
from constants import DATABASE, MAX_CREDITS
from models import TABLES, Account, Trade
from postgresql import PostgreSQL
from sqlite import SQLite
from schema import check_schema, create_command
from storage import (STORAGE_ERRORS, CannotOpen, Storage, UnusableRow, check_usable, describe,
                     is_usable)
from text import URL

# --- methods --------------------------------------------------------------------------------------

storages = pytest.mark.parametrize("storage", [SQLite, PostgreSQL])
SETTINGS = ("SELECT", "SELECT_TO_CHANGE", "MOMENT")     # statements for the commands


def public(names):
    """Return the names that are neither private nor those of a statement."""
    return {name for name in names if not name.startswith("_") and name.lower() == name}


def methods(storage):
    return {name: getattr(storage, name) for name in public(dir(storage))
            if callable(getattr(storage, name))}


@storages
def test_storage_has_exactly_the_methods_of_the_base(storage):
    assert set(methods(storage)) == set(methods(Storage))


@both
def test_storage_of_a_server_has_exactly_the_attributes_of_the_base(shop):
    assert public(dir(shop.storage)) == public(dir(Storage))
    assert shop.storage.name and shop.storage.engine and shop.storage.database


@both
def test_storage_of_a_command_has_exactly_the_attributes_of_the_base(database):
    storage = db.open_storage(database)
    with storage.reading():
        assert public(dir(storage)) == public(dir(Storage))


@storages
def test_storage_overrides_what_the_base_leaves_open(storage):
    """A method of the base either has a default or raises NotImplementedError."""
    abstract = {name for name, method in methods(Storage).items()
                if "NotImplementedError" in inspect.getsource(method)}
    classes = storage.__mro__[:storage.__mro__.index(Storage)]
    assert abstract and abstract <= set().union(*map(vars, classes))


def test_base_documents_each_method():
    for name, method in methods(Storage).items():
        assert method.__doc__ and method.__doc__.splitlines()[0].endswith((".", ":")), name


@pytest.mark.skipif(sys.version_info[0] < 3, reason="2.7 sees no arguments through a decorator")
@storages
def test_methods_have_the_arguments_of_the_base(storage):
    for name, method in methods(Storage).items():
        expected = inspect.signature(method).parameters.values()
        found = inspect.signature(getattr(storage, name)).parameters.values()
        assert [(one.name, one.kind, one.default) for one in found] == [
            (one.name, one.kind, one.default) for one in expected], name


@storages
def test_storage_has_the_statements_of_the_commands(storage):
    for name in SETTINGS:
        assert type(getattr(storage, name)) is type(""), name
    assert storage.SELECT_TO_CHANGE.startswith(storage.SELECT)


def test_defaults_are_those_of_a_storage_without_a_connection():
    storage = Storage()
    assert storage.is_lost is storage.prefetches is False and storage.socket is None
    assert not storage.has_released() and not storage.has_pending_work()
    assert list(storage.find_damage()) == []
    assert [storage.prefetch(["bob"]), storage.hold("bob"), storage.release("bob"),
            storage.end_tick(), storage.on_readable(), storage.do_pending_work(None)] == [
                None] * 6


# --- errors as sentences --------------------------------------------------------------------------

@pytest.mark.parametrize("error, says", [
    (sqlite3.OperationalError("database is locked"), "database is locked"),
    (peewee.OperationalError("disk I/O error"), "disk I/O error"),
    # As peewee wraps it.
    (peewee.OperationalError(sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
     "disk I/O error"),
    (peewee.OperationalError("connection refused\n\tIs the server running?\n"),
     "connection refused"),
    (peewee.OperationalError(), ""),
    (sqlite3.OperationalError("\x1b[31mred"), "\\u001b[31mred"),
    (peewee.OperationalError("\nrow"), "row"),
    (UnicodeDecodeError(str("utf-8"), b"\xff", 0, 1, str("invalid start byte")),
     "it holds names that are no text"),
    (peewee.OperationalError(5), "5")])
def test_error_is_described_by_its_escaped_first_line(error, says):
    assert isinstance(error, STORAGE_ERRORS)
    assert describe(error) == says


# --- usable rows ----------------------------------------------------------------------------------

@pytest.mark.parametrize("credits, items", [
    (0, ""), (int(MAX_CREDITS), "sword"), (1, "a,b")])         # 2.7: a long
def test_row_of_the_shop_is_usable(credits, items):
    row = (1, credits, items)
    assert is_usable(row)
    assert check_usable(row) is row


@pytest.mark.parametrize("credits, items", [
    (-1, ""), (MAX_CREDITS + 1, ""), ("5", ""), (5.0, ""), (None, ""), (5, None), (5, b"\xff"),
    (5, 7)])
def test_row_of_another_program_is_unusable(credits, items):
    row = (1, credits, items)
    assert not is_usable(row)
    with pytest.raises(UnusableRow):
        check_usable(row)


def test_missing_row_passes_the_check():
    assert check_usable(None) is None


# --- the schema check -----------------------------------------------------------------------------

def why_schema_is_refused(storage, models=TABLES):
    with pytest.raises(CannotOpen) as caught:
        check_schema(storage.database, storage.name, models)
    return "%s" % caught.value


@both
def test_schema_of_the_models_is_accepted(shop):
    check_schema(shop.storage.database, shop.storage.name, TABLES)


@both
def test_missing_table_is_named_with_the_command_that_creates_it(shop, outside):
    outside.execute("DROP TABLE trade")
    storage = shop.storage
    assert why_schema_is_refused(storage) == (
        "the database %s has no table trade: create it with: %s"
        % (storage.name, create_command(storage.name)))
    check_schema(storage.database, storage.name, [Account])     # as a backup does


@both
@pytest.mark.parametrize("change", [
    "ALTER TABLE account ADD COLUMN email TEXT",
    "ALTER TABLE account RENAME COLUMN items TO things"])
def test_other_columns_are_refused(shop, outside, change):
    outside.execute(change)
    assert why_schema_is_refused(shop.storage) == (
        "the table account of %s is not that of this program" % shop.storage.name)
    check_schema(shop.storage.database, shop.storage.name, [Trade])


@both
def test_nicknames_that_are_not_unique_are_refused(shop, outside):
    outside.execute("DROP INDEX account_nickname")
    assert why_schema_is_refused(shop.storage) == (
        "the table account of %s is not that of this program" % shop.storage.name)


def test_table_that_cannot_be_read_is_refused():
    class Unreadable(object):
        def table_exists(self, table):
            return True

        def execute_sql(self, sql):
            raise peewee.ProgrammingError("permission denied for table account\nLINE 1: ...")

    with pytest.raises(CannotOpen) as caught:
        check_schema(Unreadable(), "shop.db", TABLES)
    assert "%s" % caught.value == (
        "cannot read the database shop.db: permission denied for table account")


# --- file or URL ----------------------------------------------------------------------------------

@pytest.mark.parametrize("url", [
    "postgresql://lavka:secret@127.0.0.1/shop", "postgres://host/shop",
    "postgresql:lavka@host/shop",
    "mysql://lavka:secret@host/shop", " postgresql://host/shop", '"postgresql://host/shop"',
    "postgresql//lavka:secret@host/shop", "postgres;host", "//lavka:secret@host/shop",
    "lavka:secret@host/shop", "dbname=lavka user=lavka password=secret", "password = secret"])
def test_url_or_attempt_at_one_is_no_file_name(url):
    """It is PostgreSQL's, which may refuse it; no message has the password."""
    assert URL.match(url)
    try:
        storage = db.open_storage(url)
    except CannotOpen as error:
        assert "secret" not in "%s" % error
    else:
        assert type(storage) is PostgreSQL and "secret" not in storage.name


@pytest.mark.parametrize("path", [
    DATABASE, "shop.db", "/var/lib/lavka/shop.db", "./a b.db", "file:x.db", "C:shop", "postgres.db",
    "postgresql", "пользователь.db", "a@b.db", "password.db", "dir/lavka:x"])
def test_file_name_is_no_url(path):
    assert not URL.match(path)
    storage = db.open_storage(path)
    assert type(storage) is SQLite and storage.name == path


@pytest.mark.parametrize("name, command", [
    (DATABASE, "python db.py"), ("shop.db", "python db.py --database shop.db"),
    ("postgresql://lavka@host/shop", "python db.py, with the same database")])
def test_command_that_creates_tables_names_file_and_hides_url(name, command):
    assert create_command(name) == command
