# -*- coding: utf-8 -*-
"""The files of an SQLite database: a server locks them, and checks that they keep their names.

SQLite finds its files by name when it opens them, and never looks at the names again. A server
whose files were moved or removed would go on, and what it stores would be lost with its process.
"""
from __future__ import unicode_literals

import errno
import fcntl
import io
import os
import struct
import time

from constants import FILE_LOCK_ATTEMPTS, FILE_LOCK_PAUSE_SECONDS, LOOK_SECONDS
from log import monotonic

# Endings of the names: the database; the index of its write-ahead log, in shared memory; the log;
# the lock file, which has the identities of the other three while a server holds them.
_DATABASE, _SHM, _WAL, _LOCK = "", "-shm", "-wal", ".lock"
_SQLITE_FILES = (_DATABASE, _SHM, _WAL)

_GONE = {errno.ENOENT, errno.ENOTDIR}       # errnos of stat(2) where there is no such file

# A lock of an open file, which conflicts with other locks of the same process (fcntl(2), "Open file
# description locks"); the fcntl module has names for it since Python 3.9.
_F_OFD_SETLK = 37
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510       # bytes that SQLite locks (os.h of its source)


class FilesInUse(Exception):
    """Another server has one of the files open; the text is a sentence."""


class HeldFiles(object):
    """The four files of a database that a server has open, locked. `path` has no symbolic links.

    The locks are those of flock(2): they lock the file, under whatever name, and are gone with the
    process. They do not touch SQLite's own, of fcntl(2). But closing a descriptor would drop those
    (sqlite.org/howtocorrupt.html, section 2.2), so SQLite is closed before `close` is called.
    Raises FilesInUse or EnvironmentError.
    """

    def __init__(self, path):
        self.path = path
        self.wal_size = 0               # bytes of the write-ahead log, when `problem` last looked
        self._descriptors = {}          # ending of the name -> descriptor
        self._identities = []           # (path, (device, inode)) of each file
        self._directory = os.path.dirname(path)
        self._seen = None               # identity and time of the last change of the directory
        self._look_until = 0            # time until which each file is looked at
        self._problem = None            # what was wrong then
        try:
            self._hold(_LOCK, os.O_RDWR | os.O_CREAT)
            os.ftruncate(self._descriptors[_LOCK], 0)
            for ending in _SQLITE_FILES:
                if os.path.exists(path + ending):
                    self._hold(ending)
        except (EnvironmentError, FilesInUse):
            self.close()
            raise

    def _hold(self, ending, flags=os.O_RDONLY):
        """Open a file and lock it."""
        path = self.path + ending
        # A FIFO would wait for its other end; a link as lock file would have its target emptied.
        self._descriptors[ending] = descriptor = os.open(
            path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
        for _ in range(FILE_LOCK_ATTEMPTS):
            if _lock(descriptor, fcntl.LOCK_EX):
                return
            time.sleep(FILE_LOCK_PAUSE_SECONDS)
        raise FilesInUse("another server is serving %s" % (self.path if ending == _LOCK else path))

    def remember(self):
        """Remember which files the names mean, now that SQLite has opened all of its own."""
        for ending in _SQLITE_FILES:
            held = self._descriptors.get(ending)
            if held is not None and _identity(os.fstat(held)) != _identity(
                    os.stat(self.path + ending)):
                os.close(held)
                held = None
            if held is None:
                self._hold(ending)
        self._identities = [(self.path + ending, _identity(os.stat(self.path + ending)))
                            for ending in (_LOCK,) + _SQLITE_FILES]
        self.problem()
        lines = ["%d %d\n" % identity for _, identity in self._identities[1:]]
        try:
            os.write(self._descriptors[_LOCK], "".join(lines).encode("ascii"))
        except EnvironmentError:
            pass        # the disk is full: only commands miss it; a server can still let play

    def problem(self):
        """Return a sentence if a name does not mean its file any more, otherwise None."""
        if self._may_have_changed():
            self._problem = self._find_problem()
        self.wal_size = os.lseek(self._descriptors[_WAL], 0, os.SEEK_END)   # faster than fstat
        return self._problem

    def _may_have_changed(self):
        """Return whether something has changed in the directory, now or shortly before.

        This is one stat(2) instead of four. Two changes within a tick of the kernel's clock have
        the same time, so the look at the files is repeated for a while.
        """
        try:
            status = os.stat(self._directory)
        except EnvironmentError:
            return True
        seen = _identity(status), status.st_ctime
        if seen != self._seen:
            self._seen = seen
            self._look_until = monotonic() + LOOK_SECONDS
        return monotonic() < self._look_until

    def _find_problem(self):
        for path, identity in self._identities:
            try:
                if _identity(os.stat(path)) != identity:
                    return "%s is another file than the server has open" % path
            except EnvironmentError as error:
                return _missing(path, error)
        return None

    def has_moved(self):
        """Return whether the database's name means another file, or none."""
        try:
            return (self.path, _identity(os.stat(self.path))) not in self._identities
        except EnvironmentError:
            return True

    def block_checkpoint(self):
        """Have SQLite close the database as if others had it open: without a checkpoint, and
        without removing the log's files."""
        flock = struct.pack(str("hhqqi4x"), fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE,
                            0)
        fcntl.fcntl(self._descriptors[_DATABASE], _F_OFD_SETLK, flock)

    def close(self):
        """Give up the locks."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def conflict(path):
    """Return why a program may not open a database beside a server, a sentence, else None.

    The names may mean other files than the server has open. `path` has no symbolic links.
    """
    if not _is_held(path + _LOCK):
        for ending in _SQLITE_FILES:
            if _is_held(path + ending):
                return ("a server has %s%s open, but its lock file is not %s%s: stop that server"
                        % (path, ending, path, _LOCK))
        return orphaned_log(path)
    with io.open(path + _LOCK, encoding="ascii") as lock:
        lines = lock.read().splitlines()            # none by a server of before these lines
    for ending, line in zip(_SQLITE_FILES, lines):
        try:
            if "%d %d" % _identity(os.stat(path + ending)) != line:
                return "%s%s is another file than the server has open" % (path, ending)
        except EnvironmentError as error:
            return _missing(path + ending, error)
    return None


def orphaned_log(path):
    """Return a sentence if the database is missing, but not its write-ahead log, else None.

    A new database would remove the log, and with it the changes that a crash has left in it alone.
    """
    try:
        if not os.path.exists(path) and os.stat(path + _WAL).st_size:
            return ("there is no database %s, but %s%s, which has its latest changes: put the "
                    "database back, or move that file away" % (path, path, _WAL))
    except EnvironmentError:
        pass                            # there is no log
    return None


def _is_held(path):
    """Return whether a server has the file open."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except EnvironmentError:
        return False                    # there is none, or SQLite will say what is wrong with it
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)            # unlocks it, too


def _missing(path, error):
    if error.errno in _GONE:
        return "%s is gone, and a server has it open" % path
    return "%s cannot be looked at: %s" % (path, error.strerror)


def _identity(status):
    return status.st_dev, status.st_ino


def _lock(descriptor, kind):
    """Lock an open file, unless it is locked; returns whether it was not."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    except EnvironmentError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False
