"""Who is let in: what a request has to say of itself before anything is done for it.

Guarantee: only a page of this console, opened by the link with the secret, learns or changes anything. A page of another site
cannot, in the same browser or by a name that it lets point here (DNS rebinding); nor can another user of the machine, who can
connect.

Rule: pure. The secret comes in a header that no browser adds by itself: nothing is kept in cookies.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import NamedTuple

SCHEME = b"Bearer "
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'"),
            *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"),
            "trusted-types 'none'",
        )
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of each answer: no script and no style but the console's own, no text that becomes markup, nothing kept, nothing framed."""


class Refusal(NamedTuple):
    status: int
    """Of HTTP."""
    code: str
    message: str


class Admission:
    def __init__(self, secret: str, hosts: Iterable[str] = ()) -> None:
        """`hosts`: by which names it is reached, beside those of loopback. Whatever the port: a tunnel has another one."""
        self._secret = secret.encode()
        self._hosts = LOOPBACK_NAMES | {each.lower() for each in hosts}

    def refusal(self, headers: Mapping[str, str], *, is_public: bool) -> Refusal | None:
        """None: it is let in. `is_public`: it is asked for a file of the page itself, which has no secret."""
        host = headers.get("Host", "").lower()
        if _name_of(host) not in self._hosts:
            return Refusal(421, "other_host", "this console is not reached by that name; open the link that it has printed")
        if is_public:
            return None
        origin = headers.get("Origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return Refusal(403, "other_site", "a page of another site asks")
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return Refusal(403, "other_site", "a page of another site asks")
        given = headers.get("Authorization", "").encode(errors="backslashreplace")
        if not given.startswith(SCHEME) or not hmac.compare_digest(given.removeprefix(SCHEME), self._secret):
            return Refusal(401, "no_secret", "open the link that `tidegate console` has printed: it has the secret of this run")
        return None


def _name_of(host: str) -> str:
    """Without the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
