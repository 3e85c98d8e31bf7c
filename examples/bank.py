"""Accounts and transfers between them that never lose, double or invent money, whatever is killed at whatever moment.

    tidegate serve examples/bank.py
    tidegate call Bank main open '"alice"' 100
    tidegate call Bank main transfer '"alice"' '"bob"' 30 '"rent-may"'

Two objects cannot change in one commit. So the sending account takes the money out and writes what is still to be delivered
into its *outbox*, in one atomic group; delivers it; and only then clears the outbox. If anything dies in between, an alarm set
in that same group delivers again, and the receiving account recognizes the id of the transfer. A caller that got no answer
asks again with the same id. Between the two commits the money is in the outbox: counted by `holdings`, not by `balance`.
"""

from datetime import timedelta

from tidegate import AlarmInfo, DurableObject

RETRY = timedelta(seconds=1)


class Account(DurableObject):
    async def balance(self) -> int:
        balance: int = await self.storage.get("balance", 0)
        return balance

    async def holdings(self) -> int:
        """The balance and what has been sent and has not verifiably arrived."""
        outbox: dict[str, dict[str, int]] = await self.storage.list(prefix="outbox/")
        return await self.balance() + sum(order["amount"] for order in outbox.values())

    async def receive(self, amount: int, transfer: str) -> int:
        """Adds the money once, however often it is delivered."""
        balance = await self.balance()
        if not await self.storage.get(f"received/{transfer}", False):
            balance += amount
            await self.storage.put_many({"balance": balance, f"received/{transfer}": True})
        return balance

    async def send(self, target: str, amount: int, transfer: str) -> None:
        """Done when the money has arrived. The same id again is the same transfer, not another one."""
        order = {"target": target, "amount": amount}
        known = await self.storage.get(f"sent/{transfer}", order)
        balance = await self.balance()
        if known != order or amount <= 0 or target == self.id.name:
            raise ValueError(f"transfer {transfer} cannot be {amount} to {target}")
        if not await self.storage.get(f"sent/{transfer}", None):
            if amount > balance:
                raise ValueError(f"{self.id.name} has {balance}, not {amount}")
            self.storage.put_many({"balance": balance - amount, f"sent/{transfer}": order, f"outbox/{transfer}": order})
            self.storage.set_alarm(RETRY)  # One group: nothing was awaited in between.
        await self._deliver(transfer)

    async def _deliver(self, transfer: str) -> None:
        if order := await self.storage.get(f"outbox/{transfer}", None):
            await self.stub(Account, order["target"]).receive(order["amount"], transfer)
            await self.storage.delete(f"outbox/{transfer}")

    async def alarm(self, info: AlarmInfo) -> None:
        if waiting := await self.storage.list(prefix="outbox/", limit=100):
            await self.storage.set_alarm(RETRY)  # Before anything can fail, so that there is always a next time.
        for key in waiting:
            await self._deliver(key.removeprefix("outbox/"))


class Bank(DurableObject):
    async def open(self, name: str, amount: int) -> int:
        """A new account with some money in it; asked again, the same account."""
        await self.storage.put(f"account/{name}", True)
        return await self.stub(Account, name).receive(amount, f"opening of {name}")

    async def transfer(self, source: str, target: str, amount: int, transfer: str = "") -> None:
        """Without an id of the caller's own, a transfer whose outcome is unknown cannot be asked for again."""
        if not transfer:  # No number of chance: a call that is cut off and runs again has to ask for the same.
            self.storage.put("transfers", number := 1 + await self.storage.get("transfers", 0))
            transfer = f"{self.id.name} {number}"
        await self.stub(Account, source).send(target, amount, transfer)

    async def total(self) -> int:
        """All the money. While transfers are on their way some may be counted twice, never too little."""
        accounts = await self.storage.list(prefix="account/")
        return sum([await self.stub(Account, key.removeprefix("account/")).holdings() for key in accounts])
