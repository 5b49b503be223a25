# -*- coding: utf-8 -*-
"""The operators' commands; each is safe while servers run on the database.

    python admin.py [--database DATABASE] COMMAND       --help lists the commands
"""
from __future__ import unicode_literals

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))     # PYTHONSAFEPATH omits it
    import cli
    cli.prepare_process()

import errno
import io
import locale
import logging
import pwd
import signal
import tempfile
import time

import cli
import ledger
from constants import MAX_CREDITS
from db import open_storage
from log import monotonic
from models import TABLES, Account, AccountKey, Trade
from storage import STORAGE_ERRORS, CannotBackUp, CannotOpen, describe, is_usable
from text import escape, quote

log = logging.getLogger("lavka.admin")


class CommandFailed(Exception):
    """A command was not carried out; the text is one sentence for whoever typed it."""


# --- the commands -----------------------------------------------------------------------------
# Each gets the storage, which is not open yet, and a text stream for its output; it may return an
# exit status. It raises CannotOpen, CannotBackUp, CommandFailed, one of STORAGE_ERRORS, or an
# EnvironmentError.

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
    for number, problems in enumerate(ledger.find_differences(storage.stream(ledger.ROWS))):
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
            price = "" if kind == Trade.OPENING else price
            line = layout % (moment, kind, price, credits, "by " + note if note else item)
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


def grant(storage, out, nickname, credits):
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
        Trade.create(account=id, time=int(time.time()), what=Trade.GRANT, item="",
                     price=credits, credits=after, note=_user())
    out.write("%s has %d credits now\n" % (quote(nickname), after))


def unprotect(storage, out, nickname):
    """Remove the key of an account, for an owner who has lost it. From then on the nickname alone
    opens it. Its player may be logged in."""
    with storage.changing(), storage.database.bind_ctx(TABLES):
        id = _find(storage, nickname, storage.SELECT_TO_CHANGE)[0]
        if not AccountKey.delete().where(AccountKey.account == id).execute():
            raise CommandFailed("the account %s has no key" % quote(nickname))
    out.write("%s needs no key now\n" % quote(nickname))


def _user():
    """Return the name of the system's user who types the command."""
    try:
        return "%s" % pwd.getpwuid(os.getuid()).pw_name
    except KeyError:                        # in a container, say
        return "uid %d" % os.getuid()


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


class Progress(object):
    """One line on the terminal about a long command; nothing where there is no terminal."""

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


# --- python admin.py --------------------------------------------------------------------------

NICKNAME = ("nickname", cli.text, "whose account")
COMMANDS = [        # each with its arguments: name, type, meaning
    (verify, []),
    (history, [NICKNAME]),
    (show, [NICKNAME]),
    (backup, [("file", cli.path, "the copy; it must not exist")]),
    (grant, [NICKNAME, ("credits", cli.credits_to_grant, "how many; below 0 to take some")]),
    (unprotect, [NICKNAME]),
]


def main(arguments=None):
    """Carry out a command; returns the exit status."""
    chosen = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:          # nohup(1)
            signal.signal(number, signal.default_int_handler)   # `with` and `finally` clean up
    interrupted = 128 + signal.SIGINT                           # as shells have it
    out = _open_output()
    try:
        status = chosen.run(open_storage(chosen.database), out,
                            *[getattr(chosen, name) for name in chosen.parameters]) or 0
        return status if _close_output(out) else 1
    except (CannotOpen, CannotBackUp, CommandFailed) as error:
        log.error("%s", error)
    except STORAGE_ERRORS as error:
        if describe(error) == "interrupted":            # the signal came while SQLite was at work
            return interrupted
        log.error("%s failed: %s", chosen.run.__name__, describe(error))
    except EnvironmentError as error:
        if error.errno != errno.EPIPE:                  # the reader of the output has enough
            log.error("%s failed: %s%s", chosen.run.__name__, error.strerror,
                      ": %s" % error.filename if error.filename else "")
    except KeyboardInterrupt:
        os._exit(interrupted)       # without a flush: the reader of the output may have stopped
    return 1


def parse(arguments):
    """Return the options: `run`, the command; `parameters`, the names of its arguments; `database`.

    The option --database may stand before or behind the command.
    """
    common = cli.Parser(add_help=False)
    cli.add_database_option(common)
    options, rest = common.parse_known_args(arguments)
    parser = cli.Parser(parents=[common], description="Look after the shop's accounts. Every "
                        "command may be used while a server runs on them.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    commands.required = True
    for run, parameters in COMMANDS:
        meaning = run.__doc__ or ""             # python -OO has no docstrings
        command = commands.add_parser(run.__name__, parents=[common], description=meaning,
                                      help=meaning.split(".")[0].replace("\n   ", ""))
        for name, kind, meaning in parameters:
            command.add_argument(name, type=kind, metavar=name.upper(), help=meaning)
        command.set_defaults(run=run, parameters=[name for name, _, _ in parameters])
    chosen = parser.parse_args(rest)
    chosen.database = options.database
    return chosen


def _open_output():
    """Return standard output as a text stream that escapes what it cannot show."""
    try:
        return io.TextIOWrapper(io.BufferedWriter(cli.StandardFile(sys.stdout, "w")),
                                sys.stdout.encoding or locale.getpreferredencoding(),
                                "backslashreplace", line_buffering=sys.stdout.isatty())
    except (AttributeError, EnvironmentError):      # closed by the program that started this one
        return io.open(os.devnull, "w")


def _close_output(out):
    """Write the rest of the output; returns whether that was possible."""
    try:
        out.close()
    except EnvironmentError as error:
        if error.errno != errno.EPIPE:
            log.error("it is done, but the output cannot be written: %s", error.strerror)
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
