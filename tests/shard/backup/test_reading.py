"""shard/backup/reading.py: lineages of a depot that is looked at again and again, and into which others put and delete."""

from __future__ import annotations

import pytest

from tidegate.runtime.errors import OperatorError
from tidegate.shard.backup.depot import FolderDepot
from tidegate.shard.backup.manifest import FORMAT, Manifest, encode_manifest, manifest_name, seal_of
from tidegate.shard.backup.reading import Manifests, read_lineage, read_lineages


class Depot(FolderDepot):
    """Tells what was read of it, and in which something may happen before that."""

    def __init__(self, path: object) -> None:
        super().__init__(path)  # type: ignore[arg-type]  # a path
        self.read: list[str] = []
        self.deleted_first: list[str] = []
        self.lost = ""

    def get(self, name: str) -> bytes | None:
        for each in self.deleted_first:
            self.delete(each)
        self.deleted_first = []
        self.read.append(name)
        return None if name == self.lost else super().get(name)

    def back_up(self, lineage: str, number: int) -> str:
        before = super().get(manifest_name(lineage, number - 1))
        parent = "" if before is None else seal_of(before)
        manifest = Manifest(FORMAT, lineage, number, parent, "test", 1, 1, 0, number, 0, {}, {}, {}, [], [])
        self.put(name := manifest_name(lineage, number), encode_manifest(manifest))
        return name


@pytest.fixture
def depot(tmp_path: object) -> Depot:
    return Depot(tmp_path)


def found(depot: Depot, manifests: Manifests | None = None) -> dict[str, int]:
    return {each.name: len(each.manifests) for each in read_lineages(depot, manifests).good}


def test_a_manifest_is_read_once_for_as_long_as_it_stays_what_it_is(depot: Depot) -> None:
    first = [depot.back_up("a", number) for number in (1, 2)]
    manifests = Manifests()
    assert found(depot, manifests) == {"a": 2}
    depot.read.clear()
    assert found(depot, manifests) == {"a": 2}
    assert depot.read == []
    new = [depot.back_up("a", 3), depot.back_up("b", 1)]
    assert found(depot, manifests) == {"a": 3, "b": 1}
    assert depot.read == new
    depot.put(first[0], b"damaged")
    assert list(read_lineages(depot, manifests).damaged) == ["a"]
    for name in (*first, new[0]):
        depot.delete(name)
    assert found(depot, manifests) == {"b": 1}
    assert set(manifests._known) == {new[1]}, "nothing is kept of what is gone"


def test_a_lineage_that_is_deleted_while_it_is_read_is_not_there_and_no_damage(depot: Depot) -> None:
    names = [depot.back_up("a", number) for number in (1, 2)]
    depot.back_up("b", 1)
    depot.deleted_first = names
    assert read_lineages(depot).damaged == {}
    assert found(depot) == {"b": 1}
    names = [depot.back_up("a", number) for number in (1, 2)]
    depot.deleted_first = names[:1]
    assert read_lineage(depot, "a").manifests == []
    assert read_lineages(depot).damaged == {}


def test_a_manifest_that_is_listed_and_cannot_be_read_is_a_damage(depot: Depot) -> None:
    depot.back_up("a", 1)
    depot.lost = depot.back_up("a", 2)
    with pytest.raises(OperatorError, match=r"a/000002.json: it is gone"):
        read_lineage(depot, "a")
    assert list(read_lineages(depot).damaged) == ["a"]
