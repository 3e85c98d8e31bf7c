"""How what was found is told."""

from __future__ import annotations

from tidegate.testing.stock.report import SAYS, Told, lines_of, place_of, shown, summary, timeline_of

ONE = Told(
    "memory", "Ticket", "0:0,1:1.1", ["Ticket/a.take()", "60 minutes pass", "Ticket/a.take()"],
    [([True, 0], [True, 0]), (None, None), ([True, 1], [False, "ValueError: no"])],
    ["everything leaves memory after step 1"],
    [(f"what Ticket/a has stored['{n}']", "1", "nothing") for n in range(8)],
    ["0.0 s  test -> Ticket/a.take()"],
)  # fmt: skip


def test_a_finding_is_told_with_its_calls_what_happened_and_how_to_run_it_again() -> None:
    text = "\n".join(lines_of(ONE, 1, "app.py"))
    assert text.startswith("FOUND 1: Ticket: something is kept in memory only")
    assert (
        "\n  1  Ticket/a.take()  -> 0\n  2  60 minutes pass\n  3  Ticket/a.take()  -> raises ValueError: no   (else: 1)\n" in text
    )
    assert "everything leaves memory after step 1" in text
    assert "what Ticket/a has stored['0']: nothing, and where nothing happened 1" in text
    assert "and 2 more" in text
    assert text.endswith("tidegate test app.py --seed 0:0,1:1.1")
    assert list(timeline_of(ONE))[1] == "    0.0 s  test -> Ticket/a.take()"


def test_each_kind_has_a_next_step() -> None:
    for kind in SAYS:
        assert any(line.startswith("  next: ") for line in lines_of(ONE._replace(kind=kind), 1, "app.py"))


def test_a_place_is_told_as_it_is_read() -> None:
    assert place_of(("answers", 0, 1, "n")) == "the answer of step 1['n']"
    assert place_of(("stored", "Ticket/a", "n", 2)) == "what Ticket/a has stored['n'][2]"
    assert place_of(("stored",)) == "what is stored"
    assert len(shown("x" * 1_000)) == 110


def test_the_last_line_says_what_was_done() -> None:
    assert summary("app.py", 3, 120, 1.25, 0, out_of_time=False) == "app.py: 120 runs of 3 scripts in 1.2 s: nothing differs"
    assert summary("app.py", 3, 120, 1.25, 2, out_of_time=True).endswith("when the time was up: 2 found")
