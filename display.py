# -*- coding: utf-8 -*-
"""What the player sees: lines and tables, their colours and widths, and a notice of waiting."""
from __future__ import unicode_literals

import contextlib
import locale
import os
import struct
import sys
import threading

from cli import StandardFile
from columns import columns, escape_unseen, fit, shorten, wrap
from constants import COLUMNS, NICKNAME_COLUMNS, WAITING_NOTICE_SECONDS
from text import WHITE_SPACE

# Styles of lines, as parameters of ECMA-48's SGR; readable on dark and on light screens.
PLAIN, BOLD, FAINT, RED, GREEN = "", "1", "2", "31", "32"


class Display(object):
    """Standard output: a screen, with colours if it can show them, or a pipe or file."""

    def __init__(self):
        self.has_screen = sys.stdout.isatty()       # standard output is a terminal
        self.can_erase = self.has_screen and (os.environ.get("TERM") or "dumb") != "dumb"
        self.has_colours = self.can_erase and not os.environ.get("NO_COLOR")    # no-color.org
        self.encoding = sys.stdout.encoding or locale.getpreferredencoding()
        self._output = StandardFile(sys.stdout, "w")

    @property
    def width(self):
        """Return how many columns a line may take now: the terminal's, at most COLUMNS."""
        return min(COLUMNS, self.has_screen and _terminal_width(sys.stdout.fileno()) or COLUMNS)

    def say(self, text, style=PLAIN, indent=0):
        """Print a line, escaped; a screen shows it wrapped, the later lines indented."""
        text = self.escape(text)
        for line in wrap(text, self.width, indent) if self.has_screen else [text]:
            self.write(self.apply_style(line, style) + "\n")

    def say_error(self, *sentences):
        """Print an error: in one line where it fits, else a line for each sentence."""
        text = " ".join(sentences)
        fits = not self.has_screen or columns(self.escape(text)) <= self.width
        for line in [text] if fits else sentences:
            self.say(line, RED)

    def show_table(self, alignments, rows):
        """Print rows, each (cells, style); `alignments` has "<" or ">" for each column.

        Text is shortened, so that a row fits into a line; a number is not.
        """
        rows = [([self.escape(cell) for cell in cells], style) for cells, style in rows]
        widths = [max(columns(cell) for cell in column)
                  for column in zip(*[cells for cells, _ in rows])]
        widths = fit(widths, alignments, self.width - 2 * len(widths))
        for cells, style in rows:
            line = ""
            for cell, width, alignment in zip(cells, widths, alignments):
                cell = shorten(cell, width)
                padding = " " * (width - columns(cell))
                line += "  " + (padding + cell if alignment == ">" else cell + padding)
            self.say(line.rstrip(), style)

    def escape(self, text):
        """Return text that is safe to show and can be encoded for this terminal."""
        return escape_unseen(text).encode(self.encoding, "backslashreplace").decode(self.encoding)

    def shorten(self, text, width):
        """Return the text, escaped, or as much of it as fits into `width` columns.

        That is half a line at most, so that there is room for a sentence around it.
        """
        return shorten(self.escape(text), min(width, self.width // 2))

    def name(self, text, width=None):
        """Return a nickname as it is shown, in at most `width` columns.

        It stands in quotation marks, with its own ones escaped, if it begins or ends with white
        space, begins with a quotation mark, or has escapes. No two nicknames look the same.
        """
        escaped = self.escape(text)
        if escaped == text == text.strip(WHITE_SPACE) and not text.startswith('"'):
            return escaped if width is None else shorten(escaped, width)
        escaped = self.escape(text.replace("\\", "\\\\").replace('"', '\\"'))
        return '"%s"' % (escaped if width is None else shorten(escaped, width - len('""')))

    def short_name(self, text):
        """Return a nickname for a question, so that there is room to type."""
        return self.name(text, min(NICKNAME_COLUMNS, self.width // 3))

    def write(self, text):
        """Print escaped text at once."""
        data = text.encode(self.encoding)
        while data:
            data = data[self._output.write(data):]

    def show_notice(self, text):
        """Print a line that `erase_notice` erases where the terminal can do that."""
        line = shorten(text, self.width)        # a second line would not be erased
        self.write(self.apply_style(line, FAINT) + ("" if self.can_erase else "\n"))

    def erase_notice(self):
        if self.can_erase:
            self.write("\r\x1b[K")              # ECMA-48: erase the line

    def apply_style(self, text, style, markers="%s"):
        """Return the text in a style; `markers` wraps escapes, so that readline counts columns."""
        if not self.has_colours or not style:
            return text
        return markers % ("\x1b[%sm" % style) + text + markers % "\x1b[m"


def call_server(display, method, *arguments):
    """Return the result of a method that waits for the server; say so if it takes long."""
    with _waiting_notice(display):
        return method(*arguments)


@contextlib.contextmanager
def _waiting_notice(display):
    """Show a notice while the body of the `with` takes long.

    A thread prints it: on 2.7 an alarm signal would interrupt the calls that wait.
    """
    printed = threading.Event()

    def show():
        printed.set()
        try:
            display.show_notice("Waiting for the server ...")
        except EnvironmentError:        # the terminal is gone; the main thread finds that, too
            pass

    timer = threading.Timer(WAITING_NOTICE_SECONDS, show)
    timer.daemon = True
    try:
        timer.start()
    except threading.ThreadError:       # no thread can be started: there is no notice
        pass
    try:
        yield
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
        if printed.is_set():
            display.erase_notice()


def _terminal_width(descriptor):
    """Return how many columns a terminal has, 0 if it does not tell."""
    try:
        import fcntl
        import termios
        size = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8)   # tty_ioctl(4)
    except (ImportError, EnvironmentError):
        return 0
    return struct.unpack(str("HHHH"), size)[1]
