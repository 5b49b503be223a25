# -*- coding: utf-8 -*-
"""The log: its format, and rate-limited logging."""
from __future__ import unicode_literals

import logging
import re
import sqlite3
import subprocess
import sys

import pytest
from conftest import ROOT, Clock, Peer, environment, reason

import log
from constants import LOG_SUMMARY_SECONDS

BEGIN = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


# --- the format -----------------------------------------------------------------------------------

def formatted(level, message, exc_info=None):
    record = logging.LogRecord(str("lavka"), level, str("log.py"), 1, message, (), exc_info)
    return log.LineFormatter().format(record).split("\n")


def test_each_line_of_a_message_has_its_time_and_level():
    first, second = formatted(logging.WARNING, "one\ntwo")
    assert re.match(BEGIN + "WARNING one$", first) and re.match(BEGIN + "WARNING two$", second)


def test_control_characters_are_escaped():
    line, = formatted(logging.INFO, 'login nickname="\x1b[31m\u202e\x9b"\r')
    assert re.match(BEGIN + r'INFO login nickname="\\u001b\[31m\\u202e\\u009b"\\u000d$', line)


@pytest.mark.parametrize("text", [
    "a\n2026-01-01 00:00:00,000 INFO login\x1b[31m", "\u0431\u043e\u0431\n\U0001f469",
    b"a\n2026-01-01 00:00:00,000 INFO \xff\x1b"], ids=["text", "not ASCII", "bytes"])
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


def test_a_traceback_on_standard_error_cannot_begin_a_line():
    code = ("import logging, log\n"
            "log.log_to_stderr(logging.INFO)\n"
            "try:\n"
            "    raise ValueError('a\\n2026-01-01 00:00:00,000 INFO login\\x1b[31m')\n"
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
