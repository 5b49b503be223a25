# -*- coding: utf-8 -*-
"""Keeping SQLite's write-ahead log short, also after another program has read for long.

A commit makes a checkpoint, in a few milliseconds, once the log has grown to WAL_SIZE. It cannot
while another program reads an older state: the log grows, and the checkpoint that finally can would
stop all players for seconds. So a large log is copied in a thread, beside the loop.
"""
from __future__ import unicode_literals

import logging
import sqlite3
import threading

from constants import (BUSY_SECONDS, CHECKPOINT_RETRY_SECONDS, IDLE_SECONDS, WAL_LARGE, WAL_REST,
                       WAL_SIZE, WAL_STEP)
from log import monotonic
from storage import STORAGE_ERRORS, describe
from text import excerpt

log = logging.getLogger("lavka.checkpoint")

_FRAME_HEADER = 24      # bytes before a page in the log (sqlite.org/fileformat2.html, 4.1)


class Checkpointer(object):
    """The checkpoints of the database `path`; `query` executes a statement where commits are made.

    A checkpoint that begins just when a commit starts the log anew can damage the file, before
    SQLite 3.51.3 (sqlite.org/wal.html, section 11). So the thread reads with a second connection
    meanwhile. No commit starts a log anew that somebody reads. A reader that begins when all of the
    log is copied reads the database file, and keeps checkpoints from changing it.
    """

    def __init__(self, query, path):
        self.query = query
        self.path = path
        page_size, = query("PRAGMA page_size").fetchone()
        self.frame_size = page_size + _FRAME_HEADER
        self.pages = WAL_SIZE // page_size      # of the log, at which a commit makes a checkpoint
        self.is_large = False       # whether the log's file has grown large, and has not shrunk yet
        self.told_size = 0          # bytes of the file, in the last log line about it
        self.uncopied = 0           # bytes of the log that the last checkpoint has left
        self.is_copied = True       # whether the log was copied since the last commit
        self.copy_at = None         # time to copy it, if there is no other commit
        self.retry_at = 0           # time at which the next thread may begin
        self.thread = None
        self.connections = []       # of the thread: one copies, one reads
        self.failure = None         # error that has ended the thread
        self._copy_all()
        query("PRAGMA wal_autocheckpoint = %d" % self.pages)

    def _copy_all(self):
        """Copy what a crash has left, while nobody plays yet."""
        try:
            self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        except STORAGE_ERRORS as error:
            _log_failure(error)         # on a full disk, say; the log keeps the changes

    def look_after(self, size):
        """Look after the log before a commit; its file has `size` bytes."""
        self.is_copied, self.copy_at = False, None
        if not self.is_large:
            if size <= WAL_LARGE:
                return
            self.is_large = True
            self.uncopied = self.told_size = size
            log.warning("wal_large bytes=%d", size)
            self.query("PRAGMA wal_autocheckpoint = 0")
        elif size >= 2 * self.told_size:
            self.told_size = size
            log.warning("wal_large bytes=%d", size)
        if not self._has_ended():
            return
        if self.uncopied <= WAL_REST:
            self._shrink(size)
        elif monotonic() >= self.retry_at:
            self.retry_at = monotonic() + CHECKPOINT_RETRY_SECONDS
            self._start_thread()

    def copy_when_idle(self, clock, size):
        """Copy the log when there was no commit for a while: an idle server loses nothing with it.

        `clock` returns seconds; the log's file has `size` bytes.
        """
        if self.copy_at is None:
            self.copy_at = clock() + IDLE_SECONDS
        elif not self.is_copied and clock() >= self.copy_at:
            self.is_copied = True
            if size <= WAL_LARGE:               # or it would take too long
                self.copy()

    def copy(self):
        """Copy the log in the loop; returns whether all of it is copied.

        It is not while another program reads an older state.
        """
        try:
            return self._checkpoint(self.query) >= 0 and not self.uncopied
        except STORAGE_ERRORS:
            return False

    def copy_at_last(self):
        """Copy the log of a server that stops while a file is lost."""
        if not self.copy():
            log.error("log_not_copied file=%s", excerpt(self.path + "-wal"))

    def _start_thread(self):
        try:
            for _ in range(2):
                self.connections.append(sqlite3.connect(self.path, isolation_level=None,
                                                        check_same_thread=False))
            self.connections[0].execute("PRAGMA synchronous = FULL")
            thread = threading.Thread(target=self._copy, args=tuple(self.connections))
            thread.daemon = True                # the end of the process ends it
            thread.start()
        except STORAGE_ERRORS + (threading.ThreadError,) as error:      # out of descriptors, say
            _log_failure(error)
            self._disconnect()
        else:
            self.thread = thread

    def _copy(self, copying, reading):
        """Copy the log, and what is committed meanwhile, until there was little to copy: the
        thread."""
        before = 0
        try:
            while True:
                reading.execute("BEGIN")
                reading.execute("SELECT 1 FROM account LIMIT 1").fetchall()
                copied = self._checkpoint(copying.execute)
                reading.execute("COMMIT")
                if self.uncopied > WAL_REST or copied - before <= WAL_REST:
                    return                      # the former: another program reads an older state
                before = copied
        except STORAGE_ERRORS as error:
            self.failure = error

    def _checkpoint(self, execute):
        """Copy what can be copied; returns how many bytes of the log are copied now, or -1 while
        another program makes a checkpoint."""
        is_busy, frames, copied = execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if is_busy:
            return -1
        self.uncopied = (frames - copied) * self.frame_size
        return copied * self.frame_size

    def _shrink(self, size):
        """Copy the short rest, and have the next commit start the log anew, in a smaller file.

        A file becomes smaller in steps: to free all of it at once would take too long.
        """
        if size <= WAL_LARGE:
            self.is_large = False
            self.query("PRAGMA wal_autocheckpoint = %d" % self.pages)
            log.warning("wal_shrunk bytes=%d", size)
            return
        self.query("PRAGMA journal_size_limit = %d" % max(WAL_SIZE, size - WAL_STEP))
        try:
            self._checkpoint(self.query)
        except STORAGE_ERRORS as error:
            _log_failure(error)
            self.uncopied = size                # for a thread to try again, later

    def stop(self):
        """End the thread; returns whether it has ended, which a slow disk can delay."""
        if self.thread is not None:
            self.connections[0].interrupt()
            self.thread.join(BUSY_SECONDS)
            self.failure = None                 # it was interrupted
        return self._has_ended()

    def _has_ended(self):
        """Return whether there is no thread, or no more."""
        if self.thread is not None and not self.thread.is_alive():
            self._disconnect()
            self.thread = None
            if self.failure is not None:
                _log_failure(self.failure)
                self.failure = None
        return self.thread is None

    def _disconnect(self):
        while self.connections:
            self.connections.pop().close()


def _log_failure(error):
    log.warning("checkpoint_failed error=%s", excerpt(describe(error)))
