# -*- coding: utf-8 -*-
"""The player's file of keys, one for each protected account of a server.

It is JSON: {server's address: {nickname: [keys, newest first]}}. Keys belong to an address, so that
no server gets the key of another one; with TLS, it begins with "tls://". An account may have
several keys: a new one is stored before it is sent, and until the server has answered, nobody knows
which of them is valid. Keys that were refused stay: another shop at that address may want them.
"""
from __future__ import unicode_literals

import binascii
import contextlib
import errno
import io
import json
import os
import stat
import sys
import time

try:
    import fcntl
except ImportError:             # only Unix has it; the library does without
    fcntl = None

from constants import FILE_LOCK_PAUSE_SECONDS, KEY_BYTES, KEY_LOCK_SECONDS, KEYS_KEPT, MAX_KEY_FILE
from log import monotonic
from text import Text, is_whole


def new_key():
    """Return a new key: random bits as lower-case hexadecimal digits."""
    return binascii.hexlify(os.urandom(KEY_BYTES)).decode("ascii")


def default_path():
    """Return the path of the file, by the XDG Base Directory Specification.

    It is relative if the player has no home directory.
    """
    folder = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(folder):       # unset, empty or invalid
        folder = os.path.expanduser(str("~/.local/share"))
    return os.path.join(folder, str("lavka"), str("keys.json"))


class KeyFileError(Exception):
    """The file cannot be read or written; the text is a sentence for the player."""


class KeyFile(object):
    """The file of keys at a path. It is read again at each call: other clients change it, too.

    `keys` and `replace` raise KeyFileError; the file is as it was then.
    """

    def __init__(self, path):
        self.path = path
        self.name = path                # for people
        if type(path) is not Text:
            self.name = path.decode(sys.getfilesystemencoding(), "replace")     # 2.7

    def keys(self, server, nickname):
        """Return the keys of an account, the newest first."""
        with self._failure_told("read"):
            return self._read().get(server, {}).get(nickname, [])

    def add(self, server, nickname, key):
        """Make a key the newest of an account, durably; `KEYS_KEPT` of them stay."""
        self._change(server, nickname, key, [key])

    def remove(self, server, nickname, key):
        """Remove a key of an account, durably."""
        self._change(server, nickname, key, [])

    def _change(self, server, nickname, key, newest):
        """Take a key out of those of an account, and put the newest before them."""
        with self._failure_told("written"), self._lock():
            servers = self._read()
            accounts = servers.setdefault(server, {})
            others = [other for other in accounts.get(nickname, []) if other != key]
            accounts[nickname] = (newest + others)[:KEYS_KEPT]
            if not accounts[nickname]:
                del accounts[nickname]
            if not accounts:
                del servers[server]
            self._write(servers)

    @contextlib.contextmanager
    def _failure_told(self, action):
        """Raise KeyFileError instead of an error of the body of the `with`."""
        try:
            if not os.path.isabs(self.path):
                raise EnvironmentError(errno.ENOENT, "there is no home directory")
            yield
        except EnvironmentError as error:
            raise KeyFileError("The file of keys, %s, cannot be %s: %s."
                               % (self.name, action, error.strerror))

    @contextlib.contextmanager
    def _lock(self):
        """Let no other client change the file meanwhile. The lock is gone with the process."""
        _make_private_folder(os.path.dirname(self.path))
        descriptor = _open_private(self.path + str(".lock"))
        try:
            deadline = monotonic() + KEY_LOCK_SECONDS
            while not _try_to_lock(descriptor):
                if monotonic() > deadline:
                    raise EnvironmentError(errno.EAGAIN, "another program keeps it locked")
                time.sleep(FILE_LOCK_PAUSE_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _read(self):
        """Return the keys, {server: {nickname: keys}}; empty if there is no file."""
        try:
            # Without O_NONBLOCK, opening a named pipe waits for a writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except EnvironmentError as error:
            if error.errno != errno.ENOENT:
                raise
            return {}
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise EnvironmentError(errno.EINVAL, "it is not a file")
            if status.st_size > MAX_KEY_FILE:
                raise EnvironmentError(errno.EFBIG, "it is too large")
            with io.open(descriptor, "rb", closefd=False) as file:
                data = file.read()
        finally:
            os.close(descriptor)
        try:
            servers = json.loads(data.decode("utf-8"))
        except (ValueError, RuntimeError):          # RuntimeError: nested too deep
            servers = None
        if not _is_well_formed(servers):
            raise EnvironmentError(errno.EINVAL, "its content is not that of a file of keys")
        return servers

    def _write(self, servers):
        """Write the file as a whole, or the one that it is a symbolic link to."""
        path = os.path.realpath(self.path)
        new = path + str(".new")
        if os.path.lexists(new):        # left by a client that was killed
            os.remove(new)
        with io.open(_open_private(new, os.O_EXCL), "w", encoding="utf-8") as file:
            file.write(Text(json.dumps(servers, ensure_ascii=False, sort_keys=True, indent=2,
                                       separators=(",", ": "))) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(folder)            # the name is durable, too
        finally:
            os.close(folder)


def _is_well_formed(servers):
    """Return whether a value of JSON is {server: {nickname: [keys]}}."""
    return type(servers) is dict and all(
        is_whole(server) and type(accounts) is dict and all(
            is_whole(nickname) and type(keys) is list
            and all(type(key) is Text and is_whole(key) for key in keys)
            for nickname, keys in accounts.items())
        for server, accounts in servers.items())


def _make_private_folder(path):
    """Make a folder and those above it, unless they exist, for their owner alone."""
    if os.path.isdir(path):
        return
    _make_private_folder(os.path.dirname(path))
    try:
        os.mkdir(path, 0o700)
    except EnvironmentError as error:
        if error.errno != errno.EEXIST:             # another client was faster
            raise
    else:
        os.chmod(path, 0o700)           # the umask may have taken the owner's rights, too


def _open_private(path, flags=0):
    """Open a file for its owner alone, make it if there is none; return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)    # the umask may have taken the owner's rights, too
    except EnvironmentError:
        os.close(descriptor)
        raise
    return descriptor


def _try_to_lock(descriptor):
    """Return whether an open file is locked now; it is not if another process has locked it."""
    if fcntl is None:
        raise EnvironmentError(errno.ENOSYS, "this system has no locks")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except EnvironmentError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False
