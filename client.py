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
import termios
import threading
import time
import unicodedata
from enum import Enum

import protocol
from constants import (REPLY_SECONDS, BACK, COLUMNS, HOST, ITEM_COLUMNS, NICKNAME_COLUMNS,
                       WAITING_NOTICE_SECONDS, OPTIONS, PORT, RECV_SIZE)
from protocol import RpcError, Text

monotonic = getattr(time, "monotonic", time.time)       # 2.7
if str is bytes:
    input = raw_input                                   # 2.7  # noqa: F821


# --- the connection -------------------------------------------------------------------------

class ServerGone(Exception):
    """No server, or none that answers.

    `reason` is stable: `not_running`, `unreachable` and `tls_failed` come from connecting; then
    nothing was asked. With `no_answer`, `gone` and `not_lavka` the request that was under way may
    or may not have been carried out. The exception as text is a sentence for people.
    """
    code = None             # of JSON-RPC: nobody has sent one

    def __init__(self, reason, message):
        super(ServerGone, self).__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self):
        return self.message


class Client(object):
    """A blocking connection to the server; use it with `with`, or `close` it.

    With `tls`, an ssl.SSLContext, it is encrypted, and the server proves that it is `host`. Each
    method waits at most `timeout` seconds. It raises `protocol.RpcError` when the server refuses,
    and `ServerGone` when no answer comes, or none that makes sense; the connection is closed then,
    so that no later call can take an earlier call's answer for its own.
    """

    def __init__(self, host=HOST, port=PORT, timeout=REPLY_SECONDS, tls=None):
        self.address = protocol.address(host, port)
        self.timeout = float(timeout)
        self._ids = itertools.count(1)
        self._lines = protocol.LineReader()
        try:
            self._sock = _uninterrupted(socket.create_connection, (host, port), self.timeout)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                with contextlib.closing(self._sock) as plain:   # which then has given up its own
                    self._sock = tls.wrap_socket(plain, server_hostname=host)
        except (socket.error, ssl.CertificateError, UnicodeError) as error:
            raise _not_connected(self.address, error)

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
        id = next(self._ids)
        line = protocol.encode_request(id, method, params)
        try:
            self._sock.settimeout(self.timeout)
            self._sock.sendall(line)
            answer_id, result, error = protocol.parse_response(self._read_line())
            if error is None:
                result = read(result)
            if answer_id != id and (error is None or answer_id is not None):
                raise ValueError("the answer to something else")
            answered = answer_id == id      # else an error that ends the connection: server_full
        except socket.error as error:
            if _timed_out(error):
                raise ServerGone(
                    "no_answer", "The server has not answered for %g seconds." % self.timeout)
            raise ServerGone("gone", "The server is gone.")
        except (ValueError, KeyError, TypeError, RpcError):
            raise ServerGone(
                "not_lavka", "What answers at %s is not a Lavka server." % self.address)
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
            data = _uninterrupted(self._sock.recv, RECV_SIZE)
            if not data:
                raise socket.error(errno.ECONNRESET, "closed by the server")
            self._lines.feed(data)


def _uninterrupted(call, *arguments):
    """Call again if a signal has interrupted it, as Python 3 does by itself (PEP 475): on 2.7, a
    terminal that gets another size sends one."""
    while True:
        try:
            return call(*arguments)
        except socket.error as error:
            if error.errno != errno.EINTR:
                raise


def _not_connected(address, error):
    """The ServerGone for what went wrong."""
    tls_failed = isinstance(error, (ssl.SSLError, ssl.CertificateError))
    if tls_failed and not _timed_out(error):
        why = getattr(error, "verify_message", "") or _tls_reason(error) or "%s" % error
        return ServerGone("tls_failed", "TLS with %s failed: %s." % (address, why.rstrip(".")))
    if getattr(error, "errno", None) == errno.ECONNREFUSED:
        return ServerGone("not_running", "There is no server at %s." % address)
    why = "no answer"
    if not _timed_out(error):           # UnicodeError is a host name that is none
        why = getattr(error, "strerror", "this is no host name") or why
    return ServerGone("unreachable", "There is no server at %s: %s." % (address, why))


def _timed_out(error):
    return isinstance(error, socket.timeout) or "timed out" in str(error)       # 2.7, with TLS


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


# --- the terminal ---------------------------------------------------------------------------

# How lines look, as parameters of ECMA-48's SGR. These stand out on dark and on light screens.
PLAIN, BOLD, FAINT, RED, GREEN = "", "1", "2", "31", "32"

# What would steer the terminal or let a text look like another: control characters, what Unicode
# has for ends of lines, directions (Standard Annex 9) and invisible spaces; halves of characters.
# The joiners U+200C and U+200D are none of these: scripts and emoji need them.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
                     "\u2060-\u206f\ufeff\ud800-\udfff]")

ENDINGS = (signal.SIGINT, signal.SIGTERM)      # the signals that end the client

# What Tab does, by whether it is libedit that has readline's interface, and whether there is
# something to complete: a nickname may have any character.
TAB_KEY = {(False, False): "tab: self-insert", (False, True): "tab: complete",
           (True, False): "bind ^I ed-insert", (True, True): "bind ^I rl_complete"}


class Terminal(object):
    """Where the player types and reads: a terminal, with line editing and colours if it has them,
    or pipes, with neither; then a question is a line, and not asked twice in a row."""

    def __init__(self):
        self.is_typed = sys.stdin.isatty()
        self.encoding = sys.stdout.encoding or locale.getpreferredencoding()
        self.has_screen = sys.stdout.isatty()
        self.can_erase = self.has_screen and (os.environ.get("TERM") or "dumb") != "dumb"
        self.has_colours = self.can_erase and not os.environ.get("NO_COLOR")    # no-color.org
        self.readline = None
        if self.is_typed and self.has_screen and sys.stderr:    # `input` needs all three
            self.readline = _readline()
        self.modes = termios.tcgetattr(sys.stdin.fileno()) if self.is_typed else None
        self.candidates = None          # the completions that the current question has
        self.matches = []               # of them, those that readline asks for one by one
        self.question = None            # the last one
        if self.readline:
            self.readline.set_completer(self.complete)

    # --- what the player types --------------------------------------------------------------

    def ask(self, question, candidates=None, remember=True):
        """The player's next line, as text. Raises EOFError at the end of the input.

        `candidates` takes the line up to the cursor, and returns (its last part, what that may
        become), for Tab. The arrow keys bring back earlier lines, unless this one is not to be
        remembered.
        """
        question = self.printable(question)
        encoding = sys.stdin.encoding or locale.getpreferredencoding()
        while True:
            if self.readline:
                self.candidates = candidates
                line = self.edit(question, remember)
            else:
                line = self.read(question)
            try:
                if type(line) is not Text:
                    line = line.decode(encoding)        # 2.7
                line.encode("utf-8")                    # else fails here: see `main`
                return line[:-1] if line.endswith("\n") else line
            except UnicodeError:
                self.say("That is not text in %s." % encoding, RED)

    def read(self, question):
        if self.is_typed:
            self.write(self.styled(question, BOLD))
        elif question != self.question:
            self.write(question.rstrip() + "\n")
        self.question = question
        line = sys.stdin.readline()
        if not line:
            raise EOFError()
        return line

    def edit(self, question, remember):
        is_libedit = "libedit" in (self.readline.__doc__ or "")
        if not is_libedit:
            question = self.styled(question, BOLD, "\001%s\002")    # or they count as columns
        if str is bytes:
            question = question.encode(self.encoding)           # 2.7
        self.readline.parse_and_bind(TAB_KEY[is_libedit, self.candidates is not None])
        if remember:
            return self.edit_line(question)
        history = [self.readline.get_history_item(number + 1)
                   for number in range(self.readline.get_current_history_length())]
        self.readline.clear_history()
        line = self.edit_line(question)
        self.readline.clear_history()
        for earlier in history:
            self.readline.add_history(earlier)
        return line

    def edit_line(self, question):
        """`input`, but for Ctrl-Z: when the player comes back, the line is there. Left to itself,
        readline does not notice that it was away, and Enter sends a line that nobody sees."""
        usual = signal.getsignal(signal.SIGTSTP)
        handler = usual if usual == signal.SIG_IGN else _suspend    # ignored: no way back from it
        typed = ""
        self.readline.set_startup_hook(lambda: self.readline.insert_text(typed))
        line = None
        while line is None:
            try:
                try:
                    signal.signal(signal.SIGTSTP, handler)
                    line = input(question)
                finally:
                    signal.signal(signal.SIGTSTP, usual)
            except _Suspended:
                if line is None:
                    typed = self.readline.get_line_buffer()
                    self.write("\n")
                    os.kill(os.getpid(), signal.SIGTSTP)            # and `fg` goes on from here
        return line

    def forget_typed(self):
        """Drop what was typed and not read yet."""
        if self.is_typed:
            try:
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
            except termios.error:           # it is gone; reading from it will tell
                pass

    def complete(self, text, number):
        """readline's completer: the number-th completion of a word; None after the last."""
        if number == 0:
            self.matches = self.completions()
        return self.matches[number] if number < len(self.matches) else None

    def completions(self):
        line = self.readline.get_line_buffer()
        before, line = line[:self.readline.get_begidx()], line[:self.readline.get_endidx()]
        if str is bytes:                                        # 2.7
            before, line = [part.decode(self.encoding, "replace") for part in (before, line)]
        part, names = self.candidates(line) if self.candidates else ("", [])
        # Of a name with spaces, readline completes the last word; the part before it is there.
        known = len(before) - (len(line) - len(part))
        matches = [name[known:] for name in beginning_with(part, names)
                   if name == self.printable(name)]
        return [match.encode(self.encoding) for match in matches] if str is bytes else matches

    def end(self, number, frame):
        """The handler of a signal that ends the client: leave at once, with the terminal as it was
        found. An exception instead could come up anywhere, in the exit itself even."""
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_DFL)
        try:
            if self.modes:
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, self.modes)
            self.end_line()
        except (EnvironmentError, termios.error):
            pass                            # it is gone
        finally:
            os._exit(128 + number)          # as shells have it

    # --- what the player sees ---------------------------------------------------------------

    def end_line(self):
        """Let the shell's prompt have a line of its own."""
        if self.is_typed and self.has_screen:
            os.write(sys.stdout.fileno(), b"\n")

    def say(self, text, style=PLAIN, indent=0):
        """Print a line; on a screen as many as it needs, the later ones indented. What the terminal
        would take for a command is escaped."""
        text = self.printable(text)
        for line in wrapped(text, indent) if self.has_screen else [text]:
            self.write(self.styled(line, style) + "\n")

    def tell(self, *sentences):
        """Print what went wrong: in one line, unless a screen is too narrow for that."""
        text = " ".join(sentences)
        fits = not self.has_screen or columns(self.printable(text)) <= COLUMNS
        for line in [text] if fits else sentences:
            self.say(line, RED)

    def printable(self, text):
        """Text as it will be shown: what would steer the terminal is escaped, and what it has no
        character for."""
        text = _UNSAFE.sub(lambda match: ("\\x%02x" if match.group() < "\xff" else "\\u%04x")
                           % ord(match.group()), text)
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def styled(self, text, style, markers="%s"):
        if not self.has_colours or not style:
            return text
        return markers % ("\x1b[%sm" % style) + text + markers % "\x1b[m"

    def write(self, text):
        """Print printable text at once."""
        stream = getattr(sys.stdout, "buffer", sys.stdout)      # 2.7: sys.stdout takes bytes itself
        stream.write(text.encode(self.encoding))
        stream.flush()

    @contextlib.contextmanager
    def waiting(self, text):
        """While what is done in here takes long, a line tells the player so."""
        shown = []

        def show():
            shown.append(True)
            try:
                self.write(self.styled(text, FAINT) + ("" if self.can_erase else "\n"))
            except EnvironmentError:        # nobody is there: that is for the main thread to find
                pass

        notice = threading.Timer(WAITING_NOTICE_SECONDS, show)
        notice.daemon = True
        try:
            notice.start()
        except threading.ThreadError:       # no more threads: the player waits without a word
            pass
        try:
            yield
        finally:
            notice.cancel()
            if notice.is_alive():
                notice.join()
            if shown and self.can_erase:
                self.write("\r\x1b[K")      # ECMA-48: erase the line


def _readline():
    """Python's module for line editing, set up; None where there is none."""
    try:
        import readline
    except ImportError:
        return None
    for setting in ("set show-all-if-ambiguous on",     # at the first Tab
                    "set enable-bracketed-paste off",   # pasted lines are lines
                    "set input-meta on", "set output-meta on", "set convert-meta off"):
        readline.parse_and_bind(setting)        # the last three: UTF-8 passes in the C locale
    return readline


class _Suspended(Exception):
    """The player has typed Ctrl-Z."""


def _suspend(number, frame):
    signal.signal(number, signal.SIG_IGN)       # once is enough
    raise _Suspended()


def columns(text):
    """How many columns of a terminal a text takes (Unicode Standard Annex 11)."""
    return sum(map(_columns_of, text))


def _columns_of(character):
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0                        # stands on the one before it, or is not shown at all
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return 2
    return 2 if str is bytes and character >= "\U0001f300" else 1       # 2.7 knows no emoji


def shorten(text, width):
    """A text, or as much of its beginning as fits, with dots, into so many columns."""
    if columns(text) <= width:
        return text
    room = width - columns("...")
    kept = []
    for character in text:
        room -= _columns_of(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "..."


def wrapped(text, indent):
    """A text as lines of at most `COLUMNS` columns, the later ones indented. A word that is longer
    than that is left to the terminal."""
    lines = [[]]
    used = 0                            # columns of the last of them
    for word in re.findall(" *[^ ]+", text):
        if lines[-1] and used + columns(word) > COLUMNS \
                and columns(word.lstrip(" ")) <= COLUMNS - indent:
            lines.append([" " * indent])
            used = indent
            word = word.lstrip(" ")
        lines[-1].append(word)
        used += columns(word)
    return ["".join(line) for line in lines]


# --- the console ----------------------------------------------------------------------------

HELP = ("help", "?")
TRADES = ("buy", "sell")
UNKNOWN_ITEM = "There is no \"%s\" in the catalog."
EXPLANATIONS = {
    "balance": "your credits",
    "items": "what you own",
    "buy": "shows the catalog, and asks what you choose",
    "sell": "shows what you own, and asks what you give back for its price",
    "logout": "frees your nickname for others",
}


def hints(host, port, tls):
    """What to do about a ServerGone, by its reason."""
    check = "Check --host and --port."
    start = check
    if not tls and (host in ("localhost", "::1") or host.startswith("127.")):
        flags = (" --host %s" % host if host != HOST else "") \
            + (" --port %d" % port if port != PORT else "")
        start = "Start one%s python server.py%s" % (":" if flags else " with:", flags)
    return {
        "not_running": start,
        "unreachable": check,
        "tls_failed": "Check --tls and --ca.",
        "no_answer": "Try to log in again.",
        "gone": "Log in again when it is back.",
        "not_lavka": check,
    }


class State(Enum):
    """What the player's next line is taken for."""
    LOGIN = "a nickname"
    GAME_SESSION = "an option"


class Console(object):
    """The state machine between a player's lines and the server's answers.

    `account` and `catalog` are the cache: what the server told at login and after each trade.
    """

    def __init__(self, connect, hints, terminal):
        self.connect = connect          # returns a Client
        self.hints = hints              # what to do when there is no server, by the reason
        self.terminal = terminal
        self.say = terminal.say
        self.steps = {State.LOGIN: self.log_in, State.GAME_SESSION: self.play}
        self.options = {"balance": self.show_balance, "items": self.show_items, "buy": self.buy,
                        "sell": self.sell, "logout": self.logout}
        self.options.update((word, self.show_help) for word in HELP)
        self.nickname = ""              # the last one that was logged in, or to be
        self.client = None
        self.leave()

    def run(self):
        """Take lines until the input ends, with EOFError."""
        if self.terminal.is_typed:
            self.say("A nickname opens an account, or gets yours back. Ctrl-C or Ctrl-D leaves.",
                     FAINT)
        while True:
            try:
                self.steps[self.state]()
            except RpcError as refusal:     # of a login, or of a session that is none any more
                self.fail(refusal.message)
            except ServerGone as gone:
                self.fail(gone.message, self.hints[gone.reason])

    def fail(self, *sentences):
        """Go to State.LOGIN unexpectedly: what was typed ahead was meant for something else."""
        self.terminal.forget_typed()
        self.leave()
        self.terminal.tell(*sentences)

    def leave(self):
        """Go to State.LOGIN, with no connection and nothing cached."""
        if self.client:
            self.client.close()
        self.state = State.LOGIN
        self.client = None
        self.account = None
        self.catalog = []
        self.shown = {}                 # for buy and sell: what stood in the list shown last

    def call(self, method, *arguments):
        """Call what waits for the server; the player is told if that takes long."""
        with self.terminal.waiting("Waiting for the server ..."):
            return method(*arguments)

    # --- State.LOGIN ------------------------------------------------------------------------

    def log_in(self):
        last = self.nickname if self.terminal.is_typed else ""      # Enter is a key
        question = "Nickname [%s]: " % self.short(last) if last else "Nickname: "
        nickname = self.terminal.ask(question, remember=False) or last
        problem = protocol.nickname_problem(nickname)
        if problem:
            return self.say(problem, RED)
        self.nickname = last or nickname
        self.client = self.call(self.connect)
        login = self.call(self.client.login, nickname)
        self.nickname = nickname
        self.state = State.GAME_SESSION
        self.account = login["account"]
        self.catalog = login["catalog"]
        self.say("Welcome%s, %s!" % (" to the shop" if login["created"] else " back", nickname),
                 GREEN)
        self.show_card()
        self.show_options()

    # --- State.GAME_SESSION -------------------------------------------------------------------

    def play(self):
        question = "%s %d> " % (self.short(self.account["nickname"]), self.account["credits"])
        line = self.terminal.ask(question, self.option_candidates)
        while line is not None:         # an option typed at the question for an item is the next
            line = self.choose(line)

    def choose(self, line):
        """Carry out an option; returns the line to go on with, or None."""
        self.call(self.client.ping)     # whatever was typed, a lost server is noticed now
        words = line.strip().split(None, 1)
        if not words:
            return None
        if words[1:]:
            found = find(words[0], TRADES)
        else:
            found = find(words[0], OPTIONS + HELP, OPTIONS)
        if len(found) == 1:
            return self.options[found[0]](*words[1:])
        self.explain("There is no option \"%s\".", line.strip(), found)
        self.show_options()

    def option_candidates(self, line):
        """What Tab offers in a line: options, and items behind those that take one."""
        option, space, item = line.lstrip().partition(" ")
        if not space:
            return option, [name + " " if name in TRADES else name for name in OPTIONS + HELP[:1]]
        found = find(option, TRADES)
        return item.lstrip(), self.goods(found[0]) if len(found) == 1 else []

    def buy(self, word=None):
        return self.trade("buy", word)

    def sell(self, word=None):
        if not self.account["items"]:
            return self.say("You have nothing to sell.", RED)
        return self.trade("sell", word)

    def goods(self, verb):
        """The items that can be bought, or those that can be sold."""
        return self.account["items"] if verb == "sell" else [item["name"] for item in self.catalog]

    def trade(self, verb, word):
        """Trade the item that is meant by a word, or ask for one until one was traded or the player
        wants something else: an option, which is returned, or None."""
        if word and (verb in self.shown or not word.isdigit()):     # a number needs a list
            found = self.find_item(verb, word)
            if len(found) == 1:
                self.request(verb, found[0])
            else:
                self.explain(UNKNOWN_ITEM, word, found)
            return None
        names = self.goods(verb)
        self.show_goods(verb, names)
        while True:
            word = self.terminal.ask("What do you %s? (or %s) " % (verb, BACK),
                                     lambda line: (line.lstrip(), names + [BACK])).strip()
            found = self.find_item(verb, word, [BACK]) if word else []
            if self.is_option(word) and word.lower() not in [name.lower() for name in found]:
                if word.lower() not in HELP:
                    return word
                self.choose(word)
            elif len(found) == 1 and found != [BACK]:
                if self.request(verb, found[0]):
                    return None
            else:
                self.call(self.client.ping)
                if found == [BACK]:
                    return None
                if word:
                    self.explain(UNKNOWN_ITEM, word, found)

    def is_option(self, line):
        words = line.lower().split(None, 1)
        return len(words) == 1 and words[0] in self.options \
            or len(words) == 2 and words[0] in TRADES

    def find_item(self, verb, word, others=()):
        """What is meant by a word: of what can be traded so, else of what can be traded the other
        way round, to be told by the server why not."""
        return find(word, self.goods(verb) + list(others), self.shown.get(verb, ())) \
            or find(word, self.goods("sell" if verb == "buy" else "buy"))

    def request(self, verb, item):
        """Have the server trade; returns whether there is no more to ask. Raises RpcError when the
        login is lost."""
        try:
            self.account = self.call(getattr(self.client, verb), item)
        except RpcError as refusal:
            if refusal.reason == "not_logged_in":
                raise
            self.say(refusal.message, RED)
            return False
        except ServerGone as gone:
            self.fail(gone.message, "It may or may not have let you %s the %s: your next login "
                      "will show." % (verb, item))
            return True
        self.say("Congratulations! You %s the %s." % ("bought" if verb == "buy" else "sold", item),
                 GREEN)
        self.show_balance()
        return True

    def logout(self):
        nickname = self.account["nickname"]
        self.call(self.client.logout)
        self.leave()
        self.say("Good bye, %s." % nickname)

    # --- what the player sees -----------------------------------------------------------------

    def short(self, nickname):
        return shorten(self.terminal.printable(nickname), NICKNAME_COLUMNS)

    def explain(self, problem, word, found):
        """Say why a word was not taken: nothing was found for it, or too much."""
        if found:
            self.say("\"%s\" may be %s or %s." % (word, ", ".join(found[:-1]), found[-1]), RED)
        else:
            self.say(problem % word, RED)

    def show_card(self):
        self.say("  credits  %d" % self.account["credits"])
        self.say("  items    %s" % (", ".join(self.account["items"]) or "none"), indent=11)

    def show_balance(self):
        self.say("You have %d credits." % self.account["credits"])

    def show_items(self):
        items = self.account["items"]
        self.say("Your items: %s." % ", ".join(items) if items else "You have no items.", indent=12)

    def show_goods(self, verb, names):
        """The table to choose from, by name or by number."""
        self.shown[verb] = list(names)
        prices = {item["name"]: item["price"] for item in self.catalog}
        rows = [("#", "item", "price", "", FAINT)]
        for number, name in enumerate(names, 1):
            price = prices.get(name, "-")           # it may have left the catalog
            note, style = "", PLAIN
            if verb == "buy":
                missing = price - self.account["credits"]
                note = "owned" if name in self.account["items"] \
                    else "%d credits short" % missing if missing > 0 else "affordable"
                style = PLAIN if note == "affordable" else FAINT
            rows.append(("%d" % number, shorten(self.terminal.printable(name), ITEM_COLUMNS),
                         "%s" % price, note, style))
        widths = [max(columns(row[column]) for row in rows) for column in range(3)]
        for number, name, price, note, style in rows:
            row = "  %s  %s  %s  %s" % (
                number.rjust(widths[0]), name + " " * (widths[1] - columns(name)),
                price.rjust(widths[2]), note)
            self.say(row.rstrip(), style)

    def show_options(self):
        self.say("Options: %s." % ", ".join(
            "%d %s" % option for option in enumerate(OPTIONS, 1)))
        self.say("Type ? for help; Ctrl-C or Ctrl-D leaves the game.", FAINT)

    def show_help(self):
        for number, option in enumerate(OPTIONS, 1):
            self.say("  %d  %-8s %s" % (number, option, EXPLANATIONS[option]))
        self.say("The beginning of an option or item is enough, or its number in the list shown.")
        self.say("\"buy sword\" and \"sell sword\" ask nothing; \"%s\" leaves a question." % BACK)
        if self.terminal.readline:
            self.say("Tab completes, the arrow keys bring back earlier lines.")
        self.say("Ctrl-C or Ctrl-D leaves the game.")


def find(word, names, shown=()):
    """The names that a player may mean by a word, in any case: the one that it is, the one that has
    this number in a list that was shown, or else all that begin with it."""
    exact = [name for name in names if name == word] \
        or [name for name in names if name.lower() == word.lower()] \
        or [name for number, name in enumerate(shown, 1) if "%d" % number == word]
    return exact[:1] or beginning_with(word, names)


def beginning_with(word, names):
    return [name for name in names if name.lower().startswith(word.lower())]


def show_stats(connect, hints, terminal):
    """Print what the server counts, a line each; returns the exit status."""
    say = terminal.say
    try:
        with connect() as client:
            figures = client.stats()
    except ServerGone as gone:
        terminal.tell(gone.message, hints[gone.reason])
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
    terminal = Terminal()
    try:
        for ending in ENDINGS:
            signal.signal(ending, terminal.end)
        what_to_do = hints(options.host, options.port, tls)
        if options.stats:
            return show_stats(connect, what_to_do, terminal)
        Console(connect, what_to_do, terminal).run()
    except EOFError:
        terminal.end_line()
        return 0
    except EnvironmentError:                            # the terminal or pipe is no longer there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # where the exit may flush to
        return 1


if __name__ == "__main__":
    sys.exit(main())
