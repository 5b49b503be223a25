# -*- coding: utf-8 -*-
"""The client: a blocking connection to the server, and the console that a player types into.

    python client.py [--host HOST] [--port PORT] [--tls [--ca FILE]] [--stats]
"""
from __future__ import unicode_literals

import signal

if __name__ == "__main__":      # Ctrl-C is quiet from the first moment, and not from `main` on
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import contextlib
import errno
import itertools
import locale
import os
import re
import socket
import ssl
import sys
import time
from enum import Enum

import protocol
from constants import ANSWER_SECONDS, BACK, HOST, OPTIONS, PORT, RECV_SIZE
from protocol import RpcError, Text

monotonic = getattr(time, "monotonic", time.time)       # 2.7


# --- the connection -------------------------------------------------------------------------

class ServerGone(Exception):
    """No server, or none that answers; the text is a sentence for people.

    A request that was under way may or may not have been carried out.
    """


class Client(object):
    """A blocking connection to the server; use it with `with`, or `close` it.

    With `tls`, an ssl.SSLContext, it is encrypted, and the server proves that it is `host`. Each
    method waits at most `timeout` seconds. It raises `protocol.RpcError` when the server refuses,
    and `ServerGone` when no answer comes, or none that makes sense; the connection is closed then,
    so that no later call can take an earlier call's answer for its own.
    """

    def __init__(self, host=HOST, port=PORT, timeout=ANSWER_SECONDS, tls=None):
        self.address = protocol.address(host, port)
        self.timeout = timeout
        self._ids = itertools.count(1)
        self._lines = protocol.LineReader()
        try:
            self._sock = socket.create_connection((host, port), timeout)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                with contextlib.closing(self._sock) as plain:   # which then has given up its own
                    self._sock = tls.wrap_socket(plain, server_hostname=host)
        except (ssl.SSLError, ssl.CertificateError) as error:
            reason = getattr(error, "verify_message", "") or _tls_reason(error) or error
            raise ServerGone("TLS with %s failed: %s." % (self.address, reason))
        except (socket.error, UnicodeError) as error:   # UnicodeError: a host name that is none
            reason = getattr(error, "strerror", "this is no host name") or "no answer"
            raise ServerGone("There is no server at %s: %s." % (self.address, reason))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the connection, and with it the login."""
        self._sock.close()

    def login(self, nickname):
        """Log in; {"account": as `buy` has it, "created": bool, "catalog": [{"name", "price"}]}."""
        return self._call("login", {"nickname": nickname}, _read_login)

    def ping(self):
        """Ask whether the server is there; "pong"."""
        return self._call("ping", {}, _read_anything)

    def buy(self, item):
        """Buy an item of the catalog; {"nickname": str, "credits": int, "items": [str]}."""
        return self._call("buy", {"item": item}, _read_account)

    def sell(self, item):
        """Sell an owned item; the account, as `buy` has it."""
        return self._call("sell", {"item": item}, _read_account)

    def logout(self):
        """Free the nickname; the connection stays. True."""
        return self._call("logout", {}, _read_anything)

    def stats(self):
        """What the server counts, by name; only a server on this very machine tells."""
        return self._call("stats", {}, _read_stats)

    def _call(self, method, params, read):
        """One request and its answer, as `read` makes it of the result."""
        result = error = None
        answered = False
        try:
            id = next(self._ids)
            self._sock.settimeout(self.timeout)
            self._sock.sendall(protocol.encode_request(id, method, params))
            answer_id, result, error = protocol.parse_response(self._read_line())
            if error is None:
                result = read(result)
            if answer_id != id and (error is None or answer_id is not None):
                raise ValueError("the answer to something else")
            answered = answer_id == id      # else an error that ends the connection: server_full
        except socket.error as error:
            if isinstance(error, socket.timeout) or "timed out" in str(error):      # 2.7, with TLS
                raise ServerGone("The server has not answered for %g seconds." % self.timeout)
            raise ServerGone("The server is gone.")
        except (ValueError, KeyError, TypeError, RpcError):
            raise ServerGone("What answers at %s is not a Lavka server." % self.address)
        finally:
            if not answered:
                self.close()
        if error is not None:
            raise error
        return result

    def _read_line(self):
        deadline = monotonic() + self.timeout
        while True:
            line = self._lines.next_line()
            if line is not None:
                return line
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise socket.timeout()
            self._sock.settimeout(remaining)
            data = self._sock.recv(RECV_SIZE)
            if not data:
                raise socket.error(errno.ECONNRESET, "closed by the server")
            self._lines.feed(data)


def _tls_reason(error):
    """WRONG_VERSION_NUMBER, as OpenSSL has it, in words."""
    return (getattr(error, "reason", "") or "").replace("_", " ").lower()


def _read_anything(result):
    return result


def _read_login(result):
    for item in result["catalog"]:
        _expect(item["name"], Text)
        _expect(item["price"], int)
    _expect(result["created"], bool)
    _read_account(result)
    return result


def _read_stats(result):
    return _expect(result, dict)


def _read_account(result):
    account = result["account"]
    _expect(account["nickname"], Text)
    _expect(account["credits"], int)
    for item in _expect(account["items"], list):
        _expect(item, Text)
    return account


def _expect(value, kind):
    if type(value) is not kind:
        raise ValueError("not as the protocol has it")
    return value


# --- the console ----------------------------------------------------------------------------

class State(Enum):
    """What the player's next line is taken for."""
    LOGIN = "a nickname"
    GAME_SESSION = "an option"


class Console(object):
    """The state machine between a player's lines and the server's answers.

    `account` and `catalog` are the cache: what the server told at login and after each trade.
    """

    def __init__(self, connect):
        self.connect = connect          # returns a Client
        self.steps = {State.LOGIN: self.log_in, State.GAME_SESSION: self.play}
        self.options = {"balance": self.show_balance, "items": self.show_items, "buy": self.buy,
                        "sell": self.sell, "logout": self.logout}
        self.client = None
        self.leave()

    def run(self):
        """Take lines until the input ends (EOFError) or the player interrupts
        (KeyboardInterrupt)."""
        while True:
            try:
                self.steps[self.state]()
            except RpcError as refusal:     # of a login, or of a session that is none any more
                say(refusal.message)
                self.leave()
            except ServerGone as gone:
                say("%s" % gone)
                self.leave()

    def leave(self):
        """Go to State.LOGIN, with no connection and nothing cached."""
        if self.client:
            self.client.close()
        self.state = State.LOGIN
        self.client = None
        self.account = None
        self.catalog = []

    # --- State.LOGIN ------------------------------------------------------------------------

    def log_in(self):
        nickname = ask("Nickname: ")
        problem = protocol.nickname_problem(nickname)
        if problem:
            return say(problem)
        self.client = self.connect()
        login = self.client.login(nickname)
        self.state = State.GAME_SESSION
        self.account = login["account"]
        self.catalog = login["catalog"]
        say("Welcome%s, %s!" % (" to the shop" if login["created"] else " back", nickname))
        self.show_balance()
        self.show_items()
        self.show_options()

    # --- State.GAME_SESSION -------------------------------------------------------------------

    def play(self):
        word = ask("> ").strip()
        while word is not None:         # an option typed at the question for an item is the next
            word = self.choose(word)

    def choose(self, word):
        """Carry out an option; returns the one to go on with, or None."""
        self.client.ping()              # whatever was typed, a lost server is noticed now
        if word.lower() in self.options:
            return self.options[word.lower()]()
        if word:
            say("There is no option \"%s\"." % word)
            self.show_options()

    def buy(self):
        say("For sale:")
        for item in self.catalog:
            say("  %-12s %6d" % (item["name"], item["price"]))
        return self.trade("buy", self.client.buy)

    def sell(self):
        if not self.account["items"]:
            return say("You have nothing to sell.")
        self.show_items()
        return self.trade("sell", self.client.sell)

    def trade(self, verb, request):
        """Ask for an item until one was traded or the player wants something else: an option, which
        is returned, or None."""
        names = {item["name"].lower(): item["name"] for item in self.catalog}
        names.update((name.lower(), name) for name in self.account["items"])
        while True:
            word = ask("What do you %s? (or %s) " % (verb, BACK)).strip()
            if word.lower() in names:
                if self.request(verb, request, names[word.lower()]):
                    return None
            elif word.lower() in self.options:
                return word
            else:
                self.client.ping()
                if word.lower() == BACK:
                    return None
                if word:
                    say("There is no \"%s\" in the catalog." % word)

    def request(self, verb, request, item):
        """Have the server trade; returns whether it did. Raises RpcError when the login is lost."""
        try:
            self.account = request(item)
        except RpcError as refusal:
            if refusal.reason == "not_logged_in":
                raise
            say(refusal.message)
            return False
        except ServerGone as gone:
            raise ServerGone("%s It may or may not have let you %s the %s: your next login "
                             "will show." % (gone, verb, item))
        say("Congratulations! You %s the %s." % ("bought" if verb == "buy" else "sold", item))
        self.show_balance()
        return True

    def logout(self):
        nickname = self.account["nickname"]
        self.client.logout()
        self.leave()
        say("Good bye, %s." % nickname)

    # --- what the player sees -----------------------------------------------------------------

    def show_balance(self):
        say("You have %d credits." % self.account["credits"])

    def show_items(self):
        items = self.account["items"]
        say("Your items: %s." % ", ".join(items) if items else "You have no items.")

    def show_options(self):
        say("Options: %s." % ", ".join(OPTIONS))


def ask(prompt):
    """The player's next line, as text. Raises EOFError at the end of the input."""
    encoding = sys.stdin.encoding or locale.getpreferredencoding()
    while True:
        write(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError()
        try:
            if type(line) is not Text:
                line = line.decode(encoding)            # 2.7
            line.encode("utf-8")                        # else fails here: see `main`
            return line[:-1] if line.endswith("\n") else line
        except UnicodeError:
            say("That is not text in %s." % encoding)


def say(text):
    """Print a line. What the terminal would take for a command is escaped."""
    write(_CONTROL.sub(lambda match: "\\x%02x" % ord(match.group()), text) + "\n")


def write(text):
    """Print text at once. What the terminal cannot show is escaped."""
    encoding = sys.stdout.encoding or locale.getpreferredencoding()
    stream = getattr(sys.stdout, "buffer", sys.stdout)  # bytes go to sys.stdout itself on 2.7
    stream.write(text.encode(encoding, "backslashreplace"))
    stream.flush()


def show_stats(connect):
    """Print what the server counts, a line each; returns the exit status."""
    try:
        with connect() as client:
            figures = client.stats()
    except ServerGone as gone:
        say("%s" % gone)
        return 1
    except RpcError as refusal:
        say("The server tells this only on the machine that it runs on."
            if refusal.reason == "method_not_found" else refusal.message)
        return 1
    for name, value in sorted(figures.items()):
        if type(value) is dict:
            value = ", ".join("%s %s" % item for item in sorted(value.items())) or "none"
        say("%-18s %s" % (name, value))
    return 0


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def main(arguments=None):
    """Run the console; returns the exit status."""
    parser = argparse.ArgumentParser(description="Play: log in, buy and sell.")
    protocol.add_address_options(parser)
    parser.add_argument("--tls", action="store_true",
                        help="encrypt, and have the server prove that it is HOST")
    parser.add_argument("--ca", metavar="FILE",
                        help="with --tls: trust the certificates in FILE, not the system's")
    parser.add_argument("--stats", action="store_true",
                        help="do not play; print what a server on this machine counts")
    options = parser.parse_args(arguments)
    if options.ca and not options.tls:
        parser.error("--ca is of use only with --tls")
    try:
        tls = ssl.create_default_context(cafile=options.ca) if options.tls else None
    except EnvironmentError as error:                   # ssl.SSLError is one
        parser.error("there are no certificates in the file of --ca: %s"
                     % (_tls_reason(error) or error.strerror))

    def connect():
        return Client(options.host, options.port, tls=tls)

    if sys.stdin is None or sys.stdout is None:         # closed by whoever started us
        return 1
    if hasattr(sys.stdin, "reconfigure"):               # 3.x: a bad byte costs its line, no more
        sys.stdin.reconfigure(errors="surrogateescape")
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if options.stats:
                return show_stats(connect)
            Console(connect).run()
        except EOFError:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            status = 0
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)        # once is enough
            status = 128 + signal.SIGINT                # as shells have it
        write("\n")                                     # the shell's prompt gets its own line
    except EnvironmentError:                            # the terminal or pipe is no longer there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # where the exit may flush to
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
