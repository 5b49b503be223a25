# -*- coding: utf-8 -*-
"""An SQLite file into which all accounts of another database are copied."""
from __future__ import unicode_literals

import contextlib
import os

from constants import COMMAND_BUSY_SECONDS, PAGE_SIZE
from files import HeldFiles
from models import TABLES
from schema import check_empty, create_tables
from sqlite_file import BESIDE_A_SERVER, DURABLE, SQLiteFile, check_one_name
from storage import CannotOpen, Target


class SQLiteTarget(SQLiteFile, Target):
    """The file, which need not be there; see `Target` for what each method does."""

    # The page size comes first: it is fixed once the journal mode is set. Foreign keys are not
    # checked: that takes as long as all the rest, and a damaged ledger is copied as it is.
    PRAGMAS = ([("page_size", PAGE_SIZE)] + DURABLE + BESIDE_A_SERVER
               + [("foreign_keys", 0)])

    @contextlib.contextmanager
    def receiving(self, source):
        path = self._check_names()
        if os.path.exists(path):
            if isinstance(source, SQLiteFile) and os.path.samefile(path, source.name):
                raise CannotOpen("%s is the database that is to be copied" % self.name)
            check_one_name(path, self.name)
        with self._explained():
            files = HeldFiles(path)
        try:
            self._connect(COMMAND_BUSY_SECONDS, self.PRAGMAS)
            with contextlib.closing(self.database), self.database.bind_ctx(TABLES):
                with self._transaction():
                    check_empty(self.database, self.name)
                    create_tables(self.database, self.name)
                    yield
        finally:
            files.close()

    def write(self, table, columns, rows):
        self.database.cursor().executemany("INSERT INTO %s (%s) VALUES (%s)" % (
            table, ", ".join(columns), ", ".join("?" * len(columns))), rows)
