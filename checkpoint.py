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

from constants import BUSY_SECONDS, CHECKPOINT_RETRY_SECONDS, WAL_LARGE, WAL_SIZE, WAL_STEP
from log import monotonic
from storage import STORAGE_ERRORS, describe
from text import quote

log = logging.getLogger("lavka.checkpoint")

_FRAME_HEADER = 24      # bytes before a page in the log (sqlite.org/fileformat2.html, 4.1)
_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"          # copies what it can, and waits for nobody


class Checkpointer(object):
    """The checkpoints of the database `path`; `query` executes a statement where commits are made.

    A checkpoint that begins just when a commit starts the log anew can damage the file, before
    SQLite 3.51.3 (sqlite.org/wal.html, section 11). So the thread begins right after a commit whose
    bytes are not copied yet; until it has copied them no commit starts the log anew.
    """

    def __init__(self, query, path):
        self.query = query
        self.path = path
        page_size, = query("PRAGMA page_size").fetchone()
        self.frame_size = page_size + _FRAME_HEADER
        self.pages = WAL_SIZE // page_size      # of the log, at which a commit makes a checkpoint
        self.is_large = False       # whether the log's file has grown large, and has not shrunk yet
        self.told_size = WAL_LARGE // 2         # bytes of the file, in the last log line about it
        self.uncopied = 0           # bytes of the log that the last checkpoint has left
        self.size_before = 0        # bytes of the file when the thread began
        self.retry_at = 0           # time at which a thread may begin
        self.thread = None
        self.connection = None      # of the thread
        query("PRAGMA wal_checkpoint(TRUNCATE)")        # what a crash has left; nobody plays yet
        query("PRAGMA wal_autocheckpoint = %d" % self.pages)

    def after_commit(self, size):
        """Look after the log, whose file had `size` bytes before the commit."""
        if not self.is_large:
            if size <= WAL_LARGE:
                return
            self.is_large = True
            self.uncopied = size
            self.query("PRAGMA wal_autocheckpoint = 0")
        if size >= 2 * self.told_size:
            self.told_size = size
            log.warning("wal_large bytes=%d", size)
        if self.thread is not None:
            if self.thread.is_alive():
                return
            self.connection.close()
            self.thread = None
            self.uncopied += size - self.size_before    # what was committed meanwhile
        if self.uncopied <= WAL_SIZE:
            self._shrink(size)
        elif monotonic() >= self.retry_at:
            self.retry_at = monotonic() + CHECKPOINT_RETRY_SECONDS
            self._start_thread(size)

    def _start_thread(self, size):
        self.connection = sqlite3.connect(self.path, isolation_level=None,
                                          check_same_thread=False)
        self.connection.execute("PRAGMA synchronous = FULL")
        self.thread = threading.Thread(target=self._checkpoint,
                                       args=[self.connection.execute, size])
        self.thread.daemon = True               # the end of the process ends it
        self.thread.start()

    def _checkpoint(self, execute, size):
        """Copy the log, whose file has `size` bytes, as far as nobody reads what is older."""
        self.size_before = self.uncopied = size
        try:
            is_busy, frames, copied = execute(_CHECKPOINT).fetchone()
            if not is_busy:
                self.uncopied = (frames - copied) * self.frame_size
        except STORAGE_ERRORS as error:
            log.warning("checkpoint_failed error=%s", quote(describe(error)))

    def _shrink(self, size):
        """Copy the short rest, and have the next commit start the log anew, in a smaller file.

        A file is made smaller in steps: to free all of it would take too long.
        """
        if size <= WAL_LARGE:
            self.is_large = False
            self.told_size = WAL_LARGE // 2
            self.query("PRAGMA wal_autocheckpoint = %d" % self.pages)
            log.warning("wal_shrunk bytes=%d", size)
            return
        self.query("PRAGMA journal_size_limit = %d" % max(WAL_SIZE, size - WAL_STEP))
        self._checkpoint(self.query, size)

    def stop(self):
        """End the thread; returns whether it has ended, which a slow disk can delay."""
        if self.thread is None:
            return True
        self.connection.interrupt()
        self.thread.join(BUSY_SECONDS)
        return not self.thread.is_alive()
