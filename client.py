# -*- coding: utf-8 -*-
"""The client: a blocking connection to the server as a library, and the program that plays.

    python client.py [--host HOST] [--port PORT] [--tls [--ca FILE]] [--stats]
"""
from __future__ import unicode_literals

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))     # PYTHONSAFEPATH omits it
    import cli
    cli.prepare_process()

import contextlib
import errno
import functools
import itertools
import socket
import ssl

import cli
import protocol
from console import Console, State, advice_by_reason    # noqa: F401  (State: for programs)
from constants import HOST, PORT, RECV_SIZE, REPLY_SECONDS
from keyfile import KeyFile, default_path, new_key      # noqa: F401  (new_key: for programs)
from log import monotonic
from protocol import RpcError, ServerGone
from terminal import run_on_terminal

# --- the connection ---------------------------------------------------------------------------


class Client(object):
    """A blocking connection to the server; use it with `with`, or `close` it.

    With `tls`, an ssl.SSLContext, it is encrypted, and the server proves that it is `host`. Each
    method waits at most `timeout` seconds. It raises RpcError for a refused request. If no valid
    answer comes, it raises ServerGone and closes the connection: no later call gets that answer.
    """

    def __init__(self, host=HOST, port=PORT, timeout=REPLY_SECONDS, tls=None):
        self.address = protocol.address(host, port)
        # server, as the file of keys names it: a key made over TLS is never sent without
        self.server = "tls://" + self.address if tls else self.address
        self.timeout = float(timeout)
        self._ids = itertools.count(1)
        self._lines = protocol.LineReader()
        try:
            self._sock = _retry_interrupted(socket.create_connection, (host, port), self.timeout)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                with contextlib.closing(self._sock) as plain:   # if TLS fails, close it
                    self._sock = tls.wrap_socket(plain, server_hostname=host)
        except (socket.error, ssl.CertificateError, UnicodeError) as error:
            raise _connection_failure(self.address, error)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the connection, and with it the login."""
        self._sock.close()

    def login(self, nickname, key=None):
        """Log in; return {"account": as `buy`, "created": bool, "catalog": [{"name", "price"}]}."""
        params = {"nickname": nickname} if key is None else {"nickname": nickname, "key": key}
        return self._call("login", params, protocol.read_login)

    def ping(self):
        """Ask whether the server is there; return "pong"."""
        return self._call("ping", {})

    def buy(self, item):
        """Buy an item; return the account, {"nickname": str, "credits": int, "items": [str]}."""
        return self._call("buy", {"item": item}, protocol.read_account)

    def sell(self, item):
        """Sell an owned item; return the account, as `buy`."""
        return self._call("sell", {"item": item}, protocol.read_account)

    def logout(self):
        """Free the nickname and keep the connection; return True."""
        return self._call("logout", {})

    def protect(self, key):
        """Let the account open with this key only, in place of the last one; return True."""
        return self._call("protect", {"key": key}, protocol.read_true)

    def stats(self):
        """Return the server's statistics by name; it answers only clients on its own machine."""
        return self._call("stats", {}, protocol.read_stats)

    def _call(self, method, params, read_result=lambda result: result):
        """Send a request; return the result of its response as `read_result` returns it."""
        request_id = next(self._ids)
        line = protocol.encode_request(request_id, method, params)
        is_answered = False
        try:
            self._sock.settimeout(self.timeout)
            self._sock.sendall(line)
            response_id, result, refusal = protocol.parse_response(self._read_line())
            if refusal is None:
                result = read_result(result)
            is_answered = response_id == request_id
            # Without an id, an error such as server_full is the last before the connection closes.
            if not is_answered and (response_id is not None or refusal is None or
                                    refusal.reason not in protocol.CLOSING_REASONS):
                raise ValueError("the response to another request")
        except socket.error as error:
            if _is_timeout(error):
                raise ServerGone(
                    "no_answer", "The server has not answered for %g seconds." % self.timeout)
            raise ServerGone("gone", "The server is gone.")
        except (ValueError, KeyError, TypeError, RpcError):
            raise ServerGone(
                "not_lavka", "What answers at %s is not a Lavka server." % self.address)
        finally:
            if not is_answered:
                self.close()
        if refusal is not None:
            raise refusal
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
            data = _retry_interrupted(self._sock.recv, RECV_SIZE)
            if not data:
                raise socket.error(errno.ECONNRESET, "closed by the server")
            self._lines.feed(data)


def _retry_interrupted(call, *arguments):
    """Call again after a signal (PEP 475); on 2.7, resizing the terminal interrupts a call."""
    while True:
        try:
            return call(*arguments)
        except socket.error as error:
            if error.errno != errno.EINTR:
                raise


def _connection_failure(address, error):
    """Return the ServerGone for an error of connecting."""
    if isinstance(error, (ssl.SSLError, ssl.CertificateError)) and not _is_timeout(error):
        detail = getattr(error, "verify_message", "") or _openssl_reason(error) or "%s" % error
        return ServerGone("tls_failed", "TLS with %s failed: %s." % (address, detail.rstrip(".")))
    no_server = "There is no server at %s" % address
    if getattr(error, "errno", None) == errno.ECONNREFUSED:
        return ServerGone("not_running", "%s." % no_server)
    # A UnicodeError, of an invalid host name, has no strerror.
    detail = "" if _is_timeout(error) else getattr(error, "strerror", "this is no host name")
    return ServerGone("unreachable", "%s: %s." % (no_server, detail or "no answer"))


def _is_timeout(error):
    return isinstance(error, socket.timeout) or "timed out" in str(error)       # 2.7, with TLS


def _openssl_reason(error):
    """Return the reason of an ssl.SSLError in words: "wrong version number"."""
    return (getattr(error, "reason", "") or "").replace("_", " ").lower()


# --- the command ------------------------------------------------------------------------------

def show_stats(connect, advice, terminal):
    """Print the server's statistics, a line each; return the exit status."""
    try:
        with connect() as client:
            stats = client.stats()
    except ServerGone as gone:
        terminal.say_error(gone.message, advice[gone.reason])
        return 1
    except RpcError as refusal:
        terminal.say("The server tells this only on the machine that it runs on."
                     if refusal.reason == "method_not_found" else refusal.message)
        return 1
    for name, value in sorted(stats.items()):
        if type(value) is dict:
            value = ", ".join("%s %s" % item for item in sorted(value.items())) or "none"
        terminal.say("%-18s %s" % (name, value))
    return 0


def parse_arguments(arguments):
    """Return the options of the command line; `tls` is an ssl.SSLContext or None."""
    parser = cli.Parser(description="Play: log in, buy and sell.")
    cli.add_address_options(parser)
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
        options.tls = ssl.create_default_context(cafile=options.ca) if options.tls else None
    except EnvironmentError as error:                   # ssl.SSLError is one
        parser.error("there are no certificates in the file of --ca: %s"
                     % (_openssl_reason(error) or error.strerror))
    return options


def main(arguments=None):
    """Run the program; return its exit status."""
    options = parse_arguments(arguments)
    connect = functools.partial(Client, options.host, options.port, tls=options.tls)
    advice = advice_by_reason(options.host, options.port, options.tls)
    if options.stats:
        return run_on_terminal(lambda terminal: show_stats(connect, advice, terminal))
    key_file = KeyFile(default_path())
    return run_on_terminal(lambda terminal: Console(connect, advice, terminal, key_file).run())


if __name__ == "__main__":
    sys.exit(main())
