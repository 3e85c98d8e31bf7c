"""By which names a console is reached; the console itself is tested in `tests/console`."""

from __future__ import annotations

import pytest

from tidegate.runtime.cli.commands.console import reached_by
from tidegate.runtime.console.admission import Admission
from tidegate.runtime.errors import OperatorError


@pytest.mark.parametrize(
    ("listen", "bound", "hosts", "link"),
    [
        ("127.0.0.1:7780", "127.0.0.1", [], "127.0.0.1"),
        ("myhost:7780", "127.0.1.1", [], "127.0.1.1"),
        ("[::1]:0", "::1", [], "[::1]"),
        ("192.0.2.7:7780", "192.0.2.7", ["shop.example"], "192.0.2.7"),
        (":".join((".".join("0000"), "7780")), ".".join("0000"), ["shop.example"], "shop.example"),
        ("[::]:7780", "::", ["shop.example"], "shop.example"),
    ],
)
def test_the_link_that_is_printed_is_let_in_and_so_is_each_name_that_was_said(
    listen: str, bound: str, hosts: list[str], link: str
) -> None:
    names = reached_by(listen, bound, hosts)
    assert names[0] == link
    admission = Admission("secret", names)
    said = [] if bound in (".".join("0000"), "::") else [listen.rpartition(":")[0]]
    for name in (link, *said, *hosts):
        assert admission.refusal({"Host": f"{name}:7780"}, is_public=True) is None


@pytest.mark.parametrize("bound", [".".join("0000"), "::"])
def test_every_address_is_no_link_so_a_name_is_asked_for(bound: str) -> None:
    with pytest.raises(OperatorError, match="every address of the machine") as refused:
        reached_by("[::]:7780", bound, [])
    assert "--host NAME" in str(refused.value)
