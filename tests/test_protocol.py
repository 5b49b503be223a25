# -*- coding: utf-8 -*-
"""protocol.py, fed as it comes from a network: whole, byte by byte, and with more behind it."""
from __future__ import unicode_literals

import json
from collections import OrderedDict, namedtuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocol
from constants import MAX_BATCH, MAX_DEPTH, MAX_DIGITS, MAX_LINE, MAX_NICKNAME
from protocol import ADMIN_METHODS, METHODS, TCP_METHODS, ErrorCode, LineReader, RpcError


def numbered(cases):
    """Short names for cases that are long."""
    return [str(number) for number in range(len(cases))]


# --- bytes to lines ---------------------------------------------------------------------------

FULL = b"x" * (MAX_LINE - 1)
LINES = [
    (b"", []),
    (b"one\n", [b"one"]),
    (b"one\r\n", [b"one\r"]),
    (b"one\ntwo\n", [b"one", b"two"]),
    (b"\n\r\n\n", []),
    (b"\n\none\n\n\ntwo\n\n", [b"one", b"two"]),
    (b" \n", [b" "]),
    (b"one\rtwo\n", [b"one\rtwo"]),
    (b"\0\xff\n", [b"\0\xff"]),
]
LONG = [
    (FULL + b"\n", [FULL], False),                      # exactly the limit, its end included
    (FULL + b"x", [], False),                           # as many bytes, and perhaps no more
    (FULL + b"x\n", [], True),
    (FULL + b"xx", [], True),                           # already without an end
    (b"one\n" + FULL + b"xx", [b"one"], True),
    (b"one\n" + FULL + b"x\ntwo\n", [b"one"], True),    # what follows cannot be trusted
]


def read_all(reader):
    """(the lines, whether it ended in LINE_TOO_LONG)"""
    lines = []
    try:
        while True:
            line = reader.next_line()
            if line is None:
                return lines, False
            lines.append(line)
    except RpcError as error:
        assert error.reason == "line_too_long"
        return lines, True


@pytest.mark.parametrize("data, lines", LINES, ids=numbered(LINES))
def test_lines_whole(data, lines):
    reader = LineReader()
    reader.feed(data)
    assert read_all(reader) == (lines, False)
    assert not reader.lines


@pytest.mark.parametrize("data, lines", LINES, ids=numbered(LINES))
def test_lines_byte_by_byte(data, lines):
    reader = LineReader()
    got = []
    for i in range(len(data)):
        reader.feed(data[i:i + 1])
        got += read_all(reader)[0]
    assert got == lines


@pytest.mark.parametrize("data, lines", LINES, ids=numbered(LINES))
def test_lines_with_trailing_data(data, lines):
    reader = LineReader()
    reader.feed(data + b"tail")
    assert read_all(reader) == (lines, False)
    assert not reader.lines
    reader.feed(b"\n")
    assert read_all(reader) == ([b"tail"], False)


@pytest.mark.parametrize("data, lines, too_long", LONG, ids=numbered(LONG))
@pytest.mark.parametrize("portion", [len(FULL) * 2, 4096, 1])
def test_the_longest_line(data, lines, too_long, portion):
    reader = LineReader()
    got, stuck = [], False
    for i in range(0, len(data), portion):
        reader.feed(data[i:i + portion])
        if not stuck:
            more, stuck = read_all(reader)
            got += more
    assert stuck == too_long
    assert [len(line) for line in got] == [len(line) for line in lines]


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_do_not_depend_on_the_portions(parts, portion):
    data = b"\n".join(part for part in parts if not part.startswith(b"\x16\x03"))     # TLS ends it
    whole, portioned = LineReader(), LineReader()
    whole.feed(data)
    for i in range(0, len(data), portion):
        portioned.feed(data[i:i + portion])
    assert read_all(whole) == read_all(portioned)


# --- lines to requests --------------------------------------------------------------------------

def parse_one(line):
    request = protocol.parse(line, METHODS)
    assert type(request) is protocol.Request
    return request


def outcome(line):
    """What becomes of a line of one request: (id, method, args) or (id, reason)."""
    try:
        request = parse_one(line)
    except RpcError as error:
        return None, error.reason
    id = read_id(request)
    if request.error:
        return id, request.error.reason
    return id, request.method, request.arguments


def read_id(request):
    """The id of a request, as its client knows it; a notification has none."""
    return json.loads(request.id.decode("ascii")) if request.id else None


def login_line(params):
    """The line of a login."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "login", "params": params}
    return json.dumps(request).encode("ascii")


KEY = "0123456789abcdef" * 2
REQUESTS = [
    (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', (1, "ping", ())),
    (b' {"jsonrpc": "2.0", "id": 1, "method": "ping"} \r', (1, "ping", ())),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}', (1, "ping", ())),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', (1, "ping", ())),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","extra":[1]}', (1, "ping", ())),
    (b'{"jsonrpc":"2.0","id":"a","method":"buy","params":{"item":"bow"}}', ("a", "buy", ("bow",))),
    (b'{"jsonrpc":"2.0","id":"a","method":"buy","params":["bow"]}', ("a", "buy", ("bow",))),
    (b'{"jsonrpc":"2.0","id":null,"method":"logout"}', (None, "logout", ())),
    (b'{"jsonrpc":"2.0","id":-1.5,"method":"logout"}', (-1.5, "logout", ())),
    (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}', (2 ** 64, "ping", ())),
    ('{"jsonrpc":"2.0","id":1,"method":"login","params":["Ж"]}'.encode("utf-8"),
     (1, "login", ("Ж", None))),
    (b'{"jsonrpc":"2.0","id":1,"method":"login","params":["\\u0416"]}', (1, "login", ("Ж", None))),
    (login_line({"nickname": "bob", "key": KEY}), (1, "login", ("bob", KEY))),
    (login_line({"key": KEY, "nickname": "bob"}), (1, "login", ("bob", KEY))),
    (login_line(["bob", KEY]), (1, "login", ("bob", KEY))),
    (login_line(["bob", " ~" * 64]), (1, "login", ("bob", " ~" * 64))),
    (b'{"jsonrpc":"2.0","id":1,"method":"protect","params":["' + KEY.encode("ascii") + b'"]}',
     (1, "protect", (KEY,))),
    # --- not JSON
    (b"nonsense", (None, "parse_error")),
    (b" ", (None, "parse_error")),
    (b"{", (None, "parse_error")),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping"} 1', (None, "parse_error")),
    (b"{'jsonrpc':'2.0'}", (None, "parse_error")),
    (b'{"id":NaN}', (None, "parse_error")),
    (b'{"id":Infinity}', (None, "parse_error")),
    (b'{"id":-Infinity}', (None, "parse_error")),
    (b'{"id":1e999}', (None, "parse_error")),
    (b'{"id":-1e999}', (None, "parse_error")),
    (b'{"id":' + b"9" * (MAX_DIGITS + 1) + b"}", (None, "parse_error")),
    (b'{"id":"\xff"}', (None, "parse_error")),
    (b'{"id":"\xed\xa0\x80"}', (None, "parse_error")),              # an encoded half character
    (b'{"id":"\xed\xa0\xbd\xed\xb8\x80"}', (None, "parse_error")),  # and two, CESU-8
    (b'{"id":"\xc0\x80"}', (None, "parse_error")),                  # an overlong NUL
    (b'\xef\xbb\xbf{"id":1}', (None, "parse_error")),               # a byte order mark
    (b'{"id":"a\tb"}', (None, "parse_error")),                      # control characters are escaped
    (b"[" * 30000 + b"]" * 30000, (None, "parse_error")),
    (b'{"a":' * 10000 + b"1" + b"}" * 10000, (None, "parse_error")),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), (None, "parse_error")),
    # --- not a request
    (b"1", (None, "invalid_request")),
    (b"null", (None, "invalid_request")),
    (b'"ping"', (None, "invalid_request")),
    (b"{}", (None, "invalid_request")),
    (b'{"id":7}', (7, "invalid_request")),
    (b'{"id":1,"method":"ping"}', (1, "invalid_request")),
    (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', (1, "invalid_request")),
    (b'{"jsonrpc":2.0,"id":1,"method":"ping"}', (1, "invalid_request")),
    (b'{"jsonrpc":["2.0"],"id":1,"method":"ping"}', (1, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":1}', (1, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":1,"method":1}', (1, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":1,"method":["ping"]}', (1, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}', (1, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":null}', (1, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', (None, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":[],"method":"ping"}', (None, "invalid_request")),
    (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', (None, "invalid_request")),
    (b"[]", (None, "invalid_request")),
    (b"[" + b",".join([b"1"] * (MAX_BATCH + 1)) + b"]", (None, "invalid_request")),
    # --- not a call
    (b'{"jsonrpc":"2.0","id":1,"method":"steal"}', (1, "method_not_found")),
    (b'{"jsonrpc":"2.0","id":1,"method":""}', (1, "method_not_found")),
    (b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}', (1, "method_not_found")),
    (b'{"jsonrpc":"2.0","id":1,"method":"PING"}', (1, "method_not_found")),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1}}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"buy"}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"buy","params":{}}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"buy","params":[]}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"buy","params":{"thing":"bow"}}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":"bow","n":1}}',
     (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"buy","params":["bow","bow"]}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":1}}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"sell","params":{"item":null}}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"login","params":{"nickname":true}}',
     (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"login","params":{"nickname":""}}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"login","params":["\\ud800"]}', (1, "invalid_params")),
    (login_line({"key": KEY}), (1, "invalid_params")),
    (login_line({"nickname": "bob", "lock": KEY}), (1, "invalid_params")),
    (login_line(["bob", KEY, KEY]), (1, "invalid_params")),
    (login_line(["bob", KEY[1:]]), (1, "invalid_params")),
    (login_line(["bob", "x" * 129]), (1, "invalid_params")),
    (login_line(["bob", KEY + "\n"]), (1, "invalid_params")),
    (login_line(["bob", "\t" + KEY]), (1, "invalid_params")),
    (login_line(["bob", "Ж" * 32]), (1, "invalid_params")),
    (login_line(["bob", None]), (1, "invalid_params")),
    (login_line(["bob", 10 ** 40]), (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"protect"}', (1, "invalid_params")),
    (b'{"jsonrpc":"2.0","id":1,"method":"protect","params":{"key":"short"}}',
     (1, "invalid_params")),
]


@pytest.mark.parametrize("line, expected", REQUESTS, ids=numbered(REQUESTS))
def test_requests(line, expected):
    assert outcome(line) == expected


@pytest.mark.parametrize("line, expected", REQUESTS, ids=numbered(REQUESTS))
def test_requests_byte_by_byte_and_with_trailing_data(line, expected):
    data = line + b"\n" + line
    reader = LineReader()
    outcomes = []
    for portion in [data[i:i + 1] for i in range(len(data))] if len(data) < 1000 else [data]:
        reader.feed(portion)
        while reader.lines:
            received = reader.next_line()
            if received is not None:
                outcomes.append(outcome(received))
    assert outcomes == [expected]
    reader.feed(b"\n")
    assert outcome(reader.next_line()) == expected


def fields(request):
    return [(type(value), value) for value in (
        request.id, request.method, request.arguments,
        request.error and request.error.reason)]


def decoded(line):
    """The Request that the decoder of JSON finds in a line."""
    return protocol._request(protocol._decode(line), METHODS)


PLAIN = [
    '{"jsonrpc":"2.0","id":1,"method":"ping"}',
    '{"jsonrpc": "2.0", "id": 999999999999999999, "method": "ping", "params": {}}',
    '{"jsonrpc":"2.0","id":0,"method":"logout","params":{}}\r',
    '{"jsonrpc":"2.0","id":17,"method":"buy","params":{"item":"potion"}}',
    '{"jsonrpc": "2.0", "id": 17, "method": "sell", "params": {"item": "{}[],:~ !#"}}',
    '{"jsonrpc":"2.0","id":17,"method":"login","params":{"nickname":"bob"}}',
    '{"jsonrpc":"2.0","id":17,"method":"login","params":{"nickname":"%s"}}' % ("b" * MAX_NICKNAME),
    '{"jsonrpc":"2.0","method":"ping","id":0}',
    '{"jsonrpc": "2.0", "method": "sell", "params": {"item": "bow"}, "id": 12}',
]


@pytest.mark.parametrize("line", PLAIN)
def test_plain_requests_are_parsed_without_the_decoder(line, monkeypatch):
    line = line.encode("ascii")
    expected = fields(decoded(line))
    monkeypatch.setattr(protocol, "_parse_json", None)
    assert fields(protocol.parse(line, METHODS)) == expected


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PLAIN), st.lists(st.tuples(
    st.integers(0, 90), st.integers(0, 3), st.text(
        alphabet='{}[]",:\\\0\x7f\x80\u0416 0123456789.-+eE\r\tnullitempotionbuysellogingidkjsrc',
        max_size=3)), max_size=3), st.sampled_from([TCP_METHODS, ADMIN_METHODS]))
def test_the_decoder_parses_the_same_request_as_the_pattern(line, changes, methods):
    for at, removed, inserted in changes:
        line = line[:at] + inserted + line[at + removed:]
    line = line.encode("utf-8")
    one, other = protocol.parse(line, methods), protocol._parse_json(line, methods)
    assert type(one) is type(other)
    for request, same in zip(*[each if type(each) is list else [each] for each in (one, other)]):
        assert fields(request) == fields(same)


@pytest.mark.parametrize("line", [
    '{"jsonrpc":"2.0","id":01,"method":"ping"}', '{"jsonrpc":"2.0","id":1,"method":"ping"}x',
    '{"jsonrpc":"2.0","id":1,"method":"ping"}\r\r', '{"jsonrpc":"2.0","id":1,"method":"ping",}',
    '{"jsonrpc":"2.0","id":1,"method":"buy"}',
    '{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}',
    '{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":"a\\"}}',
    '{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":"\x7f"}}',
    '{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":"a\tb"}}',
    '{"jsonrpc":"2.0","id":1,"method":"ping","params":{"item":"a"}}',
    '{"jsonrpc":"2.0","id":1,"method":"buy","params":{"item":""}}',
    '{"jsonrpc":"2.0","id":1,"method":"login","params":{"nickname":" bob"}}',
    '{"jsonrpc":"2.0","id":1,"method":"login","params":{"nickname":"%s"}}'
    % ("b" * (MAX_NICKNAME + 1)),
    '{"jsonrpc":"2.0","id":1,"method":"login","params":{"item":"bob"}}',
    '{"jsonrpc":"2.0","id":1,"method":"buy","params":{"nickname":"bow"}}',
    '{"jsonrpc":"2.0","method":"ping"}', '{"jsonrpc":"2.0","id":1,"method":"ping","id":2}',
    '{"jsonrpc":"2.0","id":1,"method":"stea","params":{"item":"a"}}',
])
def test_other_requests_are_left_to_the_decoder(line, monkeypatch):
    monkeypatch.setattr(protocol, "_parse_json", lambda line, methods: "decoded")
    assert protocol.parse(line.encode("ascii"), METHODS) == "decoded"


def test_the_depth_and_the_digits_that_are_allowed():
    deep = b"[" * (MAX_DEPTH - 1) + b"1" + b"]" * (MAX_DEPTH - 1)
    line = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + deep + b"}"
    assert outcome(line) == (1, "invalid_params")
    assert outcome(line.replace(deep, b"[" + deep + b"]")) == (None, "parse_error")
    digits = b"9" * MAX_DIGITS
    assert outcome(b'{"jsonrpc":"2.0","method":"ping","id":' + digits + b"}")[0] == int(digits)


def test_many_brackets_are_not_deep():
    nickname = b"[" * MAX_NICKNAME
    line = b'{"jsonrpc":"2.0","id":1,"method":"login","params":["' + nickname + b'"]}'
    assert outcome(line) == (1, "login", (nickname.decode("ascii"), None))


def test_a_request_without_an_id_wants_no_reply():
    assert parse_one(b'{"jsonrpc":"2.0","method":"ping"}').id == b""
    assert parse_one(b'{"jsonrpc":"2.0","method":"steal"}').id == b""
    assert parse_one(b'{"jsonrpc":"2.0","method":"buy","params":[1]}').id == b""
    assert parse_one(b'{"jsonrpc":"2.0","method":"ping","id":null}').id == b"null"
    assert parse_one(b'{"jsonrpc":"2.0","method":1}').id == b"null"   # it is no notification either


def test_a_batch_keeps_its_order_and_its_errors_apart():
    requests = protocol.parse(
        b'[{"jsonrpc":"2.0","id":1,"method":"ping"},3,{"jsonrpc":"2.0","method":"logout"}]',
        METHODS)
    assert [(r.id, r.method) for r in requests] == [
        (b"1", "ping"), (b"null", None), (b"", "logout")]
    assert requests[1].error.reason == "invalid_request"


def test_a_batch_of_one_and_of_the_most():
    for number in (1, MAX_BATCH):
        requests = protocol.parse(b"[" + b",".join([b"1"] * number) + b"]", METHODS)
        assert type(requests) is list and len(requests) == number


@given(st.binary())
def test_any_bytes_raise_nothing_but_rpc_errors(data):
    reader = LineReader()
    reader.feed(data + b"\n")
    for line in read_all(reader)[0]:
        outcome_of_any(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
    | st.text(alphabet="x\ud800\0", min_size=250, max_size=260)
    | st.sampled_from(["2.0", "ping", "login", "buy", "nickname", "item"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["jsonrpc", "id", "method", "params", "item", "nickname"]), inner),
    max_leaves=8)


@settings(deadline=None)
@given(JSON)
def test_any_json_raises_nothing_but_rpc_errors(value):
    outcome_of_any(json.dumps(value).encode("ascii"))


def outcome_of_any(line):
    try:
        parsed = protocol.parse(line, METHODS)
    except RpcError as error:
        protocol.encode_error(b"null", error)
    else:
        for request in parsed if type(parsed) is list else [parsed]:
            assert (request.error is None) == (request.method is not None)
            protocol.encode_result(request.id, b"true")


# --- nicknames --------------------------------------------------------------------------------

@pytest.mark.parametrize("nickname", [
    "bob", " bob ", "Боб", "👩‍🚀", "'; DROP TABLE account; --", "\x01\x1b[31m", "a\nb", '"', "\\",
    ",", "x" * MAX_NICKNAME, "\U0001f600" * MAX_NICKNAME, "\u200b", "\ufffd", "e\u0301", "\x1c",
    "\x1f", "\u180e",
], ids=repr)
def test_nicknames_that_are_allowed(nickname):
    assert protocol.nickname_problem(nickname) is None


@pytest.mark.parametrize("nickname", [
    "", " ", "\t\n", "\u3000\u00a0", "a\0b", "\0", "\ud800", "a\udc00", "\udc00\ud800",
    "x" * (MAX_NICKNAME + 1), "\U0001f600" * (MAX_NICKNAME + 1),
    "\ud800" * (MAX_NICKNAME + 1), "x" * MAX_NICKNAME + "\udc00", None, 1, True, ["bob"], b"bob",
], ids=repr)
def test_nicknames_that_are_refused(nickname):
    problem = protocol.nickname_problem(nickname)
    assert problem.startswith("A nickname") and problem.endswith(".")


# --- responses --------------------------------------------------------------------------------

@pytest.mark.parametrize("id", [1, 0, -5, 2 ** 70, 1.5, "a", "", "Ж", '"', "\ud800", None])
def test_a_result_comes_through(id):
    line = protocol.encode_result(protocol.encode_json(id).encode("ascii"),
                                  protocol.encode_json({"a": ["Ж", 1]}).encode("ascii"))
    assert line.index(b"\n") == len(line) - 1
    assert protocol.parse_response(line) == (id, {"a": ["Ж", 1]}, None)
    assert json.loads(line.decode("ascii"))["jsonrpc"] == "2.0"


Account = namedtuple("Account", "nickname credits items")


@given(st.builds(Account, st.text(), st.integers(0, 2 ** 63 - 1), st.lists(st.text())))
def test_an_account_is_encoded_as_json_would(account):
    value = OrderedDict(zip(Account._fields, account))
    assert protocol.encode_account(account) == protocol.encode_json(value).encode("ascii")


@pytest.mark.parametrize("code", list(ErrorCode))
def test_an_error_comes_through(code):
    error = code.error("No.", price=5)
    id, result, received = protocol.parse_response(protocol.encode_error(b'"x"', error))
    assert (id, result) == ("x", None)
    assert (received.code, received.reason, received.message) == (error.code, error.reason, "No.")
    assert received.data == {"reason": error.reason, "price": 5}


def test_the_codes_of_the_contract():
    assert {code.name.lower(): code.value for code in ErrorCode} == {
        reason: (number, reason) for reason, number in [
            ("parse_error", -32700), ("invalid_request", -32600), ("line_too_long", -32600),
            ("method_not_found", -32601), ("invalid_params", -32602), ("internal_error", -32603),
            ("storage_failed", -32000), ("server_full", -32001), ("not_logged_in", 1001),
            ("already_logged_in", 1002), ("nickname_in_use", 1003), ("key_required", 1004),
            ("wrong_key", 1005), ("unknown_item", 2001),
            ("item_already_owned", 2002), ("not_enough_credits", 2003), ("item_not_owned", 2004)]}


@pytest.mark.parametrize("line", [
    b"", b"HTTP/1.1 400 Bad Request", b"1", b"[]", b"{}", b'{"jsonrpc":"2.0","id":1}',
    b'{"jsonrpc":"2.0","result":1}', b'{"id":1,"result":1}', b"\xff", b"[" * 50000,
    b'{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}',
    b'{"jsonrpc":"2.0","id":1,"error":1}', b'{"jsonrpc":"2.0","id":1,"error":{"code":"1"}}',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":1}}', b'{"jsonrpc":"2.0","id":1,"error":null}',
])
def test_what_is_not_a_response(line):
    with pytest.raises(ValueError):
        protocol.parse_response(line)


def test_a_request_comes_through():
    line = protocol.encode_request(7, "login", {"nickname": "Ж\n", "key": KEY})
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert outcome(line[:-1]) == (7, "login", ("Ж\n", KEY))
