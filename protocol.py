# -*- coding: utf-8 -*-
"""The wire: JSON-RPC 2.0, one message a line, as functions of bytes and values.

Both ends use this module: the server parses requests and encodes responses, the client the other
way round. Invariant: whatever bytes come in, only `RpcError` is raised, and `ValueError` for a line
that is no response; any other exception is a defect of this module.

The rules are those of https://www.jsonrpc.org/specification; docs/protocol.md describes the wire.
"""
from __future__ import unicode_literals

import json
import re
from collections import namedtuple
from enum import Enum

from constants import KEY_LENGTHS, MAX_BATCH, MAX_DEPTH, MAX_DIGITS, MAX_LINE, MAX_NICKNAME
from text import WHITE_SPACE, Text, is_whole

_ID_TYPES = frozenset([Text, int, type(2 ** 64), float, type(None)])     # long on 2.7; never bool
_PARAMS_TYPES = frozenset([dict, list, tuple])
_NULL = b"null"


class ErrorCode(Enum):
    """Every error of the wire, as (code, reason); both are stable."""
    PARSE_ERROR = (-32700, "parse_error")
    INVALID_REQUEST = (-32600, "invalid_request")
    LINE_TOO_LONG = (-32600, "line_too_long")
    METHOD_NOT_FOUND = (-32601, "method_not_found")
    INVALID_PARAMS = (-32602, "invalid_params")
    INTERNAL_ERROR = (-32603, "internal_error")
    STORAGE_FAILED = (-32000, "storage_failed")
    SERVER_FULL = (-32001, "server_full")
    NOT_LOGGED_IN = (1001, "not_logged_in")
    ALREADY_LOGGED_IN = (1002, "already_logged_in")
    NICKNAME_IN_USE = (1003, "nickname_in_use")
    KEY_REQUIRED = (1004, "key_required")
    WRONG_KEY = (1005, "wrong_key")
    UNKNOWN_ITEM = (2001, "unknown_item")
    ITEM_ALREADY_OWNED = (2002, "item_already_owned")
    NOT_ENOUGH_CREDITS = (2003, "not_enough_credits")
    ITEM_NOT_OWNED = (2004, "item_not_owned")

    def error(self, message, **data):
        """Return an `RpcError` of this code; `data` goes to the peer beside the reason."""
        code, reason = self.value
        return RpcError(code, message, dict(data, reason=reason))


# After a refusal for one of these reasons, the server closes the connection.
CLOSING_REASONS = frozenset(["line_too_long", "server_full", "http", "tls", "proxy"])


class LavkaError(Exception):
    """A call has failed; the base class of the errors below. As text, a sentence for people.

    Each has `message`, which is the sentence, `reason` and `code`. These two are stable; `code` is
    None unless the server has sent the error.
    """

    def __str__(self):
        return self.message


class RpcError(LavkaError):
    """A request was refused; `data` is a dict with the reason and further figures."""

    def __init__(self, code, message, data):
        super(RpcError, self).__init__(code, message, data)
        self.code = code
        self.reason = data.get("reason")
        self.message = message
        self.data = data


class ServerGone(LavkaError):
    """There is no server, or none that answers.

    The reasons `not_running`, `unreachable` and `tls_failed` come from connecting, before any
    request. With `no_answer`, `gone` and `not_lavka`, the last request may have been applied.
    """
    code = None

    def __init__(self, reason, message):
        super(ServerGone, self).__init__(reason, message)
        self.reason, self.message = reason, message


class ClientClosed(LavkaError):
    """A call came after `close`, or after an error that has closed the client; nothing was sent."""
    code = None
    reason = "closed"
    message = "This client is closed: make a new one."


def nickname_problem(nickname):
    """Return what is wrong with a nickname, as a sentence; None when an account may have it."""
    if type(nickname) is not Text:
        return "A nickname is text."
    if not nickname.strip(WHITE_SPACE):
        return "A nickname cannot be blank."
    if not is_whole(nickname):
        return "A nickname must be Unicode text; this one has half a character."
    # A narrow build of 2.7 counts two for a character beyond U+FFFF; UTF-32 counts one.
    if len(nickname) > MAX_NICKNAME and len(nickname.encode("utf-32-le")) // 4 > MAX_NICKNAME:
        return "A nickname has at most %d characters." % MAX_NICKNAME
    if "\0" in nickname:
        return "A nickname cannot contain a NUL character."
    return None


_is_key = re.compile("[ -~]{%d,%d}\\Z" % KEY_LENGTHS).match


def key_problem(key):
    """Return what is wrong with a key, as a sentence; None when it may be the key of an account."""
    if type(key) is Text and _is_key(key):
        return None
    return "A key is %d to %d characters of printable ASCII." % KEY_LENGTHS


def _item_problem(item):
    return None if type(item) is Text else "An item's name is text."


TCP, ADMIN = frozenset(["TCP"]), frozenset(["admin socket"])

# A method: the sockets on which it exists; the names of its params; how many of them it needs, the
# others may be missing; whether it needs a login; whether its reply tells of the account, and so
# waits until the account's changes are stored.
Method = namedtuple("Method", "sockets params required needs_login tells_account")
METHODS = {
    "login": Method(TCP, ("nickname", "key"), 1, needs_login=False, tells_account=True),
    "ping": Method(TCP | ADMIN, (), 0, needs_login=False, tells_account=False),
    "buy": Method(TCP, ("item",), 1, needs_login=True, tells_account=True),
    "sell": Method(TCP, ("item",), 1, needs_login=True, tells_account=True),
    "logout": Method(TCP, (), 0, needs_login=True, tells_account=False),
    "protect": Method(TCP, ("key",), 1, needs_login=True, tells_account=True),
    "stats": Method(ADMIN, (), 0, needs_login=False, tells_account=False),
    "players": Method(ADMIN, ("after",), 0, needs_login=False, tells_account=False),
    "kick": Method(ADMIN, ("nickname",), 1, needs_login=False, tells_account=False),
}
TCP_METHODS = {name: method for name, method in METHODS.items() if TCP <= method.sockets}
ADMIN_METHODS = {name: method for name, method in METHODS.items() if ADMIN <= method.sockets}
_PARAM_PROBLEMS = {"nickname": nickname_problem, "after": nickname_problem, "key": key_problem,
                   "item": _item_problem}


# --- bytes to lines ---------------------------------------------------------------------------

class LineReader(object):
    """Cuts the bytes that arrive into lines, however they were split on the way.

    The beginning of an incomplete line is kept in a bytearray, so that a line that arrives byte by
    byte is not copied with each of them. While there is nothing to keep, as with idle players, an
    empty tuple and empty bytes, which all readers share, stand for the list and the bytearray.
    """
    __slots__ = ("lines", "_tail")

    def __init__(self):
        self.lines = ()         # list of complete lines without their ends, the oldest one last
        self._tail = b""        # the incomplete line, a bytearray

    def feed(self, data):
        """Take bytes, in any portion."""
        lines = data.split(b"\n")
        tail = lines.pop()
        if lines:
            if self._tail:
                lines[0] = bytes(self._tail) + lines[0]
                self._tail = b""
            lines.reverse()
            lines += self.lines
            self.lines = lines
        if tail:
            if not self._tail:
                self._tail = bytearray()
            self._tail += tail
            if len(self._tail) > MAX_LINE or self._tail.startswith(_TLS):
                self.lines = [bytes(self._tail)] + list(self.lines)     # refused, wherever it ends

    def next_line(self):
        """Return the next line that is not empty, without its end; None when none is complete.

        Raises RpcError as `check_length`.
        """
        while self.lines:
            line = self.lines.pop()
            check_length(line)
            if line not in EMPTY_LINES:
                return line
        return None


EMPTY_LINES = (b"", b"\r")


def check_length(line):
    """Raises LINE_TOO_LONG for a line of more than `MAX_LINE` bytes, its end included, and for an
    incomplete one of that size. Its reader is of no use then: nobody knows where the next line
    begins."""
    if len(line) >= MAX_LINE:
        raise ErrorCode.LINE_TOO_LONG.error("A line has at most %d bytes." % MAX_LINE)


# --- lines to values --------------------------------------------------------------------------

def _refuse_constant(name):
    raise ValueError("%s is not JSON" % name)


def _finite_float(digits):
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number beyond the range of a double")
    return number


def _bounded_int(digits):
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number of more than %d digits" % MAX_DIGITS)
    return int(digits)


# `scan_once` instead of `raw_decode`, which calls it: a twentieth of a request less.
_read_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float).scan_once
_read_long_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float,
                                   parse_int=_bounded_int).scan_once

# UTF-8 never encodes U+D800 to U+DFFF (RFC 3629, section 3), but the decoder of 2.7 accepts it.
_encoded_surrogate = re.compile(b"\xed[\xa0-\xbf]").search


def _decode(line):
    """Return the JSON value of a line. Raises ValueError for anything else."""
    if b"\xed" in line and _encoded_surrogate(line):
        raise ValueError("not UTF-8")
    text = Text(line, "utf-8").strip(" \t\r\n")        # what JSON has for white space
    try:
        value, end = (_read_json if len(text) <= MAX_DIGITS else _read_long_json)(text, 0)
    except StopIteration:
        raise ValueError("no value")
    except RuntimeError:                # the base class of RecursionError, which 2.7 lacks
        raise ValueError("nested too deep")
    if end < len(text):
        raise ValueError("more than one value")
    # The same limit on every interpreter; each has another one of its own.
    if len(text) > MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise ValueError("nested too deep")
    return value


def _is_deep(value):
    level = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [child for parent in level
                 for child in (parent.values() if type(parent) is dict else parent)
                 if type(child) in (dict, list)]
    return bool(level)


# --- requests (the server reads them, the client writes them) ---------------------------------

class Request(object):
    """One call of a method.

    `method` and `arguments`, the values of its params or None for a missing one, say what to do;
    `error`, an RpcError, says instead why nothing can be done, and `method` is None then. The reply
    has `id`, which is JSON, as bytes: it is only sent back. That of a notification, which gets no
    reply, is empty.
    """
    __slots__ = ("id", "method", "arguments", "error")

    def __init__(self, id, method=None, arguments=(), error=None):
        self.id = id
        self.method = method
        self.arguments = arguments
        self.error = error

    def subject(self):
        """Return the nickname or item that the request is about, None if there is none.

        This is what may be logged: a key may not.
        """
        if self.arguments and METHODS[self.method].params[0] != "key":
            return self.arguments[0]
        return None


# The requests of a session, as client.py and most clients write them. Values have no escapes, and
# begin with no space, so that they may be nicknames.
_PLAIN = re.compile(
    br'\{"jsonrpc": ?"2\.0"(?:, ?"id": ?(0|[1-9][0-9]{0,17}))?, ?"method": ?"([a-z]+)"'
    br'(?:, ?"params": ?\{(?:"([a-z]+)": ?"([!#-\[\]-~][ !#-\[\]-~]{0,254})")?\})?'
    br'(?:, ?"id": ?(0|[1-9][0-9]{0,17}))?\}\r?\Z').match
# (method, its param) -> name of the method, values of the params that are missing
_PLAIN_METHODS = {
    (b"ping", None): ("ping", ()), (b"logout", None): ("logout", ()),
    (b"buy", b"item"): ("buy", ()), (b"sell", b"item"): ("sell", ()),
    (b"login", b"nickname"): ("login", (None,)),
}
_NOT_PLAIN = (None, ())


# The beginnings of other protocols' lines: requests of HTTP (RFC 9110, section 9), which a web page
# can make a browser send; the handshake of TLS (RFC 8446, section 5.1); PROXY headers of versions 1
# and 2. Such a line ends the connection without a reply.
_OTHER_PROTOCOL = re.compile(
    br"(?P<http>(?:GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH) |Host:)"
    br"|(?P<tls>\x16\x03)|(?P<proxy>PROXY |\0\r\Z)").match
_TLS = b"\x16\x03"              # a handshake may have no end of line


def parse(line, methods):
    """Return the Request in a line from a client, a list of them for a batch, None for no line.

    `methods` are those of its socket: TCP_METHODS or ADMIN_METHODS. A request that is wrong in
    itself is returned with its error, so that those beside it in a batch are carried out. A line
    without any request is returned as one Request with an error.
    """
    match = _PLAIN(line)                # much faster than the decoder, for the same Request
    if match is not None:
        id, method, param, value, id_at_end = match.groups()
        method, missing = _PLAIN_METHODS.get((method, param), _NOT_PLAIN)
        if method in methods and (id is None) != (id_at_end is None):
            return Request(id or id_at_end, method,
                           () if value is None else (Text(value, "ascii"),) + missing)
    if line in EMPTY_LINES:
        return None
    try:
        check_length(line)
    except RpcError as error:
        return refused(error)
    match = _OTHER_PROTOCOL(line)
    if match is not None:
        error = RpcError(None, "This is another protocol.", {"reason": match.lastgroup})
        return Request(b"", error=error)
    return _parse_json(line, methods)


def _parse_json(line, methods):
    try:
        value = _decode(line)
    except ValueError:
        return refused(ErrorCode.PARSE_ERROR.error("This is not JSON in UTF-8."))
    if type(value) is not list:
        return _request(value, methods)
    if not value:
        return _invalid(_NULL, "A batch has at least one request.")
    if len(value) > MAX_BATCH:
        return _invalid(_NULL, "A batch has at most %d requests." % MAX_BATCH)
    return [_request(one, methods) for one in value]


def refused(error):
    """Return the Request that stands for input without a readable id, with its error.

    It is no notification: it is answered, with id null (specification, section 5).
    """
    return Request(_NULL, error=error)


def _request(value, methods):
    if type(value) is not dict:
        return _invalid(_NULL, "A request is an object.")
    id = value.get("id")
    if type(id) not in _ID_TYPES:
        return _invalid(_NULL, "An id is a string, a number or null.")
    id = encode_json(id).encode("ascii")
    method = value.get("method")
    params = value.get("params", ())
    if value.get("jsonrpc") != "2.0":
        return _invalid(id, "A request has \"jsonrpc\": \"2.0\".")
    if type(method) is not Text:
        return _invalid(id, "A request has a \"method\", a string.")
    if type(params) not in _PARAMS_TYPES:
        return _invalid(id, "\"params\" are an object or an array.")
    if "id" not in value:
        id = b""
    if method not in methods:
        return Request(id,
                       error=ErrorCode.METHOD_NOT_FOUND.error("There is no method of that name."))
    arguments, problem = _arguments(method, params)
    if problem:
        return Request(id, error=ErrorCode.INVALID_PARAMS.error(problem))
    return Request(id, method, arguments)


def _invalid(id, problem):
    # Answered even without an id: it is no notification (specification, section 5).
    return Request(id, error=ErrorCode.INVALID_REQUEST.error(problem))


def _arguments(method, params):
    """Return (the values of the params in the order of METHODS, what is wrong with them or None).

    Only the last params may be missing, so that names and positions mean the same. They are None.
    """
    names, required = METHODS[method].params, METHODS[method].required
    number = len(params)
    values = ()
    if required <= number <= len(names):
        is_by_name = type(params) is dict
        for name in names[:number]:
            if is_by_name and name not in params:
                break
            value = params[name if is_by_name else len(values)]
            problem = _PARAM_PROBLEMS[name](value)
            if problem:
                return (), problem
            values += (value,)
        else:
            return values + (None,) * (len(names) - number), None
    expected = names[:required] + tuple([name + " (optional)" for name in names[required:]])
    return (), "\"%s\" takes %s." % (
        method, "the params: " + ", ".join(expected) if expected else "no params")


def encode_request(id, method, params):
    """Return the line of a request; `params` is a dict."""
    request = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
    return encode_json(request).encode("ascii") + b"\n"


# --- responses (the server writes them, the client reads them) --------------------------------
# They are ASCII, with \u escapes: any id can be sent back, half a character included.

encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_encode_text = json.encoder.encode_basestring_ascii     # what encode_json calls for a text


def encode_account(account):
    """Return the JSON, as bytes, of anything with a nickname, credits and items.

    Only the texts are encoded: for a dict, the encoder takes three times as long.
    """
    text = '{"nickname":%s,"credits":%d,"items":[%s]}' % (
        _encode_text(account.nickname), account.credits,
        ",".join([_encode_text(item) for item in account.items]))
    return text.encode("ascii")


def encode_result(id, result):
    """Return the line of a response that succeeded; `id` and `result` are JSON, as bytes."""
    return b'{"jsonrpc":"2.0","result":%s,"id":%s}\n' % (result, id)


def encode_error(id, error):
    """Return the line of a response that tells an RpcError; `id` is JSON, as bytes."""
    body = {"code": error.code, "message": error.message, "data": error.data}
    return b'{"jsonrpc":"2.0","error":%s,"id":%s}\n' % (encode_json(body).encode("ascii"), id)


def parse_response(line):
    """Return (id, result, None) of a response's line, or (id, None, the RpcError that it tells).

    Raises ValueError for a line that is no JSON-RPC response.
    """
    value = _decode(line)
    if type(value) is not dict or value.get("jsonrpc") != "2.0" or "id" not in value \
            or ("result" in value) == ("error" in value):
        raise ValueError("not a response")
    if "result" in value:
        return value["id"], value["result"], None
    error = value["error"]
    if type(error) is not dict or type(error.get("code")) is not int \
            or type(error.get("message")) is not Text:
        raise ValueError("not a response")
    data = error.get("data")
    data = data if type(data) is dict else {}
    return value["id"], None, RpcError(error["code"], error["message"], data)


def address(host, port):
    """Return an address as people write it, an IPv6 one in brackets (RFC 3986, section 3.2.2)."""
    return ("[%s]:%s" if ":" in host else "%s:%s") % (host, port)
