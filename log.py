# -*- coding: utf-8 -*-
"""The log: its lines on standard error, and a limit to how many of a kind are written."""
from __future__ import unicode_literals

import errno
import logging
import os
import select
import signal
import socket
import stat
import sys
import time
import traceback

from constants import (LOG_ADDRESS_LINES, LOG_BUFFER, LOG_EXIT_SECONDS, LOG_LINE, LOG_LINES,
                       LOG_RESERVE, LOG_SUMMARY_SECONDS, LOG_TRACEBACK, LOG_WRITES)
from text import MAX_ESCAPE, cut, escape

log = logging.getLogger("lavka.log")

try:
    from time import monotonic
except ImportError:                                     # 2.7: asks the C library
    import ctypes

    class _Timespec(ctypes.Structure):
        _fields_ = [(str("seconds"), ctypes.c_long), (str("nanoseconds"), ctypes.c_long)]

    _clock_gettime = ctypes.CDLL(None).clock_gettime
    _now = _Timespec()                  # one for all calls: only the main thread measures durations
    _now_pointer = ctypes.byref(_now)

    def monotonic():
        """Return the seconds of CLOCK_MONOTONIC, 1 on Linux (clock_gettime(2))."""
        _clock_gettime(1, _now_pointer)
        return _now.seconds + 1e-9 * _now.nanoseconds

STDERR = 2

# Prefixes of a line's level in systemd's journal (sd-daemon(3)).
PRIORITIES = {logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>",
              logging.ERROR: "<3>", logging.CRITICAL: "<2>"}

# Errors of write(2) that pass: a reader that is behind, a full disk or quota, a file at its limit.
# After any other, nobody will ever get what was written.
TEMPORARY = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS, errno.ENOSPC,
             errno.EDQUOT, errno.EFBIG}


# --- the form of a line -----------------------------------------------------------------------

class LineFormatter(logging.Formatter):
    """Formats each line of a message as a line of the log, with time and level; the lines of a
    traceback are indented. Control characters are escaped, and long lines and tracebacks cut.

    `encoding` is that in which the lines are written: their limit is in bytes. systemd's journal
    has a time of its own for each line, and takes its level from a prefix (`is_for_journal`).
    """
    ROOM = LOG_LINE - len("...+1234567890\n")
    SHORT = ROOM // MAX_ESCAPE          # characters that fit whatever they are

    def __init__(self, encoding="utf-8", is_for_journal=False):
        super(LineFormatter, self).__init__()
        self.encoding = encoding
        self.is_for_journal = is_for_journal
        self.last_second = (None, "")   # second since the epoch, and its text

    def format(self, record):
        if self.is_for_journal:
            begin = PRIORITIES[record.levelno]
            indent = begin + "    "
        else:
            begin = "%s %s " % (self.formatTime(record), record.levelname)
            indent = "    "
        lines = [begin + line for line in record.getMessage().split("\n")]
        if record.exc_info:
            lines += [indent + line for line in self.traceback_lines(record)]
        return "\n".join([escape(line) if len(line) <= self.SHORT else
                          "".join(cut(line, self.ROOM, escape, self.encoding)) for line in lines])

    def formatTime(self, record, datefmt=None):
        """Return the time of a record, in UTC (ISO 8601)."""
        second = int(record.created)
        known, text = self.last_second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self.last_second = second, text
        return "%s.%03dZ" % (text, record.msecs)

    def traceback_lines(self, record):
        """Return the lines of the traceback, of a long one the first and the last."""
        stack = self.formatException(record.exc_info)
        if isinstance(stack, bytes):                    # 2.7
            stack = stack.decode("utf-8", "replace")
        lines = stack.split("\n")
        left_out = len(lines) - LOG_TRACEBACK
        if left_out > 0:
            lines[LOG_TRACEBACK // 2:-LOG_TRACEBACK // 2] = ["...+%d lines" % left_out]
        return lines


# --- writing ----------------------------------------------------------------------------------

class LogWriter(logging.Handler):
    """Writes the log to standard error, and never waits for whoever reads it.

    What cannot be written now waits in a buffer of LOG_BUFFER bytes. Lines for which it has no room
    are lost: all of them until it is empty again, and then a line tells how many. Those of WARNING
    and above have a part of the buffer for themselves.

    To the event loop the writer is a source of periodic work.
    """
    socket = None

    def __init__(self):
        super(LogWriter, self).__init__()
        self.encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        self.setFormatter(LineFormatter(self.encoding, is_journal()))
        self.write, self.most = open_stderr()
        self.buffer = bytearray()       # lines to write; the first may have begun already
        self.lost = 0                   # number of lines lost since the start
        self.untold = 0                 # of these, not told in the log yet

    def emit(self, record):
        """Write the record's lines, or keep them; those without room are lost."""
        data = self.encode(record)
        is_urgent = record.levelno >= logging.WARNING
        self.write_buffer()
        if self.untold and not is_urgent:
            self.lose(data.count(b"\n"))
            return
        self.buffer += data
        self.write_buffer()
        room = LOG_BUFFER if is_urgent else LOG_BUFFER - LOG_RESERVE
        if len(self.buffer) > room:
            earlier = max(0, len(self.buffer) - len(data))
            kept = max(earlier, self.buffer.rfind(b"\n", 0, room) + 1)
            self.lose(self.buffer.count(b"\n", kept))
            del self.buffer[kept:]

    def lose(self, lines):
        self.lost += lines
        self.untold += lines

    def write_buffer(self):
        """Write what is taken now; then tell how many lines were lost, if nothing is left."""
        buffer = self.buffer
        for _ in range(LOG_WRITES):
            if not self.has_pending_work():
                return
            notice = b"" if buffer else self.encode(log.makeRecord(
                log.name, logging.WARNING, "", 0, "log_lost lost=%d", (self.untold,), None))
            try:
                written = self.write(notice[:self.most] or bytes(buffer[:self.piece()]))
            except EnvironmentError as error:
                if error.errno not in TEMPORARY:
                    self.lose(buffer.count(b"\n"))
                    del buffer[:]
                return
            if notice:
                self.untold = 0
                buffer += notice
            del buffer[:written]

    def piece(self):
        """Return how many bytes of the buffer to write at once: whole lines, if possible."""
        return self.buffer.rfind(b"\n", 0, self.most) + 1 or self.most

    def encode(self, record):
        return self.format(record).encode(self.encoding, "backslashreplace") + b"\n"

    def has_pending_work(self):
        return bool(self.buffer or self.untold)

    def do_pending_work(self, clock):
        self.write_buffer()

    def flush(self):
        """Give a slow reader a moment to take the last lines; `logging` calls this at the exit."""
        deadline = monotonic() + LOG_EXIT_SECONDS
        self.write_buffer()
        while self.buffer and monotonic() < deadline:
            time.sleep(LOG_EXIT_SECONDS / 20)
            self.write_buffer()


def is_journal():
    """Return whether standard error is systemd's journal.

    The variable alone does not tell: a child with another standard error inherits it
    (systemd.exec(5)).
    """
    status = os.fstat(STDERR)
    return os.environ.get("JOURNAL_STREAM") == "%d:%d" % (status.st_dev, status.st_ino)


def open_stderr():
    """Return (function that writes bytes to standard error, most bytes to pass to it).

    The function never waits: it returns how many bytes were written, or raises EnvironmentError.
    """
    mode = os.fstat(STDERR).st_mode
    if stat.S_ISSOCK(mode):                             # of systemd's journal
        sock = socket.fromfd(STDERR, socket.AF_UNIX, socket.SOCK_STREAM)
        return lambda data: sock.send(data, socket.MSG_DONTWAIT), LOG_BUFFER
    if os.isatty(STDERR):
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)   # `stty tostop` stops whoever writes
        most = 1
    elif stat.S_ISFIFO(mode):
        # So much enters a pipe all at once or not at all (pipe(7)). Its reader gets whole lines,
        # even if other programs write to it, or this one is killed.
        most = select.PIPE_BUF
    else:                                               # a file waits for no reader
        return lambda data: os.write(STDERR, data), LOG_BUFFER
    try:
        # O_NONBLOCK belongs to the open file description, which other programs share: the shell's
        # own reads and writes would fail. So descriptor 2 gets a description of its own.
        own = os.open("/proc/self/fd/%d" % STDERR, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.dup2(own, STDERR)
        os.close(own)
        return lambda data: os.write(STDERR, data), max(most, select.PIPE_BUF)
    except EnvironmentError:                            # another user's, or there is no /proc
        # A terminal with less room than the data makes the writer wait, though poll(2) says that
        # it can be written to; room for one byte there always is.
        return write_if_ready, most


def write_if_ready(data):
    """Write to standard error if poll(2) says that it is possible; for a description that waits."""
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    try:
        is_ready = poll.poll(0)
    except select.error:                                # 2.7: a signal came
        is_ready = False
    if not is_ready:
        raise EnvironmentError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(STDERR, data)


def log_to_stderr(level):
    """Write Lavka's log to standard error, from this level on; returns the LogWriter."""
    writer = LogWriter()
    logging.getLogger().addHandler(writer)
    logging.getLogger("lavka").setLevel(level)          # not peewee's own debug lines
    return writer


def lost_lines():
    """Return how many lines of the log were lost, for the statistics."""
    return sum(handler.lost for handler in logging.getLogger().handlers
               if isinstance(handler, LogWriter))


# --- how many lines of a kind are written -----------------------------------------------------

class LogRateLimiter(object):
    """Rate-limited logging: the first line of its kind is written, the others are counted.

    A kind is the beginning of a line; it is forgotten when no line of it came between two counts.
    As the filter of a logger, the limiter takes a message's first word for its kind, and lets those
    that begin with "storage" pass: the shop debounces them. To the event loop it is a source of
    periodic work.

    Lines about each login and logout have quotas instead: of an address, and of all together. These
    are token buckets that are filled up at each count. None has an entry while it is full, so there
    are at most as many entries as lines were written.
    """
    socket = None

    def __init__(self, clock=monotonic):
        self.clock = clock
        self.suppressed = {}            # (level, kind) -> lines not written since the last count
        self.quotas = {}                # (kind, host) -> lines left; of all hosts: kind
        self.summary_at = 0             # time to log the counts

    def filter(self, record):
        kind = record.msg.split(None, 1)[0]
        return kind.startswith("storage") or self.is_first(record.levelno, kind)

    def is_first(self, level, kind):
        """Count this line; return whether it is to be written."""
        self.begin()
        count = self.suppressed.get((level, kind), -1) + 1
        self.suppressed[level, kind] = count
        return count == 0

    def has_quota(self, kind, host):
        """Count this line of level INFO about a client; return whether it is to be written."""
        quotas, bucket = self.quotas, (kind, host)
        if not quotas:
            self.begin()
        left = quotas.get(kind, LOG_LINES[0])
        left_of_host = quotas.get(bucket, LOG_ADDRESS_LINES[0])
        if left and left_of_host:
            quotas[kind] = left - 1
            quotas[bucket] = left_of_host - 1
            return True
        key = logging.INFO, "%s host=%s" % (kind, host) if left else kind
        self.suppressed[key] = self.suppressed.get(key, 0) + 1
        return False

    def begin(self):
        """Set the time of the next count, unless that was done."""
        if not self.has_pending_work():
            self.summary_at = self.clock() + LOG_SUMMARY_SECONDS

    def has_pending_work(self):
        return bool(self.suppressed or self.quotas)

    def do_pending_work(self, clock):
        if self.has_pending_work() and clock() >= self.summary_at:
            self.log_counts()

    def log_counts(self):
        """Log how many lines of each kind were not written, and fill up the quotas."""
        self.summary_at = self.clock() + LOG_SUMMARY_SECONDS
        for (level, kind), count in list(self.suppressed.items()):
            if count:
                log.log(level, "%s times=%d", kind, count)
                self.suppressed[level, kind] = 0
            else:
                del self.suppressed[level, kind]
        for bucket, left in list(self.quotas.items()):
            most, refill = LOG_ADDRESS_LINES if type(bucket) is tuple else LOG_LINES
            if left + refill < most:
                self.quotas[bucket] = left + refill
            else:
                del self.quotas[bucket]


def log_defect(limiter, defect):
    """Log the exception that is handled now, with its traceback: a defect of the program."""
    path, number = traceback.extract_tb(sys.exc_info()[2])[-1][:2]
    kind = "defect error=%s at=%s:%d" % (type(defect).__name__, os.path.basename(path), number)
    if limiter.is_first(logging.ERROR, kind):
        log.exception(kind)
