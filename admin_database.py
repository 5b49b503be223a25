# -*- coding: utf-8 -*-
"""The operators' commands on a database; each is safe while servers run on it.

Each gets the storage, which is not open yet, a text stream for its output, and its arguments; it
may return an exit status. It raises CannotOpen, CannotBackUp, CommandFailed, one of STORAGE_ERRORS,
or an EnvironmentError.
"""
from __future__ import unicode_literals

import io
import os
import pwd
import tempfile
import time

import ledger
from cli import CommandFailed
from constants import ITEMS, MAX_CREDITS
from models import TABLES, Account, AccountKey, Trade
from progress import Progress
from storage import is_usable
from text import escape, quote

NOBODY_LOGGED_IN = 2 ** 32 - 1      # of a process whose session began without a login (proc(5))


def verify(storage, out):
    """Check the file, replay the ledger and compare it with every account. The exit status is 1
    if anything is not as it should be. (PostgreSQL has its own tools to check its files.)"""
    with storage.reading(), Progress("checking the file") as progress:
        storage.begin_reading(progress)
        accounts, rows = [storage.query("SELECT COUNT(*) FROM " + table).fetchone()[0]
                          for table in ("account", "trade")]
        found = 0
        for problem in _problems(storage, progress, accounts):
            found += 1
            progress.clear()
            out.write("%s\n" % problem)
    out.write("accounts: %d, rows of the ledger: %d, problems: %d\n" % (accounts, rows, found))
    return 1 if found else 0


def _problems(storage, progress, accounts):
    """Yield what is wrong with the files, then what is wrong with the accounts."""
    for damage in storage.find_damage():
        yield damage
    for nickname, id in storage.query(
            "SELECT CAST(nickname AS TEXT), account_id FROM account_key LEFT JOIN account "
            "ON id = account_id WHERE id IS NULL OR length(hash) != 64 ORDER BY account_id"):
        yield ("a key belongs to account %d, which is not there" % id if nickname is None else
               "account %s: the hash of its key is none that the shop writes" % quote(nickname))
    progress.stage("sorting the ledger")
    differences = ledger.find_differences(storage.stream(ledger.ACCOUNTS),
                                          storage.stream(ledger.CHANGES))
    for number, problems in enumerate(differences):
        progress.advance("replaying the ledger", number, accounts)
        for problem in problems:
            yield problem


def history(storage, out, nickname):
    """Print what the ledger has of an account, the oldest row first."""
    with storage.reading():
        layout = "%-19s  %-8s  %7s  %9s  %s"
        id = _find(storage, nickname)[0]
        out.write(layout % ("time (UTC)", "what", "price", "credits", "item") + "\n")
        for moment, kind, price, credits, item, note in storage.query(
                "SELECT " + storage.MOMENT + ", CAST(what AS TEXT), price, credits, "
                "CAST(item AS TEXT), CAST(note AS TEXT) FROM trade WHERE account_id = ? "
                "ORDER BY id", id):
            price = "" if kind in (Trade.OPENING, Trade.GIFT) else price
            what = " ".join(filter(None, [item, "by " + note if note else ""]))
            line = layout % (moment, kind, price, credits, what)
            out.write(escape(line.rstrip()) + "\n")


def show(storage, out, nickname):
    """Print an account, and whether it is protected by a key."""
    with storage.reading():
        id, credits, items = _find_usable(storage, nickname)
        key = storage.query("SELECT 1 FROM account_key WHERE account_id = ?", id).fetchone()
    out.write("nickname  %s\ncredits   %s\nitems     %s\nprotected %s\n" % (
        quote(nickname), credits, escape(items).replace(",", ", ") or "none",
        "yes" if key else "no"))


def backup(storage, out, target):
    """Write a copy of the database, as it is at one moment, to a new file: an SQLite file, or of
    PostgreSQL what pg_restore reads."""
    folder = os.path.dirname(os.path.abspath(target))
    if os.path.lexists(target):
        raise CommandFailed("%s exists already; a backup overwrites nothing" % target)
    # Only `account` is needed: a file from before the ledger is backed up before its upgrade.
    with storage.reading([Account]):
        handle, unfinished = tempfile.mkstemp(".unfinished", os.path.basename(target) + ".", folder)
        try:
            with Progress("copying") as progress:
                storage.copy_to(unfinished, progress)
                os.fsync(handle)
            os.link(unfinished, target)                 # fails where rename would overwrite
        finally:
            os.remove(unfinished)
            os.close(handle)
    folder = os.open(folder, os.O_RDONLY)
    os.fsync(folder)                                    # makes the name durable, too
    os.close(folder)
    out.write("%s has %d bytes\n" % (target, os.path.getsize(target)))


def give(storage, out, nickname, item, reason=None):
    """Give an account an item of the catalog that it does not own. Its player may be logged in, and
    sees it with the next buy or sell, as after a grant."""
    names = [name for name in ITEMS if name.lower() == item.lower()]
    if not names:
        raise CommandFailed("there is no item %s in the catalog, which has: %s"
                            % (quote(item), ", ".join(ITEMS)))
    name, = names
    with storage.changing(), storage.database.bind_ctx(TABLES):
        id, credits, items = _find_usable(storage, nickname, storage.SELECT_TO_CHANGE)
        owned = items.split(",") if items else []
        if name in owned:
            raise CommandFailed("%s owns the %s already" % (quote(nickname), name))
        Account.update(items=",".join(owned + [name])).where(Account.id == id).execute()
        _record(id, Trade.GIFT, name, 0, credits, reason)
    out.write("%s has the %s now\n" % (quote(nickname), name))


def grant(storage, out, nickname, credits, reason=None):
    """Give an account credits, or take some with a number below 0. Its player may be logged in,
    and sees them with the next buy or sell. A request that arrives at the same instant is refused
    once; nothing is lost."""
    with storage.changing(), storage.database.bind_ctx(TABLES):
        id, before, _ = _find_usable(storage, nickname, storage.SELECT_TO_CHANGE)
        after = before + credits
        if not 0 <= after <= MAX_CREDITS:
            raise CommandFailed("%s has %d credits; they can be 0 to %d"
                                % (quote(nickname), before, MAX_CREDITS))
        Account.update(credits=after).where(Account.id == id).execute()
        _record(id, Trade.GRANT, "", credits, after, reason)
    out.write("%s has %d credits now\n" % (quote(nickname), after))


def unprotect(storage, out, nickname):
    """Remove the key of an account, for an owner who has lost it. From then on the nickname alone
    opens it. Its player may be logged in."""
    with storage.changing(), storage.database.bind_ctx(TABLES):
        id = _find(storage, nickname, storage.SELECT_TO_CHANGE)[0]
        if not AccountKey.delete().where(AccountKey.account == id).execute():
            raise CommandFailed("the account %s has no key" % quote(nickname))
    out.write("%s needs no key now\n" % quote(nickname))


def _record(account_id, kind, item, price, credits, reason):
    """Add a row to the ledger, with who types the command and, if it is given, the reason."""
    note = _user() if reason is None else "%s: %s" % (_user(), reason)
    Trade.create(account=account_id, time=int(time.time()), what=kind, item=item, price=price,
                 credits=credits, note=note)


def _user():
    """Return the name of the system's user who types the command.

    That is who has logged in, also behind sudo and su (pam_loginuid(8)); where nobody has, the user
    whom the process belongs to.
    """
    uid = os.getuid()
    try:
        with io.open("/proc/self/loginuid") as file:
            login = int(file.read())
        uid = uid if login == NOBODY_LOGGED_IN else login
    except (EnvironmentError, ValueError):              # this system has no such file
        pass
    try:
        return "%s" % pwd.getpwuid(uid).pw_name
    except KeyError:                        # in a container, say
        return "uid %d" % uid


def _find(storage, nickname, select=None):
    """Return the row of an account. Raises CommandFailed."""
    row = storage.query(select or storage.SELECT, nickname).fetchone()
    if row is None:
        raise CommandFailed("there is no account %s" % quote(nickname))
    return row


def _find_usable(storage, nickname, select=None):
    row = _find(storage, nickname, select)
    if not is_usable(row):
        raise CommandFailed("the row of account %s cannot be used; verify tells more"
                            % quote(nickname))
    return row
