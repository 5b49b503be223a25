# -*- coding: utf-8 -*-
"""The admin socket: where it is, how the server listens on it, and how operators ask through it.

It is a Unix socket that only its owner and root may connect to: it asks nobody for a password.
"""
from __future__ import unicode_literals

import contextlib
import errno
import fcntl
import os
import socket
import stat
import sys
import time

from constants import (FILE_LOCK_ATTEMPTS, FILE_LOCK_PAUSE_SECONDS, LISTEN_QUEUE, REPLY_SECONDS,
                       UNIX_PATH_SIZE)
from listener import CannotListen, Listener
from protocol import ADMIN_METHODS, ServerGone
from rpc import RpcClient
from text import URL

OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


def default_path(database, port):
    """Return the path of the admin socket of the server of this database and TCP port."""
    if URL.match(database):
        return "lavka-%d.sock" % port
    return os.path.realpath(database) + ".sock"


def chosen_path(options):
    """Return the path of the admin socket that the options of a program name."""
    return options.admin_socket or default_path(options.database, options.port)


@contextlib.contextmanager
def short_name(path):
    """Return a context with a name of the path that an address of a Unix socket has room for."""
    name = path if type(path) is str else path.encode(sys.getfilesystemencoding())      # 2.7
    directory = None
    try:
        if len(path.encode("utf-8", "replace")) > UNIX_PATH_SIZE:
            directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
            name = str("/proc/self/fd/%d/%s") % (directory, os.path.basename(name))
        yield name
    finally:
        if directory is not None:
            os.close(directory)


# --- the server's end -------------------------------------------------------------------------

class AdminListener(Listener):
    """Accepts operators on a Unix socket of mode 0600, of this path.

    It keeps a descriptor, so that an operator can connect when there are no others. Raises
    CannotListen.
    """
    methods = ADMIN_METHODS
    batch = 1               # a second accept(2) without a free descriptor would begin a pause

    def __init__(self, path, limiter):
        super(AdminListener, self).__init__([listen_at(path)], limiter)
        self.path = path
        self.identity = identity(path)
        self.spare = None               # descriptor kept
        self.keep_spare()

    def keep_spare(self):
        """Keep a descriptor, if there is one."""
        if self.spare is None:
            try:
                self.spare = os.open(os.devnull, os.O_RDONLY)
            except EnvironmentError:
                pass

    def accept_one(self, sock):
        try:
            accepted, _ = sock.accept()
        except socket.error as error:
            if error.errno not in OUT_OF_DESCRIPTORS or self.spare is None:
                raise
            os.close(self.spare)
            self.spare = None
            try:
                accepted, _ = sock.accept()
            except socket.error:                # nobody has come, or has gone again
                self.keep_spare()
                raise
        return accepted, ("admin", "socket")        # a client's socket has no address

    def close(self):
        """Remove the socket, unless the file of that name is another one by now.

        While it listens, no other server replaces it; so it is removed first. One that cannot be
        removed is stale for the next server.
        """
        if identity(self.path) == self.identity:
            try:
                os.remove(self.path)
            except EnvironmentError:
                pass
        super(AdminListener, self).close()


def identity(path):
    """Return (device, inode) of a file, None where there is none."""
    try:
        status = os.lstat(path)
    except EnvironmentError:
        return None
    return status.st_dev, status.st_ino


def listen_at(path):
    """Return a listening, non-blocking Unix socket of mode 0600. A stale one is replaced, one that
    a server listens on is not. Raises CannotListen, which names the option that helps."""
    place = "the admin socket %s" % path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with locked(os.path.dirname(path) or "."), short_name(path) as name:
            problem = remove_stale(path, name)
            if problem is None:
                umask = os.umask(0o177)     # mode 0600 from the first moment
                try:
                    sock.bind(name)
                finally:
                    os.umask(umask)
                sock.listen(LISTEN_QUEUE)
                sock.setblocking(False)
                return sock
    except EnvironmentError as error:
        problem = error.strerror or "its name is too long"      # without errno
    sock.close()
    raise CannotListen(place, "%s; --admin-socket names another one" % problem)


@contextlib.contextmanager
def locked(directory):
    """Return a context in which no other server that starts removes the socket as a stale one.

    A socket that is bound and does not listen yet looks stale. A server locks the directory for a
    moment only; so after FILE_LOCK_ATTEMPTS this one goes on without the lock.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        for _ in range(FILE_LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except EnvironmentError:
                time.sleep(FILE_LOCK_PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)


def remove_stale(path, name):
    """Remove a socket that nobody listens on; returns why the path cannot be used, or None.

    `name` is the short one. Raises EnvironmentError.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return "there is another file of that name"
    except EnvironmentError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except socket.error as error:
            if error.errno == errno.ECONNREFUSED:
                os.remove(path)
                return None
            if error.errno != errno.EAGAIN:         # its queue is full
                raise
    return "another server listens on it"


# --- the operator's end -----------------------------------------------------------------------

class AdminClient(RpcClient):
    """A blocking connection to the admin socket of a running server; see `RpcClient`."""

    def __init__(self, path, timeout=REPLY_SECONDS):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        super(AdminClient, self).__init__(sock, path, timeout)
        try:
            sock.settimeout(self.timeout)
            with short_name(path) as name:
                sock.connect(name)
        except EnvironmentError as error:
            sock.close()
            is_missing = error.errno in (errno.ENOENT, errno.ECONNREFUSED)
            raise ServerGone("not_running" if is_missing else "unreachable",
                             "No server answers at the admin socket %s: %s%s."
                             % (path, error.strerror or "its name is too long",
                                "; --admin-socket names another one" if is_missing else ""))

    def stats(self):
        """Return the server's statistics, by name."""
        return self._call("stats", {}, read_stats)

    def players(self):
        """Yield the players in order of their nicknames, {"nickname", "peer", "seconds"} each."""
        page = self._call("players", {}, read_players)
        while page:
            for player in page:
                yield player
            page = self._call("players", {"after": page[-1]["nickname"]}, read_players)

    def kick(self, nickname):
        """End the login of a player; return True."""
        return self._call("kick", {"nickname": nickname})


def read_stats(result):
    """Return the result of `stats`. Raises ValueError for one of another shape."""
    if type(result) is not dict:
        raise ValueError("not what the protocol says")
    return result


def read_players(result):
    """Return the result of `players`. Raises KeyError, TypeError or ValueError, as `read_stats`."""
    for player in result:
        player["nickname"], player["peer"], player["seconds"]
    return result
