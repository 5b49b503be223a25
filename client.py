# -*- coding: utf-8 -*-
"""The client: a blocking connection to the server as a library, and the program that plays.

    python client.py [--host HOST] [--port PORT] [--tls [--ca FILE]]
                     [--nickname NAME [--json] [OPTION [ITEM]]]
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
import io
import logging
import socket
import ssl

import cli
import one_shot
import protocol
from console import Console, State          # noqa: F401  (State: for programs)
from constants import HOST, MAX_REPLY_SECONDS, PORT, REPLY_SECONDS
from keyfile import KeyFile, default_path, new_key      # noqa: F401  (new_key: for programs)
from login import Login
from protocol import ClientClosed, LavkaError, RpcError, ServerGone   # noqa: F401  (for programs)
from rpc import RpcClient, is_timeout, retry_interrupted
from terminal import run_on_terminal
from text import Text

__all__ = [str(name) for name in (      # 2.7 takes no unicode here
    "Client", "LavkaError", "RpcError", "ServerGone", "ClientClosed", "new_key")]

# --- the connection ---------------------------------------------------------------------------


class Client(RpcClient):
    """A blocking connection to the server; use it with `with`, or `close` it.

    With `tls`, an ssl.SSLContext, it is encrypted, and the server proves that it is `host`. Each
    method waits at most `timeout` seconds. It raises RpcError for a refused request. If no valid
    answer comes, it raises ServerGone and closes the connection: no later call gets that answer.
    Later calls raise ClientClosed. Arguments that make no connection raise ValueError.

    Threads may share it: their calls take turns.
    """

    def __init__(self, host=HOST, port=PORT, timeout=REPLY_SECONDS, tls=None):
        check_arguments(host, port, timeout, tls)
        address = protocol.address(host, port)
        # server, as the file of keys names it: a key made over TLS is never sent without
        self.server = "tls://" + address if tls else address
        try:
            sock = retry_interrupted(socket.create_connection, (host, port), float(timeout))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                with contextlib.closing(sock) as plain:         # if TLS fails, close it
                    sock = tls.wrap_socket(plain, server_hostname=host)
        except (socket.error, ssl.CertificateError, UnicodeError) as error:
            raise _connection_failure(address, error)
        super(Client, self).__init__(sock, address, timeout)

    def login(self, nickname, key=None):
        """Log in; return {"account": as `buy`, "created": bool, "catalog": [{"name", "price"}]}."""
        params = {"nickname": nickname} if key is None else {"nickname": nickname, "key": key}
        return self._call("login", params, read_login)

    def ping(self):
        """Ask whether the server is there; return "pong"."""
        return self._call("ping", {}, read_pong)

    def buy(self, item):
        """Buy an item; return the account, {"nickname": str, "credits": int, "items": [str]}."""
        return self._call("buy", {"item": item}, read_account)

    def sell(self, item):
        """Sell an owned item; return the account, as `buy`."""
        return self._call("sell", {"item": item}, read_account)

    def logout(self):
        """Free the nickname and keep the connection; return True."""
        return self._call("logout", {}, read_true)

    def protect(self, key):
        """Let the account open with this key only, in place of the last one; return True."""
        return self._call("protect", {"key": key}, read_true)


def check_arguments(host, port, timeout, tls):
    """Check the arguments of a Client. Raises ValueError, with a sentence."""
    if not isinstance(host, (str, Text)) or not host or "\0" in host:       # 2.7: str is bytes
        raise ValueError("host is text that is not empty and has no NUL, not %r." % (host,))
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ValueError("port is an int from 1 to 65535, not %r." % (port,))
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool) \
            or not 0 < timeout <= MAX_REPLY_SECONDS:
        raise ValueError("timeout is a number of seconds above 0, and at most %d, not %r."
                         % (MAX_REPLY_SECONDS, timeout))
    if tls is not None and not isinstance(tls, ssl.SSLContext):
        raise ValueError("tls is None or an ssl.SSLContext, not %r." % (tls,))


def _connection_failure(address, error):
    """Return the ServerGone for an error of connecting."""
    if isinstance(error, (ssl.SSLError, ssl.CertificateError)) and not is_timeout(error):
        detail = getattr(error, "verify_message", "") or _openssl_reason(error) or "%s" % error
        return ServerGone("tls_failed", "TLS with %s failed: %s." % (address, detail.rstrip(".")))
    no_server = "There is no server at %s" % address
    if getattr(error, "errno", None) == errno.ECONNREFUSED:
        return ServerGone("not_running", "%s." % no_server)
    # A UnicodeError, of an invalid host name, has no strerror.
    detail = "" if is_timeout(error) else getattr(error, "strerror", "this is no host name")
    return ServerGone("unreachable", "%s: %s." % (no_server, detail or "no answer"))


def _openssl_reason(error):
    """Return the reason of an ssl.SSLError in words: "wrong version number"."""
    return (getattr(error, "reason", "") or "").replace("_", " ").lower()


# Checks of results: each returns what it has checked. They raise ValueError, KeyError or TypeError
# for a result of another shape.

def read_login(result):
    """Return the result of `login`."""
    for item in result["catalog"]:
        _expect(item["name"], Text)
        _expect(item["price"], int)
    _expect(result["created"], bool)
    read_account(result)
    return result


def read_account(result):
    """Return the account in the result of `buy` or `sell`."""
    account = result["account"]
    _expect(account["nickname"], Text)
    _expect(account["credits"], int)
    for item in _expect(account["items"], list):
        _expect(item, Text)
    return account


def read_pong(result):
    """Return the result of `ping`."""
    if result != "pong":
        raise ValueError("not what the protocol says")
    return result


def read_true(result):
    """Return the result of `logout` or `protect`."""
    if result is not True:
        raise ValueError("not what the protocol says")
    return result


def _expect(value, kind):
    if type(value) is not kind:
        raise ValueError("not of the type that the protocol says")
    return value


# --- the command ------------------------------------------------------------------------------

def parse_arguments(arguments):
    """Return the options of the command line; `tls` is an ssl.SSLContext or None."""
    parser = cli.Parser(
        usage="%(prog)s [--host HOST] [--port PORT] [--tls [--ca FILE]]\n"
              "                 [--nickname NAME [--json] [OPTION [ITEM]]]",
        description="Play: log in, buy and sell. With OPTION, carry that out for a script and end; "
                    "the exit status is 0 if it is done, 1 if it was refused, 2 for wrong usage, 3 "
                    "without a server, or if a trade may or may not have gone through.")
    cli.add_address_options(parser)
    parser.add_argument("--tls", action="store_true",
                        help="encrypt, and have the server prove that it is HOST")
    parser.add_argument("--ca", metavar="FILE",
                        help="with --tls: trust the certificates in FILE, not the system's")
    parser.add_argument("--nickname", type=cli.text, metavar="NAME",
                        help="log in with it, without a question")
    parser.add_argument("--json", action="store_true",
                        help="with OPTION: print the account as one line of JSON")
    parser.add_argument("option", type=cli.text, nargs="?", metavar="OPTION",
                        help="balance, items, buy or sell")
    parser.add_argument("item", type=cli.text, nargs="?", metavar="ITEM", help="of buy and sell")
    options = parser.parse_args(arguments)
    if not options.port:
        parser.error("a client cannot connect to port 0")
    check_one_shot(parser, options)
    if options.ca and not options.tls:
        parser.error("--ca is of use only with --tls")
    try:
        options.tls = ssl.create_default_context(cafile=options.ca) if options.tls else None
    except EnvironmentError as error:                   # ssl.SSLError is one
        parser.error("there are no certificates in the file of --ca: %s"
                     % (_openssl_reason(error) or error.strerror))
    return options


def check_one_shot(parser, options):
    """Check --nickname and what belongs to it; OPTION becomes the name of the option."""
    if options.nickname is None:
        if options.json or options.option is not None:
            parser.error("--json and OPTION need --nickname")
        return
    problem = protocol.nickname_problem(options.nickname)
    if problem:
        parser.error("argument --nickname: %s" % problem)
    if options.json and options.option is None:
        parser.error("--json needs an OPTION")
    if options.option is not None:
        try:
            options.option = one_shot.chosen_option(options.option, options.item)
        except ValueError as problem:
            parser.error("argument OPTION: %s" % problem)


def advice_by_reason(host, port, tls):
    """Return what a player can do about a ServerGone, by its reason."""
    check = "Check --host and --port."
    flags = (" --host %s" % host if host != HOST else "") \
        + (" --port %d" % port if port != PORT else "")
    start = "Start one%s python server.py%s" % (":" if flags else " with:", flags)
    is_local = not tls and (host in ("localhost", "::1") or host.startswith("127."))
    return {"not_running": start if is_local else check, "unreachable": check, "not_lavka": check,
            "tls_failed": "Check --tls and --ca.", "no_answer": "Try logging in again.",
            "gone": "Log in again when it is back."}


def main(arguments=None):
    """Run the program; return its exit status."""
    options = parse_arguments(arguments)
    connect = functools.partial(Client, options.host, options.port, tls=options.tls)
    advice = advice_by_reason(options.host, options.port, options.tls)
    key_file = KeyFile(default_path())
    if options.option is None:
        return run_on_terminal(
            lambda terminal: Console(connect, advice, terminal, key_file, options.nickname).run())
    logging.basicConfig(format="%(message)s")
    # A script needs no input, and may want no output: what its parent has closed is /dev/null.
    sys.stdin = sys.stdin or io.open(os.devnull)
    sys.stdout = sys.stdout or io.open(os.devnull, "w")
    login = Login(options.nickname, connect, key_file)
    return run_on_terminal(lambda terminal: one_shot.run(
        options.option, options.item, login, advice, terminal, options.json))


if __name__ == "__main__":
    sys.exit(main())
