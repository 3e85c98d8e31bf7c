"""A depot in a store that speaks S3, by the library `obstore`, which is installed with `tidegate[s3]`.

Where it is and who asks is said as for other programs, by AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
and so on, or by the role of the machine.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tidegate.runtime.errors import OperatorError
from tidegate.runtime.extras import how_to_install
from tidegate.shard.backup.depot import Depot

if TYPE_CHECKING:
    from obstore.store import S3Store

RETRIES_MAX = 4
"""Of a request that the store had no time for."""
CALL_S_MAX = 120
"""Of one request, of a piece at most."""


def open_store(url: str) -> Depot:
    """`s3://BUCKET/PREFIX`. Raises OperatorError."""
    try:
        import obstore.store
    except ImportError:
        hint = how_to_install("tidegate[s3]")
        raise OperatorError("use backups in", url, "the library for it is not installed", hint) from None
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    try:
        store = obstore.store.S3Store.from_url(
            url,
            config={"endpoint": endpoint} if endpoint else None,
            client_options={"allow_http": (endpoint or "").startswith("http://"), "timeout": timedelta(seconds=CALL_S_MAX)},
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=CALL_S_MAX)},
        )
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise _failed("use backups in", url, error) from error
    return StoreDepot(url.rstrip("/"), store)


class StoreDepot:
    """All raise OperatorError."""

    def __init__(self, place: str, store: S3Store) -> None:
        import obstore

        self.place = place
        self._store = store
        self._library = obstore
        self._errors = (obstore.exceptions.BaseError, OSError)
        """Some of the library's are those of Python."""

    def put(self, name: str, data: bytes) -> None:
        try:
            self._library.put(self._store, name, data, use_multipart=False)
        except self._errors as error:
            raise self._failed("write", name, error) from error

    def get(self, name: str) -> bytes | None:
        try:
            return self._library.get(self._store, name).bytes().to_bytes()
        except FileNotFoundError:
            return None
        except self._errors as error:
            raise self._failed("read", name, error) from error

    def list(self, prefix: str = "") -> list[str]:
        return list(self.stamps(prefix))

    def stamps(self, prefix: str = "") -> dict[str, str]:
        folder = prefix.rpartition("/")[0]
        try:
            found = [each for page in self._library.list(self._store, prefix=folder or None) for each in page]
        except self._errors as error:
            raise self._failed("look into", "", error) from error
        return {
            each["path"]: f"{each['e_tag']}.{each['last_modified']}.{each['size']}"
            for each in sorted(found, key=lambda each: each["path"])
            if each["path"].startswith(prefix)
        }

    def delete(self, name: str) -> None:
        try:
            self._library.delete(self._store, name)
        except FileNotFoundError:
            pass
        except self._errors as error:
            raise self._failed("remove", name, error) from error

    def _failed(self, operation: str, name: str, error: Exception) -> OperatorError:
        return _failed(operation, f"{self.place}/{name}".rstrip("/"), error)


def _failed(operation: str, place: str, error: Exception) -> OperatorError:
    problem = " ".join(str(error).split())[:300]
    hint = "check AWS_ENDPOINT_URL, AWS_REGION and the keys, and run the same command again: it goes on where it was"
    return OperatorError(operation, place, problem, hint, passes=True)


def is_store(text: str) -> bool:
    return urlsplit(text).scheme == "s3"
