# -*- coding: utf-8 -*-
"""A player's login: the connection, the nickname, and the keys that may open the account."""
from __future__ import unicode_literals

from keyfile import KeyFileError, new_key
from protocol import RpcError

# Refusals of a login that another key may avoid; a server older than keys knows no param for them.
KEY_REFUSALS = ("key_required", "wrong_key", "invalid_params")


class Login(object):
    """A login to an account, with the keys that the player's file has for it.

    The file may fail without ending the login: `file_problem` is a sentence about the last failure.
    """

    def __init__(self, nickname, connect, key_file):
        self.nickname = nickname
        self.connect = connect          # function that returns a new Client
        self.key_file = key_file
        self.client = None              # connection
        self.keys = []                  # keys that may be the account's, the newest first
        self.key = None                 # key that the server has accepted, None if it needed none
        self.is_new = False             # the login has opened the account
        self.file_problem = None

    def close(self):
        """End the connection, if there is one."""
        if self.client:
            self.client.close()

    def open(self):
        """Connect, and log in with the keys of the file; return the result of `Client.login`.

        Raises ServerGone and RpcError: `key_required` if the account needs another key.
        """
        self.client = self.connect()
        try:
            self.keys = self.key_file.keys(self.client.server, self.nickname)
        except KeyFileError as problem:
            self.file_problem = "%s" % problem
        return self._log_in(self.keys + [None])

    def open_with(self, key):
        """Connect again, and log in with a key that the player has typed, as `open`."""
        self.client = self.connect()
        return self._log_in([None, key])        # None first: the account may need none any more

    def tell_file_problem(self, terminal):
        """Print what went wrong with the file of keys, once; return whether anything did."""
        problem, self.file_problem = self.file_problem, None
        if problem:
            terminal.say_error(problem)
        return problem is not None

    def _log_in(self, keys):
        """Log in with the first of the keys that is right, and make it the newest in the file."""
        result = self._try_keys(keys)
        if self.key is not None and self.keys[:1] != [self.key]:
            self._change_file(self.key_file.add, self.key)
        return result

    def _try_keys(self, keys):
        for key in keys[:-1]:
            try:
                return self._try_key(key)
            except RpcError as refusal:
                if refusal.reason not in KEY_REFUSALS:
                    raise
        return self._try_key(keys[-1])

    def _try_key(self, key):
        """Log in with a key, or without one if it is None."""
        result = self.client.login(self.nickname, key)
        self.key = key
        self.is_new = result["created"]
        return result

    def protect(self):
        """Protect the account with a new key.

        It is stored before it is sent, beside the old one: the answer may never come. Raises
        KeyFileError if it cannot be stored, RpcError, and ServerGone: either key may be valid then.
        """
        key = new_key()
        self.key_file.add(self.client.server, self.nickname, key)
        try:
            self.client.protect(key)
        except RpcError as refusal:
            if refusal.reason != "internal_error":      # after a defect, either may be valid
                self._change_file(self.key_file.remove, key)
            raise
        self.key = key

    def _change_file(self, change, key):
        try:
            change(self.client.server, self.nickname, key)
        except KeyFileError as problem:
            self.file_problem = "%s" % problem
