"""Over all accounts: nothing was made, nothing was lost, no deposit was made twice.

Rule: pure, and exact. A sum that has left its account is in doubt there until its receiver has said that it came; the receiver's
own books tell which of those did come. So all money is somewhere, whoever died in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPENING_BALANCE = 1_000

Books = Mapping[str, Any]
"""What an account has stored: `balance`; `sent/TO`: number of the last transfer; `doubt/TO/NUMBER`: its amount; `last/FROM` and
`missing/FROM`: the highest number that has come, and those below it that have not; `repeated`: deposits that came again."""


def find_money(accounts: Mapping[str, Books], half_paid_max: int) -> list[str]:
    """What is wrong with the books of all accounts, read while no transfer was under way. Empty: nothing is. `half_paid_max`: the
    sum of payments of unknown outcome: of each the receiver may have been given what its payer still has."""
    wrong = []
    balances = under_way = 0
    for name, books in accounts.items():
        balances += books["balance"]
        if books.get("repeated"):
            wrong.append(f"Account/{name} was given {books['repeated']} deposits twice")
        for key, amount in books.items():
            if key.startswith("doubt/"):
                _, receiver, number = key.split("/")
                under_way += 0 if _has_come(accounts[receiver], name, int(number)) else amount
            elif key.startswith("last/") and amount > accounts[key.removeprefix("last/")].get(f"sent/{name}", 0):
                wrong.append(f"Account/{name} was given transfer {amount}, which {key.removeprefix('last/')} has never sent")
    expected = OPENING_BALANCE * len(accounts)
    if not expected <= balances + under_way <= expected + half_paid_max:
        wrong.append(f"{len(accounts)} accounts hold {balances}, {under_way} more have left and not come: that is not {expected}")
    return wrong


def _has_come(receiver: Books, sender: str, number: int) -> bool:
    return number <= receiver.get(f"last/{sender}", 0) and number not in receiver.get(f"missing/{sender}", [])
