# -*- coding: utf-8 -*-
"""client.py on an emulated terminal: what a player sees."""
from __future__ import unicode_literals

import fcntl
import os
import select
import signal
import struct
import sys
import termios

import pexpect
import pyte
from conftest import CLIENT, PATIENCE, WAITING, player_environment, wait_for
from playing import sleeps_or_ended
from wcwidth import wcswidth

# Keys, as a terminal sends them. CLEAR is Ctrl-U, which deletes the line before the cursor.
ENTER, TAB, UP, LEFT, CLEAR = "\r", "\t", "\x1b[A", "\x1b[D", "\x15"
CTRL_C, CTRL_Z = "\x03", "\x1a"
# The waiting notice, and the sequence that erases it.
NOTICE = b"\x1b[2m" + WAITING.encode("ascii") + b"\x1b[m\r\x1b[K"


class Screen(object):
    """A player at a terminal that shows colours and echoes what is typed."""

    def __init__(self, port, height=24, width=80, shell=(), **variables):
        self.command = [sys.executable, CLIENT, "--port", "%d" % port]
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.ByteStream(self.screen)
        command = list(shell) or self.command
        self.process = pexpect.spawn(
            command[0], command[1:], timeout=PATIENCE, dimensions=(height, width),
            env=player_environment(**dict({"TERM": "xterm-256color"}, **variables)))
        self.process.delaybeforesend = None
        self.process.ptyproc.delayafterclose = 0
        self.written = b""

    def type(self, *keys):
        self.process.send("".join(keys).encode("utf-8"))

    def type_signal(self, key):
        """Type Ctrl-C or Ctrl-Z once the program in the foreground sleeps.

        A signal just before a blocking call would be handled only after it; see signal(7).
        """
        wait_for(lambda: sleeps_or_ended(os.tcgetpgrp(self.process.child_fd)),
                 "the program in the foreground to sleep")
        self.type(key)

    def update(self):
        """Update the screen with what the client has written since the last update."""
        while select.select([self.process.child_fd], [], [], 0)[0]:
            try:
                data = os.read(self.process.child_fd, 65536)
            except OSError:             # the client has ended
                return
            self.written += data
            self.stream.feed(data)

    def sent(self):
        """Return everything that the client has written.

        The waiting notice is left out: how often it appears depends on the machine.
        """
        self.update()
        return self.written.replace(NOTICE, b"")

    def resize(self, width):
        self.update()
        self.screen.resize(columns=width)
        fcntl.ioctl(self.process.child_fd, termios.TIOCSWINSZ,
                    struct.pack(str("HHHH"), self.screen.lines, width, 0, 0))

    def lines(self):
        self.update()
        return [line.rstrip() for line in self.screen.display]

    def line(self):
        """Return the line of the cursor."""
        return self.lines()[self.screen.cursor.y]

    def until(self, condition):
        try:
            wait_for(condition, "a condition on this screen")
        except AssertionError as error:
            raise AssertionError("%s:\n%s" % (error, "\n".join(self.lines()).rstrip()))

    def until_line(self, line):
        """Wait until the cursor is at the end of this line."""
        self.until(lambda: self.line() == line.rstrip() and self.screen.cursor.x == wcswidth(line))

    def until_shown(self, *lines):
        """Wait until the screen shows these lines one below the other."""
        self.until(lambda: "\n%s\n" % "\n".join(lines) in "\n%s\n" % "\n".join(self.lines()))

    def enter(self, line, prompt):
        """Type a line; wait until the prompt is shown in a new line."""
        self.update()
        seen = len(self.written)
        self.type(line, ENTER)
        self.until(lambda: self.line() == prompt.rstrip() and b"\n" in self.written[seen:])

    def style(self, text):
        """Return (colour, is bold) of the first character of a text on the screen."""
        for number, line in enumerate(self.lines()):
            if text in line:
                cell = self.screen.buffer[number][line.index(text)]
                return cell.fg, cell.bold
        raise AssertionError("%r is not on the screen" % text)

    def end(self):
        self.process.kill(signal.SIGKILL)
        self.process.wait()
        self.process.close()
