"""What holds up the loop of a worker, and with it every object there: in methods, and in whatever functions of the module they
call. What is handed over (`asyncio.to_thread(load)`, `self.offload(load)`) is not called here."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tidegate.runtime.lint.module import Module, ObjectCode, Suspect, code_of, name_of

_THREAD = "await asyncio.to_thread(...)"
_OF_HTTP = ("get", "post", "put", "patch", "delete", "head", "options", "request")
INSTEAD = {
    "time.sleep": "await asyncio.sleep(...)",
    "input": "an argument of the method",
    **dict.fromkeys((f"{library}.{method}" for library in ("requests", "httpx") for method in _OF_HTTP), "self.fetch"),
    **dict.fromkeys(("requests.Session", "requests.session", "httpx.stream", "httpx.Client"), "self.fetch"),
    **dict.fromkeys(("urllib.request.urlopen", "urllib.request.urlretrieve", "http.client.HTTPConnection"), "self.fetch"),
    **dict.fromkeys(("http.client.HTTPSConnection", "urllib3.PoolManager", "urllib3.request"), "self.fetch"),
    **{
        f"subprocess.{name}": "await asyncio.create_subprocess_exec(...)"
        for name in ("run", "call", "check_call", "check_output", "getoutput", "getstatusoutput", "Popen")
    },
    "os.system": "await asyncio.create_subprocess_shell(...)",
    "os.popen": "await asyncio.create_subprocess_shell(...)",
    **dict.fromkeys(("open", "io.open", "pathlib.Path.open", "os.fsync", "os.wait", "os.waitpid", "sqlite3.connect"), _THREAD),
    **dict.fromkeys(("psycopg.connect", "psycopg2.connect", "pymysql.connect", "smtplib.SMTP", "smtplib.SMTP_SSL"), _THREAD),
    **dict.fromkeys(("socket.create_connection", "socket.getaddrinfo", "socket.gethostbyname", "select.select"), _THREAD),
    **dict.fromkeys(("mysql.connector.connect", "paramiko.SSHClient", "ftplib.FTP", "ftplib.FTP_TLS"), _THREAD),
    **dict.fromkeys(("boto3.client", "boto3.resource", "boto3.Session", "boto3.session.Session"), _THREAD),
    **{f"redis.{name}": f"redis.asyncio.{name}" for name in ("Redis", "StrictRedis", "from_url")},
    "pymongo.MongoClient": "pymongo.AsyncMongoClient",
    **{f"shutil.{name}": _THREAD for name in ("copy", "copy2", "copyfile", "copytree", "move", "rmtree")},
}
_OF_FILES = {"read_text", "read_bytes", "write_text", "write_bytes"}
"""Of a `pathlib.Path`; those of other libraries with these names are awaited."""


def blocking(code: ObjectCode) -> Iterator[Suspect]:
    """What runs on the loop: coroutines, and the making of an instance."""
    starts = [each for each in code.methods if isinstance(each, ast.AsyncFunctionDef) or each.name == "__init__"]
    for function in code.functions_called(*starts):
        for node in code_of(function):
            if isinstance(node, ast.Call) and not isinstance(code.module.parents[node], ast.Await):
                name = code.module.meaning(node.func)
                instead = _instead(code.module, node, name)
                if instead:
                    yield Suspect(node.lineno, "blocks", f"{name.lstrip('.')} holds up every object of the worker: use {instead}")


def _instead(module: Module, call: ast.Call, name: str) -> str:
    if isinstance(call.func, ast.Attribute) and call.func.attr in _OF_FILES:
        return _THREAD
    first = name_of(call.func).partition(".")[0]
    is_known = first in module.imports or ("." not in name and first not in module.own_names)
    return INSTEAD.get(name, "") if is_known else ""
