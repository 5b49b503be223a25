# -*- coding: utf-8 -*-
"""What the shop sells, and every limit with its reason."""
from __future__ import unicode_literals

from collections import OrderedDict

VERSION = "1.5"

# --- the shop ---------------------------------------------------------------------------------

# What is for sale, and its price in credits. Names are stored joined by commas, so they contain
# none; players type them in any case, so no two differ only in case.
ITEMS = OrderedDict([
    ("potion", 25),
    ("torch", 40),
    ("dagger", 60),
    ("shield", 120),
    ("bow", 150),
    ("sword", 200),
    ("armor", 350),
    ("horse", 500),
])

# A new account gets a random amount between these two, both included. The lowest buys at least
# the cheapest item; the highest does not buy everything, so that there is a choice.
CREDITS_RANGE = (100, 1000)

MAX_CREDITS = 2 ** 63 - 1     # the largest INTEGER of SQLite and bigint of PostgreSQL

# The options of a session, in the order in which the client lists them.
OPTIONS = ("balance", "items", "buy", "sell", "logout", "protect")
TRADES = ("buy", "sell")      # options that an item may follow
BACK = "back"                 # at the question for an item: return to the options
HELP_WORDS = ("help", "?")    # words that explain the options, or the question for an item
EXIT_WORDS = ("exit", "quit") # words that are no options; they tell how to leave

# --- where it runs ----------------------------------------------------------------------------

HOST = "127.0.0.1"            # loopback: whoever can connect can play every unprotected account
PORT = 7777                   # above 1023, so no privileges; easy to remember
METRICS_PORT = 9777           # of the exporter: easy to remember beside the other
DATABASE = "lavka.db"         # in the working directory

# --- the wire (bytes, or characters where it says so) -----------------------------------------

MAX_LINE = 65536              # one message with its end of line; bounds a client's input buffer
MAX_BATCH = 64                # requests in one JSON-RPC batch; bounds what one line can ask for
MAX_NICKNAME = 255            # characters (code points); the size of the column
MAX_REASON = 200              # characters of an operator's reason: a sentence or two, which stay in
                              # the ledger for ever
KEY_LENGTHS = (32, 128)       # characters of an account's key: 32 hexadecimal digits are 128 bits
MAX_DEPTH = 100               # nesting of JSON; a request needs 3, interpreters give up at 1000
MAX_DIGITS = 4300             # digits of a JSON integer; int() is quadratic, and CPython >= 3.11
                              # has the same limit

# --- the event loop ---------------------------------------------------------------------------

MAX_CLIENTS = 20000           # connections served at once; about 1.3 KB of memory each when idle
MAX_CLIENTS_PER_ADDRESS = 2000    # of these, for addresses that are not loopback: a school, an
                              # office or a carrier's NAT shares one, and leaves room for others
SPARE_CLIENTS = 16            # connections beyond MAX_CLIENTS that linger after server_full;
                              # further ones are closed without
MAX_OPERATORS = 8             # connections to the admin socket; programs ask and close
UNIX_PATH_SIZE = 107          # bytes of a Unix socket's address (unix(7)); longer ones go by /proc
SPARE_DESCRIPTORS = 32        # kept free for these, SQLite, its write-ahead log, the log, listeners
PORT_ATTEMPTS = 10            # to find a port that is free on every address of a name
LISTEN_QUEUE = 1024           # connections that the kernel completes before they are accepted; a
                              # login storm comes at once
ACCEPT_BATCH = 64             # connections accepted in one poll, so that players need not wait
READ_BATCH = 256              # connections read in one poll: of a crowd that asks at once, not all
                              # is in memory, nor served in one tick
RECV_SIZE = 16384             # bytes read from a connection in one poll; more made no ping faster
REQUEST_QUANTUM = 64          # requests of one connection in a tick: pipelining slows nobody else
PARSE_BATCH = 4096            # requests parsed, in some 10 ms, before the first is applied
TICK_SECONDS = 0.04           # time budget for requests in a tick, which takes 50 ms then, with a
                              # commit of 10; connections not served go first in the next
POLLS_PER_COMMIT = 3          # polls in a tick while there is something to commit: one fsync for
                              # all that they bring; not more, or their replies come late
PLAYERS_PAGE = 250            # players told in one reply, in some 5 ms: all others wait meanwhile
PLAYERS_PAGE_SIZE = 32768     # bytes of them at most, so that they fit into a line
HIGH_WATER = 262144           # unsent bytes at which a connection is no longer read nor served

# --- the statistics (seconds) -----------------------------------------------------------------

# Upper bounds of the histograms of commits and ticks. The first four tell a fast disk from a slow
# one and from a database across a network. The others are where players notice: a tenth of a
# second, the busy timeout, and a second.
HISTOGRAM_BOUNDS = (0.0005, 0.002, 0.005, 0.02, 0.1, 0.25, 1.0)

# --- the log (bytes, or lines where it says so) -----------------------------------------------

LOG_LINE = 2048               # a line with its end: containers cut longer ones at 16 KB, journals
                              # at 48 KB, and the rest would read as a line of its own
LOG_TEXT = 800                # a quoted text; a line quotes two at most
LOG_TRACEBACK = 60            # lines of a traceback; a recursion without end makes thousands
LOG_BUFFER = 262144           # kept while nobody takes it: a login storm writes more than a pipe's
                              # 64 KB before a slow reader has its turn
LOG_RESERVE = 65536           # the part of it that only WARNING and above may fill
LOG_WRITES = 1000             # writes in a row, in some 5 ms, for another user's terminal: it gets
                              # one byte in each

# Lines about logins that are written before they are counted, and as many about logouts and about
# new keys: so many at once, and so many again every LOG_SUMMARY_SECONDS. Behind one address 1,000
# players may log in twice in a moment. Without a pause it makes 0.9 million lines a day of each,
# 150 MB of logins and logouts, or 1.6 GB if its nicknames are as long as they can be.
LOG_ADDRESS_LINES = (2000, 100)
LOG_LINES = (20000, 250)      # of all addresses together: after a restart the players of a full
                              # server log in; 2.5 times as much a day

# --- the file ---------------------------------------------------------------------------------

PAGE_SIZE = 512               # bytes, of a new file; a commit writes whole pages, and with many
                              # accounts on file each trade changes a page of its own
WAL_SIZE = 4096000            # bytes of the write-ahead log at which a commit starts a checkpoint:
                              # SQLite's default of 1,000 pages, at the usual 4,096 bytes a page
WAL_LARGE = 4 * WAL_SIZE      # bytes of its file from which on a thread makes the checkpoints: in
                              # the loop, each MB would stop all players for 2 ms
WAL_REST = 262144             # bytes that the thread leaves to the loop, which copies them in 2 ms
WAL_STEP = 32 * 1024 * 1024   # bytes by which a large file shrinks at once, in some 20 ms

STREAM_ROWS = 500             # that a command reads from a file at once: many, for speed, in 200 KB

# --- copying a database -----------------------------------------------------------------------

COPY_ROWS = 5000              # read, checked and written at once, in some 30 ms: fast, and little
                              # memory; Ctrl-C waits so long at most

# --- PostgreSQL -------------------------------------------------------------------------------

LOCK_TABLE_SHARE = 0.9        # of PostgreSQL's lock table, up to which nicknames are locked; the
                              # commands need locks, too, and so does whoever else uses it
LOCK_COUNT_SHARE = 0.125      # of the room left, which a server fills before it counts again: few
                              # servers that fill it at once hardly exceed the share above

# --- the player's keys ------------------------------------------------------------------------

KEY_BYTES = 16                # of a new key: random enough that nobody can guess it
MAX_KEY_FILE = 16777216       # bytes of the file of keys: over 100,000 keys; reading a file without
                              # a limit could take all memory
KEYS_KEPT = 8                 # keys of an account in that file: an answer may be lost, and two
                              # shops may take turns at one address
KEY_ATTEMPTS = 3              # wrong keys until the console asks for the nickname again: a script
                              # without the key must not have all its lines taken for keys

# --- the console (columns) --------------------------------------------------------------------

COLUMNS = 80                  # of a line, at most; longer ones are tiring to read
ANSWER_COLUMNS = 12           # to type after a question; a longer question begins in a line above
NICKNAME_COLUMNS = 24         # of a nickname in the prompt, so that there is room to type
WORD_COLUMNS = 40             # of a wrong word in an error, so that the error fits into a line
CELL_COLUMNS = 10             # to which a table's widest column is shortened before any other is:
                              # a name is still recognized

# --- time limits (seconds) --------------------------------------------------------------------

LOGIN_SECONDS = 30            # to log in, after connecting or logging out: a connection without
                              # a login takes a player's place
WRITE_STALL_SECONDS = 20      # in which a peer takes no byte of its replies; then it is closed
LINGER_SECONDS = 1            # to let a peer read the last reply before its connection is closed
STOP_SECONDS = 1              # to answer what was read before a stop; 2 s in all are promised
ACCEPT_PAUSE_SECONDS = 1      # after running out of descriptors; a retry at once would spin
SWEEP_SECONDS = 0.25          # between two checks of the deadlines; their precision
BUSY_SECONDS = 0.25           # busy timeout of the server; all players wait with it
BRIEF_LOCK_SECONDS = 0.005    # to wait for somebody's lock in PostgreSQL; then a tick is stored
                              # without the accounts that it holds back
LOCK_COUNT_SECONDS = 5        # after which a login has PostgreSQL's locks counted again; counting
                              # 40,000 takes 20 ms
COMMAND_BUSY_SECONDS = 5      # busy timeout of the operators' commands; no player waits for them
LOOK_SECONDS = 1              # for which files are looked at after a change of their directory
IDLE_SECONDS = 1              # without a commit until the write-ahead log is copied to its database
FILE_LOCK_ATTEMPTS = 10       # of a server's start to lock a file of the database: a command that
                              # looks whether a server runs holds it for microseconds
FILE_LOCK_PAUSE_SECONDS = 0.01    # between two of these attempts
KEY_LOCK_SECONDS = 5          # to wait for a client that changes the file of keys, mostly some ms
CHECKPOINT_RETRY_SECONDS = 1  # between two checkpoints that another program's reading holds back
STATEMENT_SECONDS = 4         # for PostgreSQL to answer; all wait meanwhile, and clients give up
                              # after 5
CONNECT_SECONDS = 2           # for each step of connecting to a host of PostgreSQL; all wait
RETRY_SECONDS = (0.25, 5)     # between two attempts to connect again: the first, and the longest
RECOVERY_SECONDS = 1          # debounce: without a failure until storage counts as recovered
LOG_SUMMARY_SECONDS = 10      # between two counts of the lines that rate-limited logging left out
LOG_EXIT_SECONDS = 0.2        # to write the last lines at the exit, if the reader is slow
REPLY_SECONDS = 5             # for the server to answer a client
MAX_REPLY_SECONDS = 2147483   # of a client's timeout at most: poll(2) has milliseconds in a C int
WAITING_NOTICE_SECONDS = 0.5  # until a player is told that the client waits for the server

WATCHDOG_PINGS = 2            # of the loop in the time of systemd's watchdog: one may come late, as
                              # sd_watchdog_enabled(3) recommends

NICKNAME_FREED_SECONDS = 30   # until a nickname whose client vanished is free, as promised

# A peer that vanished without a word is noticed after 10 + 3 * 5 = 25 s, under the promised 30;
# the defaults of Linux are 2 hours and 11 minutes (tcp(7)).
KEEPALIVE_IDLE_SECONDS = 10
KEEPALIVE_SPREAD_SECONDS = 5  # earlier than others a client is probed: of the probes that follow
                              # a login storm at the same instant, loopback drops those beyond 1,000
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_PROBES = 3
USER_TIMEOUT_SECONDS = 20     # the same for a peer that leaves sent data unacknowledged
TCP_USER_TIMEOUT = 18         # the socket option for that on Linux (tcp(7)); 2.7 has no name for it
