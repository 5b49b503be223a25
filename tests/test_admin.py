# -*- coding: utf-8 -*-
"""The operators' commands, as programs beside an open shop."""
from __future__ import unicode_literals

import io
import os
import pwd
import signal
import subprocess
import sys

import pexpect
import pytest
from conftest import (CHEAP, PATIENCE, ROOT, Peer, account_rows, audit, both, environment, is_full,
                      ledger_rows, log_in_stored, on_postgresql, run_in_shell, run_program,
                      small_pipe, wait_for)

import admin_database
import db
import progress
from constants import ITEMS, MAX_CREDITS, MAX_REASON, STREAM_ROWS, VERSION

COMMANDS = ("verify", "history", "show", "backup", "copy", "give", "grant", "unprotect", "stats",
            "players", "kick")


def run(*arguments, **options):
    return run_program("admin.py", *arguments, **options)


@pytest.fixture
def played(shop, outside, database):
    """Return an open shop in which ann has traded, and bob has only logged in."""
    outside.execute("INSERT INTO account (nickname, credits, items) VALUES ('ann', 500, '')")
    outside.execute("INSERT INTO trade (account_id, time, what, item, price, credits, note) "
                    "VALUES (1, 1767323045, 'opening', '', 0, 500, '')")
    account, _ = shop.login("ann")
    shop.buy(account, "sword")
    shop.buy(account, CHEAP)
    shop.commit()
    shop.sell(account, "sword")
    shop.commit()
    shop.account = account
    log_in_stored(shop)
    audit(database)
    return shop


# --- arguments ------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [
    (), ("--database", "lavka.db"), ("steal", "ann"), ("create",), ("verify", "ann"),
    ("history",), ("show",), ("grant", "ann"), ("grant", "ann", "many"), ("grant", "ann", "0"),
    ("give", "ann"), ("give", "ann", "bow", "--reason"), ("give", "ann", "bow", "--reason", ""),
    ("grant", "ann", "5", "--reason", "x" * (MAX_REASON + 1)), ("copy",),
    ("backup",), ("backup", ""), ("--databse", "lavka.db", "verify")])
def test_wrong_arguments_end_with_usage_and_status_2(played, directory, arguments):
    status, out, err = run(*arguments, cwd=directory)
    assert (status, out) == (2, "") and err.startswith("usage: admin.py")


def test_version_is_printed(directory):
    status, out, err = run("--version", cwd=directory)
    assert (status, out + err) == (0, "Lavka %s\n" % VERSION)       # 2.7: standard error


def test_help_describes_each_command(directory):
    status, out, err = run("--help", cwd=directory)
    assert (status, err) == (0, "")
    for command in COMMANDS:
        assert "  %s " % command in out
        status, description, err = run(command, "--help", cwd=directory)
        assert (status, err) == (0, "") and len(description.splitlines()) > 5
    assert os.listdir(directory) == []


def test_database_is_named_before_or_after_the_command(played, directory):
    for arguments in (["--database", "lavka.db", "verify"], ["verify", "--database=lavka.db"]):
        assert run(*arguments, cwd=directory)[0] == 0
        assert run(*[word.replace("lavka", "none") for word in arguments], cwd=directory) == (
            1, "", "there is no database none.db: create it with: "
            "python db.py --database none.db\n")
    assert not os.path.exists(os.path.join(directory, "none.db"))


# --- show and history -----------------------------------------------------------------------------

@both
def test_show_prints_account(played, directory, database):
    assert run("show", "ann", cwd=directory, LAVKA_DATABASE=database) == (
        0, 'nickname  "ann"\ncredits   475\nitems     %s\nprotected no\n' % CHEAP, "")
    assert "items     none\n" in run("show", "bob", cwd=directory, LAVKA_DATABASE=database)[1]


@both
def test_history_prints_ledger_of_account_oldest_first(played, directory, database):
    status, out, err = run("history", "ann", cwd=directory, LAVKA_DATABASE=database)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[:2] == ["time (UTC)           what        price    credits  item",
                         "2026-01-02 03:04:05  opening                  500"]
    assert [line.split()[2:] for line in lines[2:]] == [
        ["purchase", "200", "300", "sword"], ["purchase", "25", "275", "potion"],
        ["sale", "200", "475", "sword"]]


@both
@pytest.mark.parametrize("command", [("show",), ("history",), ("grant", "5")])
def test_unknown_nickname_fails_and_is_shown_escaped(played, directory, command, database):
    arguments = [command[0], "no\x1b[31mbody"] + list(command[1:])
    assert run(*arguments, cwd=directory, LAVKA_DATABASE=database) == (
        1, "", 'there is no account "no\\u001b[31mbody"\n')


@pytest.mark.parametrize("damage", ["credits = 'many'", "items = x'00ff'"])
def test_unusable_row_fails_and_refers_to_verify(played, outside, directory, damage):
    outside.execute("UPDATE account SET %s WHERE nickname = 'ann'" % damage)
    for command in (["show", "ann"], ["grant", "ann", "5"]):
        assert run(*command, cwd=directory) == (
            1, "", 'the row of account "ann" cannot be used; verify tells more\n')


@both
def test_control_characters_of_nickname_are_escaped(shop, directory, database):
    nickname = "\x1b[31m\n\u202eБоб\"\\ \x9b1m"
    log_in_stored(shop, nickname)
    status, out, _ = run("show", "--", nickname, cwd=directory, LAVKA_DATABASE=database,
                         LC_ALL="C.UTF-8")
    assert status == 0 and out.count("\n") == 4
    assert 'nickname  "\\u001b[31m\\u000a\\u202eБоб\\"\\\\ \\u009b1m"\n' in out


# --- grant ----------------------------------------------------------------------------------------

@both
def test_grant_reaches_a_player_who_is_logged_in(played, directory, database, outside):
    assert run("grant", "ann", "100", cwd=directory, LAVKA_DATABASE=database) == (
        0, '"ann" has 575 credits now\n', "")
    assert run("grant", "ann", "-75", cwd=directory, LAVKA_DATABASE=database) == (
        0, '"ann" has 500 credits now\n', "")
    played.buy(played.account, "sword")
    assert not played.commit()
    assert ledger_rows(outside, "ann")[-3:] == [
        ("grant", "", 100, 575), ("grant", "", -75, 500), ("purchase", "sword", 200, 300)]
    audit(database)


@both
@pytest.mark.parametrize("credits", [-476, MAX_CREDITS - 474])
def test_grant_out_of_range_changes_nothing(played, directory, outside, credits, database):
    before = account_rows(outside), ledger_rows(outside, "ann")
    status, out, err = run("grant", "ann", "%d" % credits, cwd=directory, LAVKA_DATABASE=database)
    assert (status, out, err.count("\n")) == (1, "", 1) and "475 credits" in err
    assert (account_rows(outside), ledger_rows(outside, "ann")) == before


def test_grant_on_a_full_disk_shows_the_first_error(played, database, directory, outside):
    """SQLite rolls back itself; another rollback would fail, too, and hide why."""
    before = account_rows(outside), ledger_rows(outside, "ann")
    limit = ["prlimit", "--fsize=%d" % os.path.getsize(database + "-wal")]
    process = subprocess.Popen(
        limit + [sys.executable, os.path.join(ROOT, "admin.py"), "grant", "ann", "5"],
        cwd=directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.communicate() == (b"", b"grant failed: disk I/O error\n")
    assert process.returncode == 1
    assert (account_rows(outside), ledger_rows(outside, "ann")) == before


def test_grant_whose_output_cannot_be_written_says_that_it_is_done(played, directory, outside):
    status, err = run_in_shell("admin.py grant ann 5 >/dev/full", directory)
    assert status == 1 and err.startswith("it is done, but")
    assert ledger_rows(outside, "ann")[-1] == ("grant", "", 5, 480)


# --- give, and reasons ----------------------------------------------------------------------------

@both
def test_gift_reaches_a_player_who_is_logged_in_to_a_server(start, database, directory, outside):
    peer = Peer(start(database=database).port, "ann")
    credits = account_rows(outside)[0][1]
    assert run("give", "ann", "BoW", cwd=directory, LAVKA_DATABASE=database) == (
        0, '"ann" has the bow now\n', "")
    account = peer.call("buy", item=CHEAP)["result"]["account"]
    assert account["items"] == ["bow", CHEAP]
    assert account["credits"] == credits - ITEMS[CHEAP]
    assert run("give", "ann", "torch", cwd=directory, LAVKA_DATABASE=database)[0] == 0
    assert peer.call("sell", item="torch")["result"]["account"]["items"] == ["bow", CHEAP]
    assert [row[:3] for row in ledger_rows(outside, "ann")[1:]] == [
        ("gift", "bow", 0), ("purchase", CHEAP, 25), ("gift", "torch", 0), ("sale", "torch", 40)]
    peer.close()
    audit(database)


@both
@pytest.mark.parametrize("nickname, item, says", [
    ("ann", CHEAP.upper(), '"ann" owns the %s already\n' % CHEAP),
    ("ann", "po", 'there is no item "po" in the catalog, which has: potion, torch, dagger, '),
    ("no\nbody", "bow", 'there is no account "no\\u000abody"\n')])
def test_refused_gift_changes_nothing(played, directory, outside, database, nickname, item, says):
    before = account_rows(outside), ledger_rows(outside, "ann")
    status, out, err = run("give", nickname, item, cwd=directory, LAVKA_DATABASE=database)
    assert (status, out, err.count("\n")) == (1, "", 1) and err.startswith(says)
    assert (account_rows(outside), ledger_rows(outside, "ann")) == before


@both
def test_history_shows_gift_and_reason_escaped(played, directory, outside, database):
    user = pwd.getpwuid(os.getuid()).pw_name
    reason = "refund: \x1b[31mБ\n" + "x" * (MAX_REASON - 15)
    for command in (["give", "ann", "bow", "--reason", reason],
                    ["grant", "ann", "5", "--reason=-5"], ["give", "ann", "horse"]):
        assert run(*command, cwd=directory, LAVKA_DATABASE=database, LC_ALL="C.UTF-8")[0] == 0
    notes = [note for note, in outside.execute("SELECT note FROM trade WHERE note != ''")]
    assert notes == ["%s: %s" % (user, reason), "%s: -5" % user, user]
    out = run("history", "ann", cwd=directory, LAVKA_DATABASE=database, LC_ALL="C.UTF-8")[1]
    assert [line.split(None, 2)[2].split(None, 1 + ("grant" in line)) for line in
            out.splitlines()[-3:]] == [
        ["gift", "475  bow by %s: refund: \\u001b[31mБ\\u000a%s" % (user, "x" * (MAX_REASON - 15))],
        ["grant", "5", "480  by %s: -5" % user], ["gift", "480  horse by %s" % user]]
    audit(database)


def test_the_ledger_has_who_logged_in_to_the_system(played, directory, outside):
    """Whoever the command runs as: lavka-admin runs it as the server's user."""
    status = subprocess.call(
        ["bash", "-c", 'echo 1 >/proc/$$/loginuid || exit 9; exec "$@" grant ann 5', "bash",
         sys.executable, os.path.join(ROOT, "admin.py")], cwd=directory, env=environment())
    if status == 9:
        pytest.skip("the system does not let the test log in")
    assert status == 0
    notes = [note for note, in outside.execute("SELECT note FROM trade WHERE note != ''")]
    assert notes == [pwd.getpwuid(1).pw_name]


# --- verify ---------------------------------------------------------------------------------------

DAMAGE = [
    ("UPDATE account SET credits = 999 WHERE nickname = 'ann'",
     'account "ann": it has 999 credits, by the ledger it should have 475'),
    ("UPDATE account SET items = 'horse' WHERE nickname = 'ann'",
     'account "ann": its items are "horse", by the ledger they should be "potion"'),
    ("INSERT INTO account (nickname, credits, items) VALUES ('eve', 7, '')",
     'account "eve": it has no opening in the ledger'),
    ("DELETE FROM trade WHERE id = 1", "row 2 of the ledger is no opening"),
    ("DELETE FROM trade WHERE id = 2", "row 4 of the ledger sells \"sword\", which was not owned"),
    ("DELETE FROM trade WHERE id = 3", "row 4 of the ledger should have 500 credits, it has 475"),
    ("DELETE FROM trade WHERE id = 4", "it has 475 credits, by the ledger it should have 275"),
    ("UPDATE trade SET price = 1 WHERE id = 2", "row 2 of the ledger should have 499 credits"),
    ("UPDATE trade SET price = 0 WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET item = 'potion' WHERE id = 2",
     'row 3 of the ledger buys "potion", which was owned'),
    ("UPDATE trade SET what = 'gift' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET id = -7 WHERE id = 2", "row -7 of the ledger is no opening"),
    ("UPDATE trade SET item = 'bow' WHERE id = 2", "its items are"),
    ("UPDATE trade SET what = 'opening', price = 0 WHERE id = 2",
     "row 2 of the ledger is another opening"),
    # The order of the items is part of the account.
    ("UPDATE account SET items = 'sword,potion' WHERE nickname = 'bob'",
     'account "bob": its items'),
    ("UPDATE trade SET account_id = 2 WHERE id = 4", "row 4 of the ledger"),
]
SQLITE_DAMAGE = [       # values that PostgreSQL does not take
    ("UPDATE account SET credits = 'many' WHERE nickname = 'ann'", "it has \"many\" credits"),
    ("UPDATE account SET items = x'00ff' WHERE nickname = 'ann'", "its items are"),
    ("UPDATE account SET items = CAST(x'ff' AS TEXT) WHERE nickname = 'ann'", "its items are"),
    ("DELETE FROM account WHERE nickname = 'ann'", "is of account 1, which is not there"),
    ("UPDATE trade SET price = 'x' WHERE id = 2",
     "row 2 of the ledger is none that the shop writes"),
    ("UPDATE trade SET price = 200.5 WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET item = x'00' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET what = x'ff' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE trade SET time = 'yesterday' WHERE id = 2", "row 2 of the ledger is none that"),
    ("UPDATE account SET nickname = x'ff' WHERE nickname = 'ann'", "its nickname is no text"),
    ("UPDATE account SET credits = '\x1b[31mred' WHERE nickname = 'ann'",
     'it has "\\u001b[31mred" credits'),
    ("UPDATE trade SET account_id = 'x' WHERE id = 2", 'is of account "x", which is not there'),
    ("UPDATE trade SET account_id = 1.5 WHERE id = 2", "is of account 1.5, which is not there"),
]


UNDAMAGED = (0, "accounts: 2, rows of the ledger: 5, problems: 0\n")


@pytest.mark.parametrize("damage, says", DAMAGE + SQLITE_DAMAGE)
def test_verify_reports_damage_and_counts_it(played, outside, database, damage, says):
    assert verify(database) == UNDAMAGED
    check_damage(outside, database, damage, says)


@on_postgresql
def test_verify_reports_damage_on_postgresql_and_counts_it(played, outside, database):
    for table in ("account", "trade"):
        outside.execute("CREATE TABLE whole_%s AS SELECT * FROM %s" % (table, table))
    for damage, says in DAMAGE:
        assert verify(database) == UNDAMAGED
        check_damage(outside, database, damage, says)
        outside.execute("DELETE FROM trade; DELETE FROM account; INSERT INTO account SELECT * FROM "
                        "whole_account; INSERT INTO trade SELECT * FROM whole_trade")


def check_damage(outside, database, damage, says):
    outside.execute(damage)
    status, out = verify(database)
    assert status == 1 and says in out and "rows of the ledger: " in out, damage
    assert out.splitlines()[-1].endswith("problems: %d" % (out.count("\n") - 1)), damage


def verify(database):
    out = io.StringIO()
    return admin_database.verify(db.open_storage(database), out), out.getvalue()


@both
def test_verify_reports_a_wrong_order_of_items(played, outside, directory, database):
    played.buy(played.account, "torch")
    assert not played.commit()
    outside.execute("UPDATE account SET items = 'torch,potion' WHERE nickname = 'ann'")
    status, out, _ = run("verify", cwd=directory, LAVKA_DATABASE=database)
    assert status == 1 and '"torch,potion", by the ledger they should be "potion,torch"' in out


def test_verify_reads_on_after_broken_text(outside, database):
    """Broken text makes the reading of its table begin again; each problem is reported once."""
    number = 2 * STREAM_ROWS
    open_accounts(outside, number + 1)
    for id in (1, number - 1, number + 1):
        outside.execute("UPDATE account SET credits = 7 WHERE id = %d" % id)
    for damage in ("UPDATE account SET nickname = CAST(x'61ff' AS TEXT)",
                   "UPDATE trade SET what = CAST(x'61ff' AS TEXT)",
                   "UPDATE account SET items = CAST(x'61ff' AS TEXT)"):
        outside.execute("%s WHERE id = %d" % (damage, number))
        status, out = verify(database)
        lines = out.splitlines()
        assert status == 1 and lines[-1].endswith("problems: %d" % (len(lines) - 1))
        assert [line for line in lines if line.endswith("7 credits, by the ledger it should have "
                                                        "100")] == lines[:2] + lines[-2:-1]
    assert lines[2:-2] == [
        'account "a\ufffd": row %d of the ledger is none that the shop writes' % number,
        'account "a\ufffd": it has no opening in the ledger',
        'account "a\ufffd": its items are "a\ufffd", by the ledger they should be ""']


def test_verify_reports_a_damaged_file(shop, database, directory):
    for number in range(200):
        shop.login("player %d" % number)
    shop.commit()
    shop.close()
    with open(database, "r+b") as file:
        size = len(file.read())
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))
    status, out, err = run("verify", cwd=directory)
    assert status == 1 and "Traceback" not in err and (out + err).count("\n") >= 1


# --- backup ---------------------------------------------------------------------------------------

def test_backup_is_a_database_as_it_was_at_one_moment(played, directory, open_shop):
    copy = os.path.join(directory, "copy.db")
    status, out, err = run("backup", copy, cwd=directory)
    assert (status, out, err) == (0, "%s has %d bytes\n" % (copy, os.path.getsize(copy)), "")
    played.buy(played.account, "torch")                 # is not in it
    assert not played.commit()
    with open(copy, "rb") as file:
        before = file.read()
    assert run("verify", "--database", copy, cwd=directory) == (
        0, "accounts: 2, rows of the ledger: 5, problems: 0\n", "")
    with open(copy, "rb") as file:
        assert file.read() == before                    # verify changes nothing in it
    assert sorted(os.listdir(directory)) == [
        "copy.db", "lavka.db", "lavka.db-shm", "lavka.db-wal", "lavka.db.lock"]
    status, out, err = run("backup", copy, cwd=directory)
    assert (status, out) == (1, "") and "exists already" in err and err.count("\n") == 1
    with open(copy, "rb") as file:
        assert file.read() == before
    assert not open_shop(copy).login("ann")[1]


def test_backup_of_a_file_from_before_the_ledger_has_its_accounts(old_database, directory,
                                                                  outside_of):
    assert run("backup", "copy.db", cwd=directory)[0] == 0
    assert len(account_rows(outside_of(os.path.join(directory, "copy.db")))) == 2


def test_backup_that_cannot_be_written_leaves_nothing_behind(played, directory):
    before = sorted(os.listdir(directory))
    status, out, err = run("backup", "no/such/directory.db", cwd=directory)
    assert (status, out, err.count("\n")) == (1, "", 1) and "No such file" in err
    assert sorted(os.listdir(directory)) == before


def test_backup_on_a_full_disk_leaves_nothing_behind(played, directory):
    before = sorted(os.listdir(directory))
    process = subprocess.Popen(
        ["sh", "-c", "ulimit -f 2; exec \"$@\"", "sh", sys.executable,
         os.path.join(ROOT, "admin.py"), "backup", "copy.db"], cwd=directory, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert err.startswith(b"backup failed: ")
    assert sorted(os.listdir(directory)) == before


# --- streams, terminals, signals ------------------------------------------------------------------

@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("command", ["verify", "show ann"])
def test_command_works_without_standard_streams(played, directory, command, closed, database):
    status, err = run_in_shell("admin.py %s %s" % (command, closed), directory)
    assert status == 0 and "Traceback" not in err
    audit(database)


def test_command_ends_quietly_when_the_reader_of_its_output_closes(played, directory):
    """As in `python admin.py history ann | head -1`."""
    process = subprocess.Popen([sys.executable, os.path.join(ROOT, "admin.py"), "history", "ann"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=directory,
                               env=environment())
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_output_into_a_non_blocking_pipe_is_complete(played, outside, directory):
    fill_ledger(outside)
    reader, writer = small_pipe()
    process = start_history(writer, directory)
    os.close(writer)
    with io.open(reader, "rb") as pipe:
        wait_for(lambda: is_full(reader) or process.poll() is not None, "the pipe to be full")
        lines = pipe.read().splitlines()
    assert process.communicate()[1] == b"" and process.returncode == 0
    assert len(lines) == 1 + 4 + 3000 and lines[-1].endswith(b" 3000")


def test_signal_ends_a_command_whose_output_nobody_reads(played, outside, directory):
    fill_ledger(outside)
    reader, writer = small_pipe()
    process = start_history(writer, directory)
    try:
        wait_for(lambda: is_full(reader), "the command to wait for its reader")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: process.poll() is not None, "the command to end")
    finally:
        os.close(reader)
        os.close(writer)
    assert (process.returncode, process.communicate()[1]) == (130, b"")


def start_history(output, directory):
    """Start `admin.py history` with this descriptor for its output; return the process."""
    return subprocess.Popen([sys.executable, os.path.join(ROOT, "admin.py"), "history", "ann"],
                            stdout=output, stderr=subprocess.PIPE, cwd=directory,
                            env=environment(), close_fds=True)


def fill_ledger(outside):
    """Store more rows of the ledger than a pipe has room for."""
    outside.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
                    "INSERT INTO trade (account_id, time, what, item, price, credits, note) "
                    "SELECT 1, 0, 'grant', '', 1, i, '' FROM n")


def open_accounts(outside, number):
    """Store many accounts with their openings."""
    outside.execute("BEGIN")
    outside.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
                    "INSERT INTO account SELECT i, 'player ' || i, 100, '' FROM n" % number)
    outside.execute("INSERT INTO trade SELECT id, id, 1767323045, 'opening', '', 0, 100, '' "
                    "FROM account")
    outside.execute("COMMIT")


def run_on_terminal(directory, *arguments):
    terminal = pexpect.spawn(sys.executable, [os.path.join(ROOT, "admin.py")] + list(arguments),
                             cwd=directory, env=environment(TERM="xterm"), encoding="utf-8",
                             timeout=PATIENCE)
    terminal.delaybeforesend = None
    return terminal


def test_long_command_shows_its_progress_on_a_terminal(outside, directory):
    open_accounts(outside, 20000)
    terminal = run_on_terminal(directory, "verify")
    for percent in (0, 25, 50, 75):
        terminal.expect(r"replaying the ledger \[#{%d}[.]+\] +%d %% \d s"
                        % (30 * percent // 100, percent))
    terminal.expect("\r\x1b.Kaccounts: 20000, rows of the ledger: 20000, problems: 0\r\n")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_progress_counts_seconds_of_a_monotonic_clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    line = progress.Progress("copying")
    now[0] += 61.9
    line.draw()
    line.clear()
    assert progress.sys.stderr.getvalue() == (
        "\r\x1b[?7lcopying 0 s\x1b[K\x1b[?7h\r\x1b[?7lcopying 61 s\x1b[K\x1b[?7h\r\x1b[K")


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self):
        return True

    def write(self, text):
        return super(Terminal, self).write("%s" % text)         # 2.7: from bytes


def test_ctrl_c_ends_a_long_command_quietly(outside, directory):
    open_accounts(outside, 300000)
    before = sorted(os.listdir(directory))
    for command in (["verify"], ["backup", os.path.join(directory, "copy.db")]):
        terminal = run_on_terminal(directory, *command)
        terminal.expect("checking the file|copying")
        terminal.sendintr()
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert "Traceback" not in terminal.before
        if terminal.exitstatus == 0:            # the backup was faster; then it is complete
            assert command[0] == "backup"
            audit(command[1])
            os.remove(command[1])
        else:
            assert terminal.exitstatus == 130 or terminal.signalstatus == signal.SIGINT
        assert sorted(os.listdir(directory)) == before
