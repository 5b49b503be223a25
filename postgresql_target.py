# -*- coding: utf-8 -*-
"""A PostgreSQL database into which all accounts of another database are copied, by COPY."""
from __future__ import unicode_literals

import contextlib
import re

from models import TABLES
from postgresql_connection import duplicate_socket
from postgresql_database import PostgreSQLDatabase
from schema import check_empty
from storage import CannotOpen, Target
from text import Text

# What no other database has at the same time; a copy of a cluster has the same identifier.
_IDENTITY = ("SELECT pg_postmaster_start_time(), oid FROM pg_database "
             "WHERE datname = current_database()")

# The statements that drop the foreign keys of our tables, and those that add them again. Checking
# all rows at once takes a fraction of the time, and no memory for each row.
_FOREIGN_KEYS = (
    "SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname), "
    "format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname, "
    "pg_get_constraintdef(oid)) FROM pg_constraint WHERE contype = 'f' "
    "AND conrelid IN ('trade'::regclass, 'account_key'::regclass)")

# Has a new row get an id behind the highest one. A sequence cannot begin below 1.
_SET_SEQUENCE = ("SELECT setval(pg_get_serial_sequence('%s', 'id'), max(id)) FROM %s "
                 "HAVING max(id) > 0")

# Characters that COPY escapes (postgresql.org/docs/current/sql-copy.html, "Text Format").
_ESCAPED = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_special = re.compile(r"[\\\t\n\r]")


class PostgreSQLTarget(PostgreSQLDatabase, Target):
    """The database; see `Target` for what each method does."""

    @contextlib.contextmanager
    def receiving(self, source):
        self.database = self._connector.connect()
        with contextlib.closing(self.database), self.database.bind_ctx(TABLES):
            if isinstance(source, PostgreSQLDatabase) and (
                    source.query(_IDENTITY).fetchone() == self.query(_IDENTITY).fetchone()):
                raise CannotOpen("%s is the database that is to be copied" % self.name)
            with self._transaction():
                # A server that vanishes ends COPY after 20 s; libpq alone would wait for minutes.
                duplicate_socket(self.database.connection()).close()
                self._lock_tables()
                check_empty(self.database, self.name)
                self._create_missing()
                self._connector.check_alone(self.database)
                constraints = self.query(_FOREIGN_KEYS).fetchall()
                for drop, _ in constraints:
                    self.query(drop)
                yield
                for _, add in constraints:
                    self.query(add)
                for table in ("account", "trade"):
                    self.query(_SET_SEQUENCE % (table, table))

    def _lock_tables(self):
        """Have the start of a server wait, and another run that creates tables."""
        self.query("SELECT pg_advisory_xact_lock(hashtextextended('', 0))")
        for model in TABLES:
            if model.table_exists():
                self.query("LOCK TABLE %s IN ACCESS EXCLUSIVE MODE" % model._meta.table_name)

    def write(self, table, columns, rows):
        self._connector.copy_in(
            self.database, "COPY %s (%s) FROM STDIN" % (table, ", ".join(columns)),
            _lines(rows).encode("utf-8"))


def _lines(rows):
    """Return rows of numbers and texts as COPY reads them."""
    line = "\t".join(["%s"] * len(rows[0])) + "\n"
    text = "".join([value for row in rows for value in row if type(value) is Text])
    if _special.search(text):
        rows = [tuple(_escape(value) if type(value) is Text else value for value in row)
                for row in rows]
    return "".join([line % row for row in rows])


def _escape(text):
    return _special.sub(lambda match: _ESCAPED[match.group()], text)
