# -*- coding: utf-8 -*-
"""The operators' program: its arguments, its output, and its errors as exit statuses.

    python admin.py [--database DATABASE] [--admin-socket PATH] COMMAND

--help lists the commands.
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
import signal

import cli
from admin_database import backup, give, grant, history, show, unprotect, verify
from admin_server import kick, players, stats
from admin_socket import AdminClient, chosen_path
from cli import CommandFailed
from db import open_storage
from protocol import RpcError, ServerGone
from storage import STORAGE_ERRORS, CannotBackUp, CannotOpen, describe
from transfer import copy

log = logging.getLogger("lavka.admin")


def open_database(options):
    """Return the storage that --database names, not open yet. Raises CannotOpen."""
    return open_storage(options.database)


def open_server(options):
    """Return a connection to the admin socket of the server that runs. Raises ServerGone."""
    return AdminClient(chosen_path(options))


# Arguments as argparse has them: (name or flag, its options).
NICKNAME = ("nickname", {"type": cli.text, "help": "whose account"})
ITEM = ("item", {"type": cli.text, "help": "an item of the catalog, in any case"})
CREDITS = ("credits", {"type": cli.credits_to_grant, "help": "how many; below 0 to take some"})
REASON = ("--reason", {"type": cli.reason, "metavar": "TEXT", "help": "why, for the ledger"})
JSON = ("--json", {"action": "store_true", "help": "print one line of JSON"})
FILE = ("file", {"type": cli.path, "help": "the copy; it must not exist"})
TARGET = ("target", {"type": cli.path, "metavar": "DATABASE",
                     "help": "the copy: an SQLite file or a URL, without accounts"})

# Each command with the function that opens what it works on, and with its arguments. A command gets
# what was opened, a text stream for its output, and the values of its arguments.
COMMANDS = [
    (verify, open_database, []),
    (history, open_database, [NICKNAME]),
    (show, open_database, [NICKNAME]),
    (backup, open_database, [FILE]),
    (copy, open_database, [TARGET]),
    (give, open_database, [NICKNAME, ITEM, REASON]),
    (grant, open_database, [NICKNAME, CREDITS, REASON]),
    (unprotect, open_database, [NICKNAME]),
    (stats, open_server, [JSON]),
    (players, open_server, []),
    (kick, open_server, [NICKNAME]),
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
        status = chosen.run(chosen.open(chosen), out,
                            *[getattr(chosen, name) for name in chosen.parameters]) or 0
        return status if _close_output(out) else 1
    except (CannotOpen, CannotBackUp, CommandFailed, RpcError, ServerGone) as error:
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
    """Return the options: `run`, the command; `open`, what opens what it works on; `parameters`,
    the names of its arguments; the arguments themselves; `database`, `admin_socket` and `port`.

    The common options may stand before or behind the command.
    """
    common = cli.Parser(add_help=False)
    cli.add_database_option(common)
    cli.add_admin_socket_option(common)
    options, rest = common.parse_known_args(arguments)
    parser = cli.Parser(parents=[common], description="Look after the shop's accounts and its "
                        "server. Every command may be used while a server runs.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    commands.required = True
    for run, opener, parameters in COMMANDS:
        meaning = run.__doc__ or ""             # python -OO has no docstrings
        command = commands.add_parser(run.__name__, parents=[common], description=meaning,
                                      help=meaning.split(".")[0].replace("\n   ", ""))
        actions = [command.add_argument(name, **_with_metavar(name, settings))
                   for name, settings in parameters]
        command.set_defaults(run=run, open=opener, parameters=[each.dest for each in actions])
    chosen = parser.parse_args(rest)
    vars(chosen).update(vars(options))
    return chosen


def _with_metavar(name, settings):
    """Return the options of an argument, with its name in capitals for the help, as flags have."""
    return settings if name.startswith("-") else dict({"metavar": name.upper()}, **settings)


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
