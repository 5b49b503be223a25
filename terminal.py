# -*- coding: utf-8 -*-
"""The player's terminal: what is typed, with line editing and completion, and signals.

Modules that only Unix has are imported where they are used, so that this one can be imported
everywhere.
"""
from __future__ import unicode_literals

import codecs
import contextlib
import errno
import io
import locale
import os
import signal
import sys

from cli import StandardFile
from columns import wrap
from constants import ANSWER_COLUMNS
from display import BOLD, Display
from text import Text, encoding_name, find_by_prefix

if str is bytes:
    input = raw_input                                   # 2.7  # noqa: F821

# All that end a program by default (signal(7)), but for SIGKILL and those of a fault in C code.
# Windows has three of them.
END_SIGNALS = tuple(getattr(signal, "SIG" + name) for name in (
    "HUP", "INT", "QUIT", "TERM", "ALRM", "USR1", "USR2", "ABRT", "XCPU", "VTALRM", "PROF", "IO")
    if hasattr(signal, "SIG" + name))

# readline's setting for the Tab key, by (is_libedit, has_completer). Without a completer Tab
# inserts itself, because a nickname may contain one.
TAB_SETTINGS = {(False, False): "tab: self-insert", (False, True): "tab: complete",
                (True, False): "bind ^I ed-insert", (True, True): "bind ^I rl_complete"}


def run_on_terminal(program):
    """Call `program` with a Terminal; return the exit status.

    The end of the input ends the program with 0, input that is no script and a terminal or pipe
    that is gone with 1, and a signal without a traceback.
    """
    if sys.stdin is None or sys.stdout is None:         # closed by the parent process
        return 1
    try:
        terminal = Terminal()
        terminal.exit_on_signals()
        return program(terminal)
    except EOFError:
        terminal.end_line()
        return 0
    except UnreadableScript as problem:
        terminal.say_error("%s" % problem)
    except EnvironmentError as error:
        if error.errno not in (errno.EPIPE, errno.EIO) and sys.stderr:      # it is not just gone
            sys.stderr.write(str("cannot read or write: %s\n" % error.strerror))
    return 1


class UnreadableScript(Exception):
    """The input is no script; the text is one sentence for whoever wrote it."""


class Terminal(Display):
    """Standard input and output, as the player uses them.

    On a terminal, lines can be edited, as far as the terminal can do that. In a pipe, a question is
    a line of its own, and a repeated question is printed once. A line of a pipe or file ends with
    \\n or \\r\\n; a byte order mark at the very beginning is left out.
    """

    def __init__(self):
        super(Terminal, self).__init__()
        self.has_keyboard = sys.stdin.isatty()      # standard input is a terminal
        self._input = io.BufferedReader(StandardFile(sys.stdin, "r"))
        self._is_at_start = not self.has_keyboard   # no line of a pipe or file was read yet
        if hasattr(sys.stdin, "reconfigure"):       # 3.x: else a bad byte would raise in readline()
            sys.stdin.reconfigure(errors="surrogateescape")
        self._termios = _import_termios() if self.has_keyboard else None
        # terminal attributes at the start, to be restored by a signal
        self._attributes = self._termios and self._termios.tcgetattr(sys.stdin.fileno())
        self._suspend_action = signal.getsignal(signal.SIGTSTP)
        self._readline = None
        if self.has_keyboard and self.has_screen and sys.stderr:    # `input` needs all three
            self._readline = _import_readline()
        self._completer = None          # completer of the current question, see `ask`
        self._completions = []          # completions that readline is fetching one by one
        self._last_question = None      # last question printed into a pipe
        if self._readline:
            self._readline.set_completer(self._complete)

    @property
    def can_edit(self):
        """Return whether the player's lines have line editing, history and completion."""
        return self._readline is not None

    # --- input --------------------------------------------------------------------------------

    def ask(self, question, completer=None, remember=True, is_secret=False):
        """Return the player's next line, as text. Raise EOFError at the end of the input.

        `completer` serves the Tab key: it takes the line up to the cursor and returns (the part to
        complete, the names that this part may become). The line enters the history, which the arrow
        keys recall, only if `remember` is true. A secret line is not shown, and has none of these.
        """
        question = self._begin_question(self.escape(question))
        encoding = sys.stdin.encoding or locale.getpreferredencoding()
        while True:
            if is_secret and self._termios:
                line = self._read_secret(question)
            elif self._readline and not is_secret:
                self._completer = completer
                line = self._edit_line(question, remember)
            else:
                line = self._read_line(question)
            try:
                if type(line) is not Text:              # on 3.x a line with line editing is text
                    line = line.decode(encoding)
                line.encode("utf-8")                    # fails for surrogates of bytes not decoded
                return line
            except UnicodeError:
                self.say_error("That is not text in %s." % encoding_name(encoding))

    def _begin_question(self, question):
        """Print what of a long question leaves no room to type after it; return the rest."""
        if not self.has_keyboard or not self.has_screen:
            return question
        lines = wrap(question, max(self.width - ANSWER_COLUMNS, self.width // 2))
        for line in lines[:-1]:
            self.write(self.apply_style(line, BOLD) + "\n")
        return lines[-1] + " "

    def _read_line(self, question):
        """Read a line without line editing, as bytes without its end."""
        if self.has_keyboard:
            self.write(self.apply_style(question, BOLD))
        elif question != self._last_question:
            self.write(question.rstrip() + "\n")
        self._last_question = question
        line = self._input.readline()
        if self._is_at_start:
            self._is_at_start = False
            line = _strip_byte_order_mark(line)
        if not line:
            raise EOFError()
        if line.endswith(b"\r\n") and not self.has_keyboard:
            return line[:-2]
        return line[:-1] if line.endswith(b"\n") else line

    def _edit_line(self, question, remember):
        """Read a line with line editing, with the history or with none."""
        is_libedit = "libedit" in (self._readline.__doc__ or "")
        if not is_libedit:              # \001 and \002: readline counts no columns between them
            question = self.apply_style(question, BOLD, "\001%s\002")
        if str is bytes:
            question = question.encode(self.encoding)           # 2.7
        self._readline.parse_and_bind(TAB_SETTINGS[is_libedit, self._completer is not None])
        if remember:
            return self._input_line(question)
        # 2.7 cannot switch the history off, so it is removed and restored.
        history = [self._readline.get_history_item(number + 1)
                   for number in range(self._readline.get_current_history_length())]
        self._readline.clear_history()
        line = self._input_line(question)
        self._readline.clear_history()
        for earlier in history:
            self._readline.add_history(earlier)
        return line

    def _input_line(self, question):
        """Return a line of `input`; keep what was typed across Ctrl-Z and `fg`.

        readline itself does not notice the suspension: Enter would send a line that is not shown.
        """
        typed = ""
        self._readline.set_startup_hook(lambda: self._readline.insert_text(typed))
        line = None
        while line is None:
            try:
                with self._suspension_raised():
                    line = input(question)
            except _Suspended:
                if line is None:
                    typed = self._readline.get_line_buffer()
                    self._suspend()
        return line

    def _read_secret(self, question):
        """Read a line that is not shown, as bytes; ask again after Ctrl-Z and `fg`."""
        while True:
            try:
                with self._suspension_raised(), self._echo_switched_off():
                    return self._read_line(question)
            except _Suspended:
                self._suspend()
            except self._termios.error as error:        # the terminal is gone
                raise EnvironmentError(*error.args)

    @contextlib.contextmanager
    def _echo_switched_off(self):
        """Show nothing that is typed in the body of the `with`, and drop what was typed before."""
        termios, descriptor = self._termios, sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        hidden = list(before)
        hidden[3] = hidden[3] & ~termios.ECHO | termios.ECHONL      # Enter still ends the line
        try:
            termios.tcsetattr(descriptor, termios.TCSANOW, hidden)
            self.discard_typeahead()
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSANOW, before)

    @contextlib.contextmanager
    def _suspension_raised(self):
        """Raise _Suspended for Ctrl-Z in the body of the `with`."""
        # Where the signal is ignored, nobody could continue a suspended client.
        if self._suspend_action != signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, _raise_suspended)
        try:
            yield
        finally:
            signal.signal(signal.SIGTSTP, self._suspend_action)

    def _suspend(self):
        """Do what Ctrl-Z does by default; return after `fg`."""
        self.write("\n")
        os.kill(os.getpid(), signal.SIGTSTP)

    def discard_typeahead(self):
        """Drop what was typed and not read yet."""
        if self._termios:
            try:
                self._termios.tcflush(sys.stdin.fileno(), self._termios.TCIFLUSH)
            except self._termios.error:
                pass                    # the terminal is gone; the next read reports it

    def _complete(self, word, number):
        """Return the completion of that number, None after the last; called by readline."""
        if number == 0:
            self._completions = self._find_completions()
        return self._completions[number] if number < len(self._completions) else None

    def _find_completions(self):
        """Return the completions of the word at the cursor, but for names that need escapes."""
        line = self._readline.get_line_buffer()
        before, line = line[:self._readline.get_begidx()], line[:self._readline.get_endidx()]
        if str is bytes:                                        # 2.7
            before, line = [part.decode(self.encoding, "replace") for part in (before, line)]
        part, names = self._completer(line) if self._completer else ("", [])
        # readline replaces only the last word, so the earlier words of the name are cut off.
        known = len(before) - (len(line) - len(part))
        completions = [name[known:] for name in find_by_prefix(part, names)
                       if name == self.escape(name)]
        return [name.encode(self.encoding) for name in completions] if str is bytes else completions

    # --- signals ------------------------------------------------------------------------------

    def exit_on_signals(self):
        """Let each signal that ends the program put the terminal right, without a traceback."""
        for number in END_SIGNALS:
            signal.signal(number, self._exit)

    def _exit(self, number, frame):
        """Restore the terminal and exit with the status that shells use; a signal handler.

        An exception instead could be raised anywhere, even in the interpreter's own exit.
        """
        for other in END_SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        try:
            if self._termios:
                self._termios.tcsetattr(sys.stdin.fileno(), self._termios.TCSANOW, self._attributes)
            self.end_line()
        finally:                        # also if the terminal is gone
            os._exit(128 + number)

    def end_line(self):
        """Move to a new line of the screen, for the shell's prompt."""
        if self.has_keyboard and self.has_screen:
            os.write(sys.stdout.fileno(), b"\n")


def _strip_byte_order_mark(line):
    """Return a script's first line, as bytes, without UTF-8's mark. Raises UnreadableScript."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in line:
        raise UnreadableScript("This input is UTF-16; save it as UTF-8.")
    return line[len(codecs.BOM_UTF8):] if line.startswith(codecs.BOM_UTF8) else line


class _Suspended(Exception):
    """The player has typed Ctrl-Z."""


def _raise_suspended(number, frame):
    signal.signal(number, signal.SIG_IGN)       # no second exception before the first is handled
    raise _Suspended()


def _import_termios():
    """Return the module for terminal attributes, or None where there is none."""
    try:
        import termios
        return termios
    except ImportError:
        return None


def _import_readline():
    """Return the module for line editing, set up, or None where there is none."""
    try:
        import readline
    except ImportError:
        return None
    for setting in ("set show-all-if-ambiguous on",     # at the first Tab
                    "set enable-bracketed-paste off",   # pasted lines are lines
                    "set input-meta on", "set output-meta on", "set convert-meta off"):
        readline.parse_and_bind(setting)        # the last three: UTF-8 passes in the C locale
    return readline
