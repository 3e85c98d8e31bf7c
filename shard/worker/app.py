"""The user's app: a file or a module, and the object classes in it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from tidegate.runtime.logs.tracebacks import place_of
from tidegate.runtime.wire.exceptions import text_of
from tidegate.runtime.wire.stub import names_of
from tidegate.runtime.wire.supervisor_messages import split_app
from tidegate.shard.objects.methods import AppError, ObjectClass
from tidegate.shard.objects.object import DurableObject
from tidegate.shard.worker.source import KeptSource


def load_app(app: str, kept: KeptSource | None = None) -> list[ObjectClass]:
    """`app.py` or `package.module`, or some of its classes: `app.py:Class,Class`. Raises AppError when it cannot be served,
    and whatever importing it raises. With `kept`, which is installed, the version that the service started with."""
    target, names = split_app(app)
    module = _import_file(Path(target), kept) if target.endswith(".py") else _import_module(target)
    classes = [_named(module, name) for name in names] if names else _defined_in(module)
    if not classes:
        raise AppError(f"{app} has no object class; derive at least one class from tidegate.DurableObject")
    problems: list[str] = []
    by_name: dict[str, type[DurableObject]] = {}
    served: list[ObjectClass] = []
    for cls in dict.fromkeys(classes):
        for name in names_of(cls):
            if by_name.setdefault(name, cls) is not cls:
                problems.append(f"{app} has two object classes named {name}; objects are found by class name, rename one")
                continue
            try:
                served.append(ObjectClass(cls, name))
            except AppError as exc:
                problems += exc.problems
    if problems:
        raise AppError(*dict.fromkeys(problems))  # One of a base is that of every class derived from it.
    return served


def why_not_imported(error: BaseException) -> str:
    """What importing it has raised, and where: of an error of syntax the file and line that it names itself."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        file, line = error.filename or "", error.lineno
    else:
        file, line = place_of(error)
    where = f" ({file}:{line})" if line and not file.startswith("<") else ""
    text = error.msg if isinstance(error, SyntaxError) else text_of(error)
    return f"importing it raised {type(error).__name__}: {text}{where}"


def _import_file(path: Path, kept: KeptSource | None) -> ModuleType:
    if not path.is_file() and (kept is None or not kept.has(path.stem)):
        raise AppError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent.resolve()))  # What stands beside the file can be imported, as with `python app.py`.
    if kept is not None:
        spec: ModuleSpec | None = kept.spec_of(path.stem, str(path))
    else:
        spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise AppError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):  # Something that the app imports.
            raise
        file = f"{exc.name.replace('.', '/')}.py"
        raise AppError(f"there is no module {exc.name} here (a file is named with its ending: {file})") from None


def _named(module: ModuleType, name: str) -> type[DurableObject]:
    cls = getattr(module, name, None)
    if not isinstance(cls, type) or not issubclass(cls, DurableObject) or cls is DurableObject:
        served = ", ".join(known.__name__ for known in _defined_in(module)) or "none"
        raise AppError(f"{module.__name__} has no object class {name}, derived from tidegate.DurableObject; it has {served}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(vars(cls)["__abstractmethods__"]))
        raise AppError(f"{name} is abstract: it lacks {missing}; serve a class derived from it, which has them")
    return cls


def _defined_in(module: ModuleType) -> list[type[DurableObject]]:
    """An abstract class is a base of others, as one with an underscore is."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, DurableObject)
        and value is not DurableObject
        and not name.startswith("_")
        and not inspect.isabstract(value)
    ]
