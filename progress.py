# -*- coding: utf-8 -*-
"""One line on the terminal about a long command."""
from __future__ import unicode_literals

import sys

from log import monotonic


class Progress(object):
    """The line, which is drawn on standard error; nothing where that is no terminal."""

    def __init__(self, stage):
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.begin = monotonic()
        self.stage(stage)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.clear()

    def stage(self, text):
        """Show what begins."""
        self.text = text
        self.draw()

    def advance(self, text, done, total):
        """Show a bar; called for each of many small steps."""
        if not done % 5000:
            full = 30 * done // max(total, 1)
            self.stage("%s [%s%s] %3d %%" % (text, "#" * full, "." * (30 - full),
                                             100 * done // max(total, 1)))

    def draw(self):
        """Draw the line again, with the seconds that have passed."""
        if self.is_terminal:        # ESC[?7l: the terminal cuts the line instead of wrapping it
            sys.stderr.write(str("\r\x1b[?7l%s %d s\x1b[K\x1b[?7h"
                                 % (self.text, monotonic() - self.begin)))
            sys.stderr.flush()

    def clear(self):
        if self.is_terminal:
            sys.stderr.write(str("\r\x1b[K"))
            sys.stderr.flush()
