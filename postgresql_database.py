# -*- coding: utf-8 -*-
"""A PostgreSQL database as the commands use it: creating its tables, reading, and changing it."""
from __future__ import unicode_literals

import contextlib
import itertools

from models import TABLES, Account
from postgresql_connection import Connector
from schema import check_schema, create_tables, is_outdated
from storage import STORAGE_ERRORS, CannotOpen, Storage, describe

_stream_numbers = itertools.count()


class PostgreSQLDatabase(Storage):
    """One database; see `Storage` for what each method does."""

    SELECT_TO_CHANGE = Storage.SELECT + " FOR UPDATE"
    MOMENT = "to_char(to_timestamp(time) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"

    def __init__(self, url):
        self._connector = Connector(url)
        self.name = self._connector.name

    def create_tables(self, upgrade_only=False):
        self.database = self._connector.connect()
        try:
            with self.database.bind_ctx(TABLES), self._transaction():
                # Serialize concurrent runs.
                self.query("SELECT pg_advisory_xact_lock(hashtextextended('', 0))")
                if upgrade_only:
                    check_schema(self.database, self.name, [Account])
                self._create_missing()
        except STORAGE_ERRORS as error:
            raise CannotOpen("cannot create the tables in %s: %s" % (self.name, describe(error)))
        finally:
            self.database.close()

    def _create_missing(self):
        is_upgrade = is_outdated(self.database)
        create_tables(self.database, self.name)
        if is_upgrade:
            # Behind the locks of the change, at which the start of a server waits.
            self._connector.check_alone(self.database)
            # So that an older server, if one hides, can store nothing.
            self.query("ALTER TABLE trade ALTER COLUMN note DROP DEFAULT")

    def _open(self, models):
        """Connect to a database that has the tables of the models. Raises CannotOpen."""
        self.database = self._connector.connect()
        try:
            check_schema(self.database, self.name, models)
        except CannotOpen:
            self.database.close()
            raise
        self.engine = self._connector.engine

    @contextlib.contextmanager
    def reading(self, models=TABLES):
        self._open(models)
        with contextlib.closing(self.database):
            yield

    @contextlib.contextmanager
    def changing(self):
        self._open(TABLES)
        with contextlib.closing(self.database), self._transaction():
            yield

    @contextlib.contextmanager
    def _transaction(self):
        """A transaction; after an exception the caller undoes it by closing the connection."""
        self.database.begin()
        yield
        self.database.commit()

    def query(self, sql, *parameters):
        return self.database.execute_sql(sql.replace("?", "%s"), parameters)

    def stream(self, sql):
        return _stream(self.query, sql)

    def begin_reading(self, progress):
        self.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def copy_to(self, path, progress):
        self._connector.dump(path)


def _stream(query, sql):
    """Return the rows of a SELECT one by one, fetched in blocks; `query` executes a statement."""
    cursor = "stream_%d" % next(_stream_numbers)        # several are read at once
    query("DECLARE %s NO SCROLL CURSOR FOR %s" % (cursor, sql))
    fetch = iter(lambda: query("FETCH 10000 FROM " + cursor).fetchall(), [])
    return itertools.chain.from_iterable(fetch)
