# -*- coding: utf-8 -*-
"""A blocking connection to a server: one request, then its response."""
from __future__ import unicode_literals

import errno
import itertools
import socket
import threading

import protocol
from constants import RECV_SIZE
from log import monotonic
from protocol import ClientClosed, RpcError, ServerGone
from text import Text


class RpcClient(object):
    """Calls methods over a socket; use it with `with`, or `close` it.

    `address` is the server's, for people. Each call waits at most `timeout` seconds. It raises
    RpcError for a refused request. If no valid answer comes, it raises ServerGone and closes the
    connection: no later call gets that answer. Later calls raise ClientClosed.

    Threads may share it: their calls take turns.
    """

    def __init__(self, sock, address, timeout):
        self.address = address
        self.timeout = float(timeout)
        self._sock = sock
        self._is_closed = False
        # Held from a request to its response; reentrant, for a signal handler that closes.
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._lines = protocol.LineReader()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        text = "<%s %s%s>" % (
            type(self).__name__, self.address, ", closed" if self._is_closed else "")
        return text if str is Text else text.encode("ascii", "backslashreplace")        # 2.7

    def close(self):
        """End the connection, and with it the login, once the call of another thread has ended.

        Closing the socket under that call could make it read from a descriptor opened meanwhile.
        """
        with self._lock:
            self._is_closed = True
            self._sock.close()

    def _call(self, method, params, read_result=lambda result: result):
        """Send a request; return the result of its response as `read_result` returns it."""
        with self._lock:
            if self._is_closed:
                raise ClientClosed()
            request_id = next(self._ids)
            line = protocol.encode_request(request_id, method, params)
            return self._exchange(request_id, line, read_result)

    def _exchange(self, request_id, line, read_result):
        """Send the line of a request; return or raise as `_call`."""
        is_answered = False
        try:
            self._send(line)
            response_id, result, refusal = protocol.parse_response(self._read_line())
            if refusal is None:
                result = read_result(result)
            is_answered = response_id == request_id
            # Without an id, an error such as server_full is the last before the connection closes.
            if not is_answered and (response_id is not None or refusal is None or
                                    refusal.reason not in protocol.CLOSING_REASONS):
                raise ValueError("the response to another request")
        except socket.error as error:
            if is_timeout(error):
                raise ServerGone(
                    "no_answer", "The server did not answer within %g seconds." % self.timeout)
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

    def _send(self, line):
        """Send a line. If the server has closed already, its last reply may say why: no error."""
        self._sock.settimeout(self.timeout)
        try:
            self._sock.sendall(line)
        except socket.error as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise

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
            # 2.7: without the lambda, a socket that a signal handler closes would stay open.
            data = retry_interrupted(lambda: self._sock.recv(RECV_SIZE))
            if not data:
                raise socket.error(errno.ECONNRESET, "closed by the server")
            self._lines.feed(data)


def retry_interrupted(call, *arguments):
    """Call again after a signal (PEP 475); on 2.7, resizing the terminal interrupts a call."""
    while True:
        try:
            return call(*arguments)
        except socket.error as error:
            if error.errno != errno.EINTR:
                raise


def is_timeout(error):
    return isinstance(error, socket.timeout) or "timed out" in str(error)       # 2.7, with TLS
