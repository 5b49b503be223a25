# -*- coding: utf-8 -*-
"""The log: its lines on standard error, and a limit to how many of a kind are written."""
from __future__ import unicode_literals

import logging
import os
import sys
import time
import traceback

from constants import LOG_SUMMARY_SECONDS
from text import escape

log = logging.getLogger("lavka.log")
monotonic = getattr(time, "monotonic", time.time)       # 2.7


class LineFormatter(logging.Formatter):
    """Formats each line of a message as a line of the log, with time and level; the lines of a
    traceback are indented. Control characters are escaped."""

    def format(self, record):
        begin = "%s %s " % (self.formatTime(record), record.levelname)
        lines = [begin + line for line in record.getMessage().split("\n")]
        if record.exc_info:
            stack = self.formatException(record.exc_info)
            if isinstance(stack, bytes):                # 2.7
                stack = stack.decode("utf-8", "replace")
            lines += ["    " + line for line in stack.split("\n")]
        return "\n".join(escape(line) for line in lines)


def log_to_stderr(level):
    """Write Lavka's log to standard error, from this level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("lavka").setLevel(level)          # not peewee's own debug lines


class LogRateLimiter(object):
    """Rate-limited logging: the first line of its kind is written, the others are counted.

    A kind is the beginning of a line; it is forgotten when no line of it came between two counts.
    As the filter of a logger, the limiter takes a message's first word for its kind, and lets those
    that begin with "storage" pass: the shop debounces them. To the event loop it is a source of
    periodic work.
    """
    socket = None

    def __init__(self, clock=monotonic):
        self.clock = clock
        self.suppressed = {}            # (level, kind) -> lines not written since the last count
        self.summary_at = 0             # time to log the counts

    def filter(self, record):
        kind = record.msg.split(None, 1)[0]
        return kind.startswith("storage") or self.is_first(record.levelno, kind)

    def is_first(self, level, kind):
        """Count this line; return whether it is to be written."""
        if not self.suppressed:
            self.summary_at = self.clock() + LOG_SUMMARY_SECONDS
        count = self.suppressed.get((level, kind), -1) + 1
        self.suppressed[level, kind] = count
        return count == 0

    def has_pending_work(self):
        return bool(self.suppressed)

    def do_pending_work(self, clock):
        if self.suppressed and clock() >= self.summary_at:
            self.log_counts()

    def log_counts(self):
        """Log how many lines of each kind were not written."""
        self.summary_at = self.clock() + LOG_SUMMARY_SECONDS
        for (level, kind), count in list(self.suppressed.items()):
            if count:
                log.log(level, "%s times=%d", kind, count)
                self.suppressed[level, kind] = 0
            else:
                del self.suppressed[level, kind]


def log_defect(limiter, defect):
    """Log the exception that is handled now, with its traceback: a defect of the program."""
    path, number = traceback.extract_tb(sys.exc_info()[2])[-1][:2]
    kind = "defect error=%s at=%s:%d" % (type(defect).__name__, os.path.basename(path), number)
    if limiter.is_first(logging.ERROR, kind):
        log.exception(kind)
