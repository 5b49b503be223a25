"""A bot that buys the dearest item that it can afford: exactly once, even if connections break.

    python3 bot.py HOST PORT NICKNAME
"""
from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Callable

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from client import Client, LavkaError, RpcError

if TYPE_CHECKING:               # the stub has the types, the module itself has not
    from client import Account

# Reasons to log in again: answers that are lost, and errors that pass.
PASSING = ("no_answer", "gone", "not_running", "unreachable", "nickname_in_use", "server_full")


def buy_once(connect: Callable[[], Client], nickname: str, item: str) -> Account:
    """Buy an item, unless the account has it by now; return the account.

    Raises LavkaError for any other reason than those of PASSING.
    """
    while True:
        try:
            with connect() as shop:
                account = shop.login(nickname)["account"]
                return account if item in account["items"] else shop.buy(item)
        except LavkaError as error:
            if error.reason not in PASSING:
                raise
            print(error, file=sys.stderr)
            time.sleep(1)


def buy_dearest(connect: Callable[[], Client], nickname: str) -> None:
    """Try the items that the account lacks, the dearest one first, until one is bought."""
    with connect() as shop:
        login = shop.login(nickname)
    for item in sorted(login["catalog"], key=lambda item: -item["price"]):
        if item["name"] in login["account"]["items"]:
            continue
        try:
            account = buy_once(connect, nickname, item["name"])
        except RpcError as refusal:
            if refusal.reason != "not_enough_credits":      # the item may be bought
                raise
            print("%s: %s" % (item["name"], refusal.reason))
        else:
            print("bought %s, %d credits are left" % (item["name"], account["credits"]))
            break


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit("usage: bot.py HOST PORT NICKNAME")
    host, port, nickname = sys.argv[1:]
    try:
        buy_dearest(lambda: Client(host, int(port)), nickname)
    except (LavkaError, ValueError) as error:
        sys.exit("%s" % error)


if __name__ == "__main__":
    main()
