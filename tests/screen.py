# -*- coding: utf-8 -*-
"""client.py on a terminal, as a player has it before the eyes."""
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
from wcwidth import wcswidth

# Keys, as a terminal sends them. CLEAR is Ctrl-U, which takes back what stands before the cursor.
ENTER, TAB, UP, LEFT, CLEAR = "\r", "\t", "\x1b[A", "\x1b[D", "\x15"
CTRL_C, CTRL_Z = "\x03", "\x1a"
# What is shown while the client waits, with what takes it away again.
NOTICE = b"\x1b[2m" + WAITING.encode("ascii") + b"\x1b[m\r\x1b[K"


class Screen(object):
    """A player before a terminal that shows colours, and echoes what is typed."""

    def __init__(self, port, height=24, shell=(), **variables):
        self.command = [sys.executable, CLIENT, "--port", "%d" % port]
        self.screen = pyte.Screen(80, height)
        self.stream = pyte.ByteStream(self.screen)
        command = list(shell) or self.command
        self.process = pexpect.spawn(
            command[0], command[1:], timeout=PATIENCE, dimensions=(height, 80),
            env=player_environment(**dict({"TERM": "xterm-256color"}, **variables)))
        self.process.delaybeforesend = None
        self.process.ptyproc.delayafterclose = 0
        self.all = b""

    def type(self, *keys):
        self.process.send("".join(keys).encode("utf-8"))

    def look(self):
        """Take in what has been shown since the last look."""
        while select.select([self.process.child_fd], [], [], 0)[0]:
            try:
                data = os.read(self.process.child_fd, 65536)
            except OSError:             # it has ended
                return
            self.all += data
            self.stream.feed(data)

    def sent(self):
        """All that the terminal was sent, without a notice that the client waits: a slow machine
        has more of them."""
        self.look()
        return self.all.replace(NOTICE, b"")

    def resize(self, width):
        fcntl.ioctl(self.process.child_fd, termios.TIOCSWINSZ,
                    struct.pack(str("HHHH"), 24, width, 0, 0))

    def lines(self):
        self.look()
        return [line.rstrip() for line in self.screen.display]

    def line(self):
        """The one that the cursor is in."""
        return self.lines()[self.screen.cursor.y]

    def until(self, condition):
        try:
            wait_for(condition, "what should be on this screen")
        except AssertionError as error:
            raise AssertionError("%s:\n%s" % (error, "\n".join(self.lines()).rstrip()))

    def until_line(self, line):
        """Wait until the cursor is behind this."""
        self.until(lambda: self.line() == line.rstrip() and self.screen.cursor.x == wcswidth(line))

    def until_shown(self, *lines):
        """Wait until these stand on the screen, one below the other."""
        self.until(lambda: "\n%s\n" % "\n".join(lines) in "\n%s\n" % "\n".join(self.lines()))

    def enter(self, line, prompt):
        """Type a line; wait until a prompt stands in the next free one."""
        self.look()
        seen = len(self.all)
        self.type(line, ENTER)
        self.until(lambda: self.line() == prompt.rstrip() and b"\n" in self.all[seen:])

    def style(self, text):
        """(colour, bold) of the first character of a text on the screen."""
        for number, line in enumerate(self.lines()):
            if text in line:
                cell = self.screen.buffer[number][line.index(text)]
                return cell.fg, cell.bold
        raise AssertionError("%r is not on the screen" % text)

    def end(self):
        self.process.kill(signal.SIGKILL)
        self.process.wait()
        self.process.close()
