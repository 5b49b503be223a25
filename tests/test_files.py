# -*- coding: utf-8 -*-
"""The files of the real server removed, renamed or replaced while it serves them; and who else may
open them."""
from __future__ import unicode_literals

import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import (CHEAP, ROOT, Peer, account_of, audit, connect, environment, open_account,
                      reason, run_program, wait_for)
from test_programs import run_server
from torture import remove, rename, replace

import db

ENDINGS = ["", "-wal", "-shm", ".lock"]


def errors(program):
    return [line for line in program.log().splitlines() if " ERROR " in line]


def admin(*arguments):
    return run_program("admin.py", *arguments)


def put_back(path):
    os.rename(path + ".away", path)


def stop(program, player):
    """Stop the server; it waits for its player to leave."""
    program.process.send_signal(signal.SIGTERM)
    assert player.line() is None
    player.close()
    assert program.wait() == 0


# --- while a server runs --------------------------------------------------------------------------

@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("change", [remove, rename, replace])
def test_file_that_lost_its_name_refuses_changes_until_it_is_back(program, change, ending):
    path = os.path.realpath(program.database) + ending
    bob = Peer(program.port, "bob")
    change(path)
    for _ in range(2):
        assert reason(bob.call("buy", item=CHEAP)) == "storage_failed"
        assert reason(Peer(program.port).call("login", nickname="new")) == "storage_failed"
        assert bob.call("ping")["result"] == "pong"
    error, = errors(program)
    assert "storage_failed error=" in error
    assert ("%s is %s" % (path, "another file" if change is replace else "gone")) in error
    if change is not remove:
        put_back(path)
        assert "result" in bob.call("buy", item=CHEAP)
        assert Peer(program.port).call("login", nickname="new")["result"]["created"]
        program.kill()
        audit(program.database)
        assert account_of(program.database, "bob")[1] == CHEAP


def test_directory_that_was_renamed_refuses_changes_until_it_is_back(start, directory):
    inside = os.path.join(directory, "inside")
    os.mkdir(inside)
    program = start(directory=inside)
    bob = Peer(program.port, "bob")
    rename(inside)
    assert reason(bob.call("buy", item=CHEAP)) == "storage_failed"
    put_back(inside)
    assert "result" in bob.call("buy", item=CHEAP)


def test_what_was_acknowledged_before_the_log_was_removed_is_rescued_by_the_first_refusal(start):
    program = start()
    bob = Peer(program.port, "bob")
    assert "result" in bob.call("buy", item=CHEAP)
    remove(program.database + "-wal")
    assert reason(bob.call("sell", item=CHEAP)) == "storage_failed"
    program.kill()
    again = Peer(start().port).call("login", nickname="bob")["result"]
    assert not again["created"] and again["account"]["items"] == [CHEAP]


def test_refusal_tells_that_another_program_keeps_the_rescue_from_being_complete(program):
    bob = Peer(program.port, "bob")
    with contextlib.closing(connect(program.database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM account").fetchall()
        assert "result" in bob.call("buy", item=CHEAP)
        remove(program.database + "-wal")
        assert reason(bob.call("sell", item=CHEAP)) == "storage_failed"
        assert "another program reads" in errors(program)[-1]

    def is_complete():
        assert reason(bob.call("sell", item=CHEAP)) == "storage_failed"
        return "another program reads" not in errors(program)[-1]

    wait_for(is_complete, "a refusal without this")
    program.kill()
    audit(program.database)
    assert account_of(program.database, "bob")[1] == CHEAP


def test_idle_server_has_nothing_in_its_log_alone(start):
    program = start()
    bob = Peer(program.port, "bob")
    assert "result" in bob.call("buy", item=CHEAP)
    copy = program.database + ".copy"

    def is_copied():
        shutil.copy(program.database, copy)
        return (account_of(copy, "bob") or ["", ""])[1] == CHEAP

    wait_for(is_copied, "the account to be in the file itself")
    remove(program.database + "-wal")
    program.kill()
    again = Peer(start().port).call("login", nickname="bob")["result"]
    assert not again["created"] and again["account"]["items"] == [CHEAP]


def test_stop_without_the_log_stores_what_was_acknowledged(program):
    bob = Peer(program.port, "bob")
    assert "result" in bob.call("buy", item=CHEAP)
    remove(program.database + "-wal")
    stop(program, bob)
    assert account_of(program.database, "bob")[1] == CHEAP
    audit(program.database)


def test_stop_of_a_moved_file_stores_what_was_acknowledged(program):
    bob = Peer(program.port, "bob")
    assert "result" in bob.call("buy", item=CHEAP)
    rename(program.database)
    stop(program, bob)
    put_back(program.database)
    for ending in ENDINGS[1:]:
        if os.path.exists(program.database + ending):
            remove(program.database + ending)
    assert account_of(program.database, "bob")[1] == CHEAP


def test_stop_removes_no_file_of_the_server_that_took_its_place(start, directory):
    """The restore of the manual, with a server that was not stopped before."""
    old = start()
    assert "result" in Peer(old.port, "bob").call("buy", item=CHEAP)
    aside = os.path.join(directory, "aside")
    os.mkdir(aside)
    for ending in ENDINGS:
        os.rename(old.database + ending, os.path.join(aside, "lavka.db" + ending))
    new = start("--admin-socket", os.path.join(directory, "new.sock"))  # the old server has its own
    assert "result" in Peer(new.port, "ann").call("buy", item=CHEAP)
    old.process.send_signal(signal.SIGTERM)
    assert old.wait() == 0
    assert "result" in Peer(new.port, "eve").call("buy", item=CHEAP)    # its files are still there
    new.kill()
    audit(new.database)
    assert account_of(new.database, "ann")[1] == account_of(new.database, "eve")[1] == CHEAP
    assert account_of(os.path.join(aside, "lavka.db"), "bob")[1] == CHEAP


# --- a second server ------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_second_server_is_refused_wherever_the_file_was_moved(program, directory, ending):
    """One file of the first server is enough, beside files that nobody serves."""
    other = os.path.join(directory, "other.db")
    db.create_tables(other)
    os.rename(program.database + ending, other + ending)
    status, log = run_server("--port", "0", "--database", other)
    assert status == 1 and log.count("\n") == 1 and "another server is serving" in log


def test_second_server_is_refused_without_the_lock_file(program):
    remove(program.database + ".lock")
    status, log = run_server("--port", "0", "--database", program.database)
    assert status == 1 and log.count("\n") == 1 and "another server is serving" in log


def test_second_server_is_refused_through_a_symbolic_link(program, directory):
    link = os.path.join(directory, "link.db")
    os.symlink(program.database, link)
    status, log = run_server("--port", "0", "--database", link)
    assert status == 1 and log.count("\n") == 1 and "another server is serving" in log


def test_lock_file_that_is_a_link_is_refused_and_its_target_kept(directory, database):
    target = os.path.join(directory, "target")
    shutil.copy(database, target)
    os.symlink(target, database + ".lock")
    status, log = run_server("--port", "0", "--database", database)
    assert status == 1 and log.count("\n") == 1 and "cannot lock" in log
    assert os.path.getsize(target) == os.path.getsize(database)


def test_file_with_two_names_is_refused_with_the_reason(directory, database):
    os.link(database, os.path.join(directory, "link.db"))
    open_account(database, "bob", 10)
    for status, log in [run_server("--port", "0", "--database", database),
                        run_program("db.py", "--database", database)[::2],
                        admin("--database", database, "grant", "bob", "5")[::2]]:
        assert status == 1 and log.count("\n") == 1 and "2 names (hard links)" in log
    assert account_of(database, "bob") == (10, "")
    assert admin("--database", database, "verify")[0] == 1      # it may be read: an account of SQL


@pytest.mark.parametrize("ending", [".lock", "-wal", "-shm"])
def test_fifo_in_place_of_a_file_is_refused_at_once(database, ending):
    os.mkfifo(database + ending)
    status, log = run_server("--port", "0", "--database", database)
    assert status == 1 and log.count("\n") == 1 and "lavka.db" in log


def test_database_is_not_created_beside_the_log_of_one_that_is_missing(start, directory):
    """SQLite would remove that log, and with it what a crash has left in it alone."""
    program = start()
    assert "result" in Peer(program.port, "bob").call("buy", item=CHEAP)
    program.kill()
    rename(program.database)
    for name, arguments in [("db.py", []), ("db.py", ["--upgrade"]), ("admin.py", ["verify"]),
                            ("server.py", ["--port", "0"])]:
        status, out, err = run_program(name, "--database", program.database, *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1) and "lavka.db-wal, which has" in err
    put_back(program.database)
    assert account_of(program.database, "bob")[1] == CHEAP


# --- commands beside a server ---------------------------------------------------------------------

COMMANDS = [["grant", "bob", "5"], ["show", "bob"], ["verify"], ["history", "bob"]]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("change", [remove, replace])
def test_command_beside_a_server_that_has_other_files_is_refused(program, change, ending,
                                                                 directory):
    Peer(program.port, "bob")
    change(program.database + ending)
    for command in (["grant", "bob", "5"], ["backup", os.path.join(directory, "copy.db")]):
        status, out, err = admin("--database", program.database, *command)
        assert (status, out, err.count("\n")) == (1, "", 1), command
        assert "lavka.db" + ending in err
    assert not os.path.exists(os.path.join(directory, "copy.db"))


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_command_on_a_served_file_under_another_name_is_refused(program, directory, ending):
    """Also beside a database that nobody serves: its command would take the other's log for its."""
    Peer(program.port, "bob")
    other = os.path.join(directory, "other.db")
    db.create_tables(other)
    open_account(other, "eve", 10)
    os.rename(program.database + ending, other + ending)
    for command in [admin("--database", other, "grant", "eve", "5"),
                    run_program("db.py", "--database", other)]:
        status, _, err = command
        assert status == 1 and err.count("\n") == 1 and "a server has" in err
    if ending:
        os.rename(other + ending, program.database + ending)
        assert account_of(other, "eve") == (10, "")


@pytest.mark.parametrize("change", [remove, rename, replace])
def test_grant_whose_file_was_lost_while_it_waited_is_not_done(program, change):
    Peer(program.port, "bob").close()
    with contextlib.closing(connect(program.database)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        grant = subprocess.Popen(
            [sys.executable, os.path.join(ROOT, "admin.py"), "--database", program.database,
             "grant", "bob", "5"], env=environment(), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        wait_for(lambda: has_open(grant.pid, "-shm"), "the command to open the file")
        change(program.database)
        writer.execute("ROLLBACK")
    out, err = grant.communicate()
    assert (grant.returncode, out, err.count(b"\n")) == (1, b"", 1) and b"may be lost" in err


def has_open(pid, ending):
    """Return whether a process has a file open whose name ends so."""
    folder = "/proc/%d/fd" % pid
    for number in os.listdir(folder):
        try:
            if os.readlink(os.path.join(folder, number)).endswith(ending):
                return True
        except EnvironmentError:        # closed meanwhile
            pass
    return False


def test_tables_are_not_created_where_a_server_misses_its_file(program):
    remove(program.database)
    status, _, err = run_program("db.py", "--database", program.database)
    assert status == 1 and err.count("\n") == 1 and "lavka.db is gone" in err
    assert not os.path.exists(program.database)


def test_command_beside_a_server_that_has_its_files_works(program):
    bob = Peer(program.port, "bob")
    for command in COMMANDS:
        assert admin("--database", program.database, *command)[0] == 0
    assert run_program("db.py", "--database", program.database)[0] == 0
    assert "result" in bob.call("buy", item=CHEAP)


def test_command_beside_a_server_of_before_the_identities_works(program):
    """An upgrade begins with a backup, while the old version still runs."""
    open(program.database + ".lock", "w").close()
    assert admin("--database", program.database, "verify")[0] == 0


def test_lock_file_of_a_crash_keeps_nobody_away(start):
    program = start()
    Peer(program.port, "bob")
    program.kill()
    replace(program.database)
    assert admin("--database", program.database, "grant", "bob", "5")[0] == 0
    start()
