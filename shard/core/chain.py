"""The chain of a call: through which objects it has come, and in which of their critical sections, transactions and starts.

Guarantee: a call that comes back to an object can tell the section whose code has started it, wherever that code is by now: in a
sub-task, or behind calls to other objects of any worker. A section is known by a token that nobody can guess, so that a chain
which is not true names no section.

A call has a chain if it was made in a section, transaction or start, or by a call that has one. All others pay nothing. Of an
object it names the section and those around it: work that outlives its section belongs to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tidegate.runtime.limits import CHAIN_ENTRIES_MAX, CHAIN_LABEL_CHARACTERS_MAX, CHAIN_TOKENS_MAX
from tidegate.shard.core.input_gate import Section

Entry = tuple[str, tuple[int, ...]]
"""An object, and the tokens of its sections."""
Chain = tuple[Entry, ...]


def tokens_of(chain: Chain) -> set[int]:
    return {token for _, tokens in chain for token in tokens}


def tokens_in(section: Section, new_token: Callable[[], int]) -> tuple[int, ...]:
    """Of a living section and those around it; the root has none. A section gets its token when the first call leaves it."""
    tokens: list[int] = []
    while section.parent is not None and len(tokens) < CHAIN_TOKENS_MAX:
        if section.token is None:
            section.token = new_token()
        tokens.append(section.token)
        section = section.parent
    return tuple(tokens)


def extended(chain: Chain, label: str, tokens: tuple[int, ...]) -> Chain:
    """The chain of a call made by the object `label`. Where it is too long, those outside of any section are forgotten first."""
    longer = (*chain, (label[:CHAIN_LABEL_CHARACTERS_MAX], tokens))
    if len(longer) > CHAIN_ENTRIES_MAX:
        at = next((at for at, (_, tokens) in enumerate(longer) if not tokens), 0)
        longer = longer[:at] + longer[at + 1 :]
    return longer


def labels_since(chain: Chain, token: int | None) -> list[str]:
    """Where the call has been since it left that section, which is known to be in it."""
    at = max((at for at, (_, tokens) in enumerate(chain) if token in tokens), default=0)
    return [label for label, _ in chain[at:]]


def ring(labels: Iterable[str]) -> str:
    return " -> ".join(labels)
