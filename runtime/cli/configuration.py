"""What a service is configured with: file, credentials and variables are looked up here, and judged by its supervisor's floor."""

from __future__ import annotations

import argparse
import dataclasses
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tidegate.runtime.data.directory import is_text
from tidegate.runtime.errors import OperatorError
from tidegate.runtime.options.option import Option
from tidegate.runtime.options.reading import Mistake, Mistakes, SetBy, file_key
from tidegate.runtime.options.settings import SECTION
from tidegate.runtime.supervisor.config import APP_VARIABLES, DATA_DEFAULT, OPTIONS, Configuration, Sources, put_together
from tidegate.runtime.wire.settings_question import SettingsAnswer, SettingsQuestion
from tidegate.runtime.wire.supervisor_messages import split_app

FILE_BYTES_MAX = 1 << 20
APP_S_MAX = 120.0
"""The import of the app takes no longer."""
FILE_VARIABLE = "TIDEGATE_CONFIG"
INSTALLED_FILE = "/etc/tidegate/tidegate.toml"
SET_HELP = "SECTION.NAME=VALUE, any option by its full name; goes before file and environment. May be given again and again."
_APP_PATH = ("service", "app")
_DATA_PATH = ("service", "data")


@dataclass(frozen=True)
class WhereToLook:
    """Where to look."""

    environment: Mapping[str, str]
    file: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[tuple[str, ...], Any] = field(default_factory=dict)


def flagged() -> list[Option]:
    return [option for options in OPTIONS.values() for option in options.values() if option.flag is not None]


def asked_for(options: argparse.Namespace, environment: Mapping[str, str]) -> WhereToLook:
    """Of a command that has flags of options, `--config` and `--set`, or some of them."""
    given = vars(options)
    flags = {option.path: given[dest] for option in flagged() if given.get(dest := destination(option)) is not None}
    sets = dict(given.get("set") or ())
    return WhereToLook(environment, given.get("config") or environment.get(FILE_VARIABLE) or None, sets, flags)


def destination(option: Option) -> str:
    """Of its flag, in what is parsed."""
    return "_".join(option.path)


def setting(text: str) -> tuple[str, str]:
    """For `type=` of an argument."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise argparse.ArgumentTypeError(f"must be SECTION.NAME=VALUE, not {text!r}")
    return key.strip(), value


def read_configuration(asked: WhereToLook, *, with_app: bool = True) -> Configuration:
    """Paths in it are absolute. `with_app`: the file that it names must be there. Raises Mistakes."""
    try:
        configuration = put_together(_found(asked))
    except Mistakes as error:
        if with_app and (app := error.given.get(_APP_PATH)) is not None:
            _check_app_too(app, error)
        raise
    service, origins = configuration.config.service, dict(configuration.origins)
    app = service.app
    if app and with_app:
        try:
            app = read_app(app)
        except OperatorError as wrong:
            raise Mistakes([_of_app(wrong, origins[_APP_PATH])], "serve") from None
    data = service.data
    if not data and (data := asked.environment.get("STATE_DIRECTORY", "").split(":")[0]):
        origins[_DATA_PATH] = SetBy("environment", "STATE_DIRECTORY")
    service = msgspec.structs.replace(service, app=app, data=os.path.abspath(data or DATA_DEFAULT))
    config = msgspec.structs.replace(configuration.config, service=service)
    return dataclasses.replace(configuration, config=config, origins=origins)


def _check_app_too(app: str, error: Mistakes) -> None:
    """Raises what is wrong with all of it."""
    try:
        read_app(app)
    except OperatorError as wrong:
        raise Mistakes([*error.mistakes, _of_app(wrong, error.origins[_APP_PATH])]) from None


def _of_app(wrong: OperatorError, origin: SetBy) -> Mistake:
    in_file = f"{file_key(_APP_PATH)} in {origin.place}" if origin.source == "file" else origin.place
    hint = wrong.hint if origin.place == "APP" else f"correct {in_file}: {wrong.hint}"
    return Mistake(str(wrong.place), "", wrong.problem, hint, ".".join(_APP_PATH))


def _found(asked: WhereToLook) -> Sources:
    mistakes: list[Mistake] = []
    text, name = "", asked.file or ""
    if name:
        hint = "correct --config" if asked.environment.get(FILE_VARIABLE) != name else f"correct {FILE_VARIABLE}"
        text = _text_of(name, hint, mistakes)
    credentials: dict[str, str] = {}
    folder = asked.environment.get("CREDENTIALS_DIRECTORY", "")
    for path in sorted(Path(folder).glob(f"{SECTION}.*")) if folder else ():
        secret = _text_of(str(path), "write it anew, or take it away", mistakes)
        credentials[path.name] = secret.removesuffix("\n")
    return Sources(name, text, asked.environment, asked.sets, asked.flags, credentials, tuple(mistakes))


def _text_of(name: str, hint: str, mistakes: list[Mistake]) -> str:
    """Empty with a mistake where there is none. What is no file is not waited for."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        kind = os.fstat(fd).st_mode
        if stat.S_ISREG(kind):
            with open(fd, "rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
            if len(data) <= FILE_BYTES_MAX:
                return data.decode()
            problem = f"larger than {FILE_BYTES_MAX >> 10} KiB"
        else:
            os.close(fd)
            problem = "is a directory, not a file" if stat.S_ISDIR(kind) else "is no regular file"
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except ValueError:
        problem = "no name of a file"
    except OSError as error:
        problem = error.strerror or str(error)
    mistakes.append(Mistake(name, "", problem, hint))
    return ""


def ask_app(configuration: Configuration) -> SettingsAnswer:
    """What the app that is configured makes of its settings. It is imported, in a process of its own."""
    app = configuration.config.service.app
    question = msgspec.json.encode(SettingsQuestion(app, configuration.app))
    command = [sys.executable, "-P", "-m", "tidegate.shard.worker.settings_check"]
    environment = {name: text for name, text in os.environ.items() if not name.startswith(APP_VARIABLES)}
    try:
        done = subprocess.run(command, input=question, stdout=subprocess.PIPE, timeout=APP_S_MAX, check=False, env=environment)
        return msgspec.json.decode(done.stdout, type=SettingsAnswer)
    except subprocess.TimeoutExpired:
        problem = f"importing it takes longer than {APP_S_MAX:g} s"
    except msgspec.MsgspecError:
        problem = f"the process that imported it ended with {done.returncode}, without a word"
    return SettingsAnswer(mistakes=[Mistake(app, "", problem, "correct the app, or leave it out: --no-app", ".".join(_APP_PATH))])


def read_app(app: str) -> str:
    """As it is named from everywhere: the path of a file made absolute. Raises OperatorError for what is no app."""
    if not app:
        raise OperatorError("serve", "APP", "no app given", "name a file: tidegate serve app.py")
    target, names = split_app(app)
    hint = "name the Python file that defines your objects: tidegate serve app.py, or some of its classes: app.py:Counter"
    if wrong := [name for name in names if not name.isidentifier()]:
        raise OperatorError("serve", app, f"{wrong[0]!r} is no name of a class", hint)
    chosen = f":{','.join(names)}" if names else ""
    if not target.endswith(".py") and "/" not in target:
        if not all(part.isidentifier() for part in target.split(".")):
            raise OperatorError("serve", app, "neither a file nor a module", hint)
        return target + chosen
    if not os.path.isfile(target):
        problem = "is a directory, not a file" if os.path.isdir(target) else "no such file"
        raise OperatorError("serve", target, problem, "name the Python file that defines your objects")
    if not target.endswith(".py"):
        raise OperatorError("serve", target, "not a Python file", hint)
    if not is_text(path := os.path.abspath(target)):
        raise OperatorError("serve", path, "its path is not UTF-8", "rename it; if it is UTF-8, set LC_ALL=C.UTF-8")
    return path + chosen
