"""What one writes without a system for it: aiohttp in front of sqlite, one process, one transaction a number."""

from __future__ import annotations

import argparse
import sqlite3

from aiohttp import web

NUMBERS = web.AppKey("numbers", sqlite3.Connection)


async def get_unique_number(request: web.Request) -> web.Response:
    rows = request.app[NUMBERS].execute(
        "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value - 1",
        (request.match_info["name"],),
    ).fetchall()  # fmt: skip
    return web.Response(text=str(rows[0][0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", required=True)
    options = parser.parse_args()
    database = sqlite3.connect(options.file, isolation_level=None)  # Every statement is a transaction of its own.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID")
    app = web.Application()
    app[NUMBERS] = database
    app.router.add_post("/{name}", get_unique_number)
    web.run_app(app, host="127.0.0.1", port=options.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
