"""What an access key may do, decided without a socket."""

from __future__ import annotations

import pytest

from tidegate.runtime.wire.access import AccessKey, ClientKey, Holder, Rights, duplicates, is_z85, read_only_methods

PUBLIC = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
MARKED = frozenset({("Counter", "current")})


def holder(**rights: object) -> Holder:
    return Holder(AccessKey("web", PUBLIC, Rights(**rights)), MARKED)  # type: ignore[arg-type]  # of any rights


@pytest.mark.parametrize(
    ("rights", "cls", "method", "allowed"),
    [
        ({}, "Counter", "add", True),
        ({}, "", "ping", True),
        ({}, "", "topology", True),
        ({}, "", "classes", True),
        ({}, "", "status", False),
        ({}, "", "nonsense", False),
        ({"admin": True}, "", "status", True),
        ({"classes": ("Counter",)}, "Counter", "add", True),
        ({"classes": ("Counter",)}, "Bank", "add", False),
        ({"classes": ("Counter",)}, "", "classes", False),
        ({"classes": ("Counter",)}, "", "ping", True),
        ({"methods": ("add",)}, "Bank", "add", True),
        ({"methods": ("Bank.add",)}, "Counter", "add", False),
        ({"methods": ("Bank.add",)}, "Bank", "add", True),
        ({"methods": ("add",)}, "Counter", "Counter.add", False),
        ({"read_only": True}, "Counter", "current", True),
        ({"read_only": True}, "Counter", "add", False),
        ({"read_only": True}, "Bank", "current", False),
        ({"read_only": True, "classes": ("Bank",)}, "Counter", "current", False),
        ({"admin": True, "classes": ("Bank",)}, "Counter", "add", False),
    ],
)
def test_a_right_allows_what_it_names_and_nothing_else(rights: dict[str, object], cls: str, method: str, allowed: bool) -> None:
    key = holder(**rights)
    assert [not key.problem(cls, method) for _ in range(2)] == [allowed, allowed]


def test_a_read_only_key_may_call_nothing_while_nobody_knows_what_is_marked() -> None:
    assert Holder(AccessKey("web", PUBLIC, Rights(read_only=True)), None).problem("Counter", "current")


def test_a_stranger_that_asks_for_ever_new_methods_takes_no_memory() -> None:
    key = holder(classes=("Counter",))
    for number in range(25_000):
        assert key.problem(f"C{number}", "m")
    assert len(key._verdicts) <= 10_000


def test_a_key_ends_at_its_time() -> None:
    key = AccessKey("web", PUBLIC, until_s=100.0)
    assert (key.is_valid(99.9), key.is_valid(100.0)) == (True, False)


def test_the_marked_methods_are_read_from_the_description_of_the_classes() -> None:
    described = {"Counter": {"doc": "", "methods": {"current": {"read_only": True}, "add": {"read_only": False}, "old": {}}}}
    assert read_only_methods(described) == MARKED


def test_a_key_is_forty_characters_of_z85() -> None:
    assert is_z85(PUBLIC)
    assert not is_z85(PUBLIC[:-1])
    assert not is_z85(PUBLIC[:-1] + '"')
    assert duplicates([AccessKey("a", PUBLIC), AccessKey("b", PUBLIC)]) == [PUBLIC]


def test_rights_are_said_in_words() -> None:
    assert Rights().words() == "all classes"
    assert Rights(("A", "B"), ("A.m",), read_only=True, admin=True).words() == "A, B, only A.m, read-only, admin"


def test_a_secret_is_in_no_repr() -> None:
    assert "secret" not in repr(ClientKey(PUBLIC, PUBLIC, "secret"))
