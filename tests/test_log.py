# -*- coding: utf-8 -*-
"""The log: its format, writing without waiting, and rate-limited logging."""
from __future__ import unicode_literals

import contextlib
import logging
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import ROOT, Clock, Peer, environment, reason

import log
from constants import (LOG_ADDRESS_LINES, LOG_BUFFER, LOG_LINE, LOG_LINES, LOG_RESERVE,
                       LOG_SUMMARY_SECONDS, LOG_TRACEBACK)

BEGIN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "


# --- the format -----------------------------------------------------------------------------------

def make_record(level, message, exc_info=None):
    return logging.LogRecord(str("lavka"), level, str("log.py"), 1, message, (), exc_info)


def formatted(level, message, exc_info=None, encoding="utf-8", is_for_journal=False):
    record = make_record(level, message, exc_info)
    return log.LineFormatter(encoding, is_for_journal).format(record).split("\n")


def test_each_line_of_a_message_has_its_time_and_level():
    first, second = formatted(logging.WARNING, "one\ntwo")
    assert re.match(BEGIN + "WARNING one$", first) and re.match(BEGIN + "WARNING two$", second)


def test_time_is_utc_with_milliseconds(monkeypatch):
    formatter = log.LineFormatter()
    monkeypatch.setenv(str("TZ"), str("EAST-9"))
    time.tzset()
    try:
        for second, text in [(0, "2026-01-01T00:00:00"), (59, "2026-01-01T00:00:59"),
                             (3600, "2026-01-01T01:00:00"), (0, "2026-01-01T00:00:00")]:
            for milliseconds in (7, 999):
                record = make_record(logging.INFO, "event")
                record.created = 1767225600 + second + milliseconds / 1000
                record.msecs = milliseconds + 0.1
                assert formatter.format(record) == "%s.%03dZ INFO event" % (text, milliseconds)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("level, prefix", [
    (logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>"),
    (logging.CRITICAL, "<2>")])
def test_for_the_journal_each_line_has_its_priority_and_no_time(level, prefix):
    try:
        raise ValueError("a\n<6>b")
    except ValueError:
        lines = formatted(level, "one\ntwo", sys.exc_info(), is_for_journal=True)
    assert lines[:3] == [prefix + "one", prefix + "two",
                         prefix + "    Traceback (most recent call last):"]
    assert len(lines) > 5 and all(line.startswith(prefix + "    ") for line in lines[2:])


def test_control_characters_are_escaped():
    line, = formatted(logging.INFO, 'login nickname="\x1b[31m\u202e\x9b"\r')
    assert re.match(BEGIN + r'INFO login nickname="\\u001b\[31m\\u202e\\u009b"\\u000d$', line)


@pytest.mark.parametrize("text", [
    "a\n2026-01-01T00:00:00.000Z INFO login\x1b[31m", "\u0431\u043e\u0431\n\U0001f469",
    b"a\n2026-01-01T00:00:00.000Z INFO \xff\x1b"], ids=["text", "not ASCII", "bytes"])
def test_the_lines_of_a_traceback_are_indented_and_escaped(text):
    """An exception's text may have anything in it that a client has sent."""
    try:
        raise ValueError(text)
    except ValueError:
        lines = formatted(logging.ERROR, "defect", sys.exc_info())
    assert re.match(BEGIN + "ERROR defect$", lines[0]) and len(lines) >= 4
    assert lines[1] == "    Traceback (most recent call last):"
    assert "ValueError" in "".join(lines)
    assert all(line.startswith("    ") for line in lines[1:])
    assert not re.search("[\x00-\x1f\x7f-\x9f]", "".join(lines))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("text", ["x" * 3000, "\u00e4\U0001f600" * 1000, "\x1b" * 100000])
@pytest.mark.parametrize("prefix", ["2026-01-01T00:00:00.000Z ERROR ", "<3>"])
def test_each_line_is_bounded_and_says_how_much_was_left_out(text, encoding, prefix):
    short, long = formatted(logging.ERROR, "a\n" + text, encoding=encoding,
                            is_for_journal=prefix == "<3>")
    assert len(short) == len(prefix + "a")
    kept, left_out = long.split("...+")
    assert LOG_LINE - 50 < len((long + "\n").encode(encoding, "backslashreplace")) <= LOG_LINE
    assert kept[len(prefix):] == log.escape(text[:-int(left_out)])


def endless(depth):
    return endless(depth + 1) if depth % 2 else other_endless(depth + 1)


def other_endless(depth):
    return endless(depth + 1)


def test_traceback_of_a_recursion_is_its_first_and_last_lines():
    try:
        endless(0)
    except RuntimeError:                # RecursionError is one
        lines = formatted(logging.ERROR, "defect", sys.exc_info())
    assert lines[1] == "    Traceback (most recent call last):"
    assert len(lines) == LOG_TRACEBACK + 2 and "recursion" in lines[-1]
    cut, = [line for line in lines if "...+" in line]
    assert re.match(r"    \.\.\.\+\d{3,} lines$", cut)


def test_a_traceback_on_standard_error_cannot_begin_a_line():
    code = ("import logging, log\n"
            "log.log_to_stderr(logging.INFO)\n"
            "try:\n"
            "    raise ValueError('a\\n2026-01-01T00:00:00.000Z INFO login\\x1b[31m')\n"
            "except ValueError:\n"
            "    logging.exception('defect')\n"
            "logging.getLogger('lavka.server').info('listening')\n"
            "logging.getLogger('lavka.server').debug('not logged')\n"
            "logging.getLogger('peewee').debug('not logged')\n")
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=ROOT,
                               env=environment())
    lines = process.communicate()[1].decode("utf-8").splitlines()
    assert lines[0].endswith("ERROR defect") and len(lines) >= 5
    assert all(line.startswith("    ") for line in lines[1:-1]) and "\x1b" not in "".join(lines)
    assert re.match(BEGIN + "INFO listening$", lines[-1])


# --- writing --------------------------------------------------------------------------------------

# Fills whatever the log is written to. Then it says how many lines were lost, waits for a line, and
# writes the rest, as the loop has it do.
WRITE = """
from __future__ import print_function, unicode_literals
import logging, os, sys, log
from log import log as logger
%s
writer = log.log_to_stderr(logging.INFO)
for number in range(2000):
    logger.info("number=%%d %%s", number, "x" * 200)
%s
print(writer.lost)
sys.stdout.flush()
sys.stdin.readline()
while writer.has_pending_work():
    writer.do_pending_work(None)
logger.info("afterwards")
"""

# Makes descriptor 2 one that cannot be opened again.
OF_ANOTHER_USER = ("os.fchmod(2, 0)\n"
                   "if os.getuid() == 0:\n"
                   "    os.setuid(65534)\n")


def write_log(stderr, before="", afterwards="", begin=BEGIN):
    """Run that program, whose log nobody reads at first; return (lost lines, messages).

    `stderr` is (descriptor to read, descriptor to write), `begin` what each line begins with.
    """
    reader, writer = stderr
    process = subprocess.Popen([sys.executable, "-c", WRITE % (before, afterwards)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer,
                               cwd=ROOT, env=environment(), close_fds=True)
    os.close(writer)
    lost = int(process.stdout.readline())
    process.stdin.write(b"\n")
    process.stdin.flush()
    data = b""
    try:
        for piece in iter(lambda: os.read(reader, 1 << 16), b""):
            data += piece
    except EnvironmentError:                            # EIO: the end of a terminal
        pass
    os.close(reader)
    assert process.wait() == 0
    lines = data.decode("utf-8").splitlines()
    assert all(re.match(begin, line) for line in lines) and data.endswith(b"\n")
    return lost, [re.sub(begin, "", line) for line in lines]


@pytest.mark.parametrize("open_stderr", [os.pipe, os.openpty])
@pytest.mark.parametrize("before", ["", OF_ANOTHER_USER], ids=["", "another user's"])
def test_lines_without_room_are_lost_and_their_number_is_told(open_stderr, before):
    """What is read are whole lines: the first ones, then the gap, then what comes afterwards."""
    lost, lines = write_log(open_stderr(), before)
    kept = 2000 - lost
    assert [line.split(" x")[0] for line in lines] == [
        "INFO number=%d" % number for number in range(kept)] + [
        "WARNING log_lost lost=%d" % lost, "INFO afterwards"]
    assert LOG_BUFFER - LOG_RESERVE < kept * 240 < LOG_BUFFER


# Makes the program's standard error the journal.
IN_JOURNAL = ("status = os.fstat(2)\n"
              "os.environ['JOURNAL_STREAM'] = '%d:%d' % (status.st_dev, status.st_ino)\n")


def journal():
    """Return the descriptors of a socket, as systemd has it: (to read, to write)."""
    return [os.dup(end.fileno()) for end in socket.socketpair()]


def test_notice_of_lost_lines_has_a_priority_in_the_journal():
    lost, lines = write_log(journal(), IN_JOURNAL, begin="<[64]>(?=[a-z])")
    assert lost > 0 and lines[-2:] == ["log_lost lost=%d" % lost, "afterwards"]


def test_server_in_the_journal_writes_priorities(start):
    ours, theirs = socket.socketpair()
    status = os.fstat(theirs.fileno())
    stream = "JOURNAL_STREAM=%d:%d" % (status.st_dev, status.st_ino)
    program = start(stderr=theirs, wrapper=["env", stream])
    theirs.close()
    program.process.terminate()
    with contextlib.closing(ours.makefile("rb")) as file:
        lines = file.read().decode("utf-8").splitlines()
    assert lines[0].startswith("<6>start version=") and lines[-1] == "<6>stopped"
    assert all(re.match("<6>[a-z]+", line) for line in lines)
    # A child whose standard error is a file inherits the variable.
    program = start(wrapper=["env", stream])
    assert all(re.match(BEGIN, line) for line in program.log().splitlines())


def test_errors_have_room_when_other_lines_have_none():
    """So much as is reserved for them; what the buffer takes is bounded."""
    lost, lines = write_log(
        os.pipe(), afterwards="for number in range(2000):\n"
        "    logger.error('error number=%d %s', number, 'x' * 200)\n"
        "assert log.LOG_BUFFER - 300 < len(writer.buffer) <= log.LOG_BUFFER\n")
    size = sum(len("2026-01-01T00:00:00.000Z \n") + len(line) for line in lines if "ERROR" in line)
    assert LOG_RESERVE - 300 < size < LOG_RESERVE + 300
    assert lines[-2:] == ["WARNING log_lost lost=%d" % lost, "INFO afterwards"]
    assert len(lines) == 4000 - lost + 2


def test_record_larger_than_the_buffer_is_written_whole_if_somebody_reads(directory):
    """A tick of many logins is one record."""
    path = os.path.join(directory, "log")
    code = ("import logging, log\n"
            "log.log_to_stderr(logging.INFO)\n"
            "log.log.info('%s', '\\n'.join(['x' * 100] * 5000))\n")
    with open(path, "wb") as stderr:
        subprocess.check_call([sys.executable, "-c", code], stderr=stderr, cwd=ROOT,
                              env=environment())
    assert 5000 * 100 > LOG_BUFFER
    with open(path, "rb") as file:
        assert len(file.read().splitlines()) == 5000


def test_slow_reader_gets_the_last_lines():
    """The exit waits for it, for a moment."""
    code = ("import logging, log, sys\n"
            "log.log_to_stderr(logging.INFO)\n"
            "for number in range(1000):\n"
            "    log.log.info('%s', 'x' * 100)\n"
            "sys.stdout.write('full')\n")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd=ROOT, env=environment())
    out, err = process.communicate()
    assert out == b"full" and len(err.splitlines()) == 1000


# --- rate-limited logging -------------------------------------------------------------------------

@pytest.fixture
def limiter():
    return log.LogRateLimiter(Clock())


def pass_time(limiter, seconds):
    limiter.clock.now += seconds
    limiter.do_pending_work(limiter.clock)


def test_the_first_line_of_a_kind_and_level_is_written(limiter):
    assert [limiter.is_first(logging.INFO, "refused reason=parse_error") for _ in range(3)] == [
        True, False, False]
    assert limiter.is_first(logging.INFO, "refused reason=unknown_item")
    assert limiter.is_first(logging.ERROR, "refused reason=parse_error")


def test_the_others_are_counted_and_the_count_is_logged(limiter, log_lines, caplog):
    for _ in range(7):
        limiter.is_first(logging.ERROR, "accept_failed")
    limiter.is_first(logging.INFO, "closed reason=closed")
    pass_time(limiter, LOG_SUMMARY_SECONDS - 1)
    assert log_lines() == []
    pass_time(limiter, 1)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "accept_failed times=6")]
    caplog.clear()
    for _ in range(3):
        assert not limiter.is_first(logging.ERROR, "accept_failed")     # it goes on
    pass_time(limiter, LOG_SUMMARY_SECONDS)
    assert log_lines() == ["accept_failed times=3"]


def test_a_kind_that_has_not_come_for_a_while_is_forgotten(limiter, log_lines):
    """The next one is written again."""
    assert not limiter.has_pending_work()
    assert limiter.is_first(logging.INFO, "refused") and limiter.has_pending_work()
    assert not limiter.is_first(logging.INFO, "refused")
    pass_time(limiter, LOG_SUMMARY_SECONDS)
    assert log_lines() == ["refused times=1"] and limiter.has_pending_work()
    pass_time(limiter, LOG_SUMMARY_SECONDS)
    assert log_lines() == [] and not limiter.has_pending_work()
    assert limiter.is_first(logging.INFO, "refused")
    pass_time(limiter, LOG_SUMMARY_SECONDS - 1)         # a new kind has the whole time
    assert limiter.has_pending_work()


def test_as_a_filter_it_lets_a_message_of_each_kind_through(limiter, caplog):
    """All lines about the storage are written: the shop debounces them itself."""
    logger = logging.getLogger("lavka.test_log")
    logger.addFilter(limiter)
    try:
        for nickname in ("ann", "bob"):
            logger.error("unusable_row nickname=%s", nickname)
            logger.error("storage_failed error=%s", nickname)
            logger.warning("storage_recovered failures=1")
    finally:
        logger.removeFilter(limiter)
    assert [record.getMessage() for record in caplog.records] == [
        "unusable_row nickname=ann", "storage_failed error=ann", "storage_recovered failures=1",
        "storage_failed error=bob", "storage_recovered failures=1"]


def write_all(limiter, kind, host, times):
    """Return how many of these lines are to be written."""
    return sum(limiter.has_quota(kind, host) for _ in range(times))


def test_each_address_has_a_quota_of_lines_that_fills_up_again(limiter, log_lines):
    most, refill = LOG_ADDRESS_LINES
    assert write_all(limiter, "login", "192.0.2.1", most + 5) == most
    assert write_all(limiter, "login", "2001:db8::1", 5) == 5
    assert write_all(limiter, "logout", "192.0.2.1", most) == most      # each kind has its own
    pass_time(limiter, LOG_SUMMARY_SECONDS)
    assert log_lines() == ["login host=192.0.2.1 times=5"]
    assert write_all(limiter, "login", "192.0.2.1", most) == refill
    pass_time(limiter, LOG_SUMMARY_SECONDS)
    assert log_lines() == ["login host=192.0.2.1 times=%d" % (most - refill)]
    for _ in range(most // refill):
        pass_time(limiter, LOG_SUMMARY_SECONDS)
    assert log_lines() == [] and not limiter.has_pending_work()
    assert write_all(limiter, "login", "192.0.2.1", most) == most


def test_all_addresses_together_have_a_quota_and_the_memory_is_bounded(limiter, log_lines):
    most, refill = LOG_LINES
    hosts = ["2001:db8::%x" % number for number in range(most + 3000)]
    assert sum(limiter.has_quota("login", host) for host in hosts) == most
    assert len(limiter.quotas) == most + 1
    pass_time(limiter, LOG_SUMMARY_SECONDS)
    assert log_lines() == ["login times=3000"]
    assert len(limiter.quotas) == 1
    assert sum(limiter.has_quota("login", host) for host in hosts) == refill
    assert limiter.is_first(logging.ERROR, "accept_failed")     # not crowded out


def test_a_defect_is_logged_once_for_each_place(limiter, caplog):
    def fail(divisor):
        try:
            if divisor:
                raise KeyError("x")
            1 // divisor
        except Exception as defect:
            log.log_defect(limiter, defect)

    for divisor in (0, 0, 1, 0, 1):
        fail(divisor)
    assert len(caplog.records) == 2 and all(record.exc_info for record in caplog.records)
    zero, key = [record.getMessage() for record in caplog.records]
    assert re.match(r"defect error=ZeroDivisionError at=test_log\.py:\d+$", zero)
    assert re.match(r"defect error=KeyError at=test_log\.py:\d+$", key)
    caplog.clear()
    limiter.log_counts()
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        [zero + " times=2", key + " times=1"])


def test_a_flood_from_the_storage_is_one_line_and_a_count(program):
    """The count is logged at the stop, too."""
    with sqlite3.connect(program.database) as connection:
        connection.execute("INSERT INTO account (nickname, credits, items) "
                           "VALUES ('ann', 'x', ''), ('bob', 'x', '')")
    begin = len(program.log())
    peer = Peer(program.port)
    for _ in range(20):
        for nickname in ("ann", "bob"):
            assert reason(peer.call("login", nickname=nickname)) == "storage_failed"
    peer.close()
    program.process.terminate()
    assert program.wait() == 0
    log_text = program.log()[begin:]
    assert log_text.count("unusable_row nickname=") == 1
    # Several on a slow machine.
    counts = re.findall("ERROR unusable_row times=([0-9]+)", log_text)
    assert sum(map(int, counts)) == 39
