"""What was found, as it is told. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

SAYS = {
    "outside": ("what it does depends on what ran before it in its process", "keep what lives longer than a call in an object"),
    "memory": (
        "something is kept in memory only, and is lost with it",
        "put it into self.storage, and load it in on_start; what has to happen later is an alarm, not a timer",
    ),
    "crash": (
        "a crash makes a difference",
        "do first what may be done twice, number what others are asked, and take up by an alarm what is left over",
    ),
    "failure": (
        "a commit that fails makes a difference",
        "whoever is asked again has to find what was done: number what others are asked, write down what is under way",
    ),
    "half": (
        "a call that is cut off leaves something half done, and asking again does not mend it",
        "write down what is to be done in one step, before others are asked, and take it up by an alarm",
    ),
    "together": (
        "two calls at the same time get into each other's way",
        "what is read before an await may have changed after it: write before it, or use self.block_concurrency()",
    ),
}
"""By kind: what it is, and the next step."""
SHOWN_MAX = 6
WIDTH_MAX = 110


class Told(NamedTuple):
    """One that was found."""

    kind: str
    class_name: str
    seed: str
    steps: list[str]
    answers: list[tuple[Any, Any]]
    """By step: of the twin and of this run; None where nothing is answered."""
    happened: list[str]
    differences: list[tuple[str, str, str]]
    """Where; what the twin has there, and what was found."""
    timeline: list[str]


def place_of(path: tuple[Any, ...]) -> str:
    """`("stored", "Ticket/a", "n")` as it is read."""
    where, *rest = path or ("everything",)
    if where == "answers":
        inside = "".join(f"[{each!r}]" for each in rest[2:])
        return f"the answer of step {rest[0] + 1}{inside}" if rest else "the answers"
    if not rest:
        return "what is stored"
    inside = "".join(f"[{each!r}]" for each in rest[1:])
    return f"what {rest[0]} has stored{inside}"


def shown(value: Any) -> str:
    text = value if isinstance(value, str) and value in ("nothing", "is set") else repr(value)
    return text if len(text) <= WIDTH_MAX else f"{text[: WIDTH_MAX - 1]}…"


def answer_shown(answer: Any) -> str:
    is_result, value = answer
    return shown(value) if is_result else f"raises {value}"


def lines_of(told: Told, number: int, app: str) -> Iterator[str]:
    says, advice = SAYS[told.kind]
    yield f"FOUND {number}: {told.class_name}: {says}"
    for at, (step, (twin, here)) in enumerate(zip(told.steps, told.answers, strict=True), 1):
        answered = "" if twin is None else f"  -> {answer_shown(here)}"
        otherwise = "" if twin is None or twin == here else f"   (else: {answer_shown(twin)})"
        yield f"  {at}  {step}{answered}{otherwise}"
    yield "  what happened:"
    yield from (f"    {each}" for each in told.happened)
    yield "  what differs:"
    for where, twin, here in told.differences[:SHOWN_MAX]:
        yield f"    {where}: {here}, and where nothing happened {twin}"
    if len(told.differences) > SHOWN_MAX:
        yield f"    and {len(told.differences) - SHOWN_MAX} more"
    yield f"  next: {advice}"
    yield f"  again, line by line: tidegate test {app} --seed {told.seed}"


def timeline_of(told: Told) -> Iterator[str]:
    yield "  line by line:"
    yield from (f"    {each}" for each in told.timeline)


def summary(app: str, scripts: int, runs: int, seconds: float, found: int, *, out_of_time: bool) -> str:
    what = "nothing differs" if not found else f"{found} found"
    ended = ", when the time was up" if out_of_time else ""
    return f"{app}: {runs} runs of {scripts} scripts in {seconds:.1f} s{ended}: {what}"
