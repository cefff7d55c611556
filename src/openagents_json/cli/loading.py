"""From `--components module[:app]` to an app: imports modules and files, and says plainly why one cannot be had."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from openagents_json.app import OpenAgentsApp
from openagents_json.cli.failures import UsageProblem
from openagents_json.components import ComponentRegistry

DEFAULT_ATTRIBUTE = "app"


def load_app(specs: Sequence[str], workflows: Sequence[str] = ()) -> OpenAgentsApp:
    """The app that the specs name; of several, the first, with the components of the others added. `workflows` are
    files and folders of definitions to register with it.

    `UsageProblem` says which spec cannot be loaded and why, `DuplicateComponent` that two register the same name,
    `InvalidDefinition` what is wrong with a definition.
    """
    apps = [_load(spec) for spec in specs] or [OpenAgentsApp()]
    for other in apps[1:]:
        _adopt(apps[0].components, other.components)
    for path in workflows:
        if Path(path).is_dir():
            apps[0].workflows.register_folder(path)
        else:
            apps[0].register_workflow(Path(path))
    return apps[0]


def _load(spec: str) -> OpenAgentsApp:
    place, _, attribute = spec.partition(":")
    module = _imported(place, spec)
    found = _found(module, attribute, spec)
    if isinstance(found, OpenAgentsApp):
        return found
    app = OpenAgentsApp()
    _adopt(app.components, found)
    return app


def _adopt(registry: ComponentRegistry, others: ComponentRegistry) -> None:
    """Add the other registry's components; the built-in ones are in both."""
    known = {(component.name, component.version): component.defined_at for component in registry}
    # No public verb takes finished components yet; agents cannot be registered anew without their configuration.
    registry._add([one for one in others if known.get((one.name, one.version)) != one.defined_at])


def _found(module: ModuleType, attribute: str, spec: str) -> OpenAgentsApp | ComponentRegistry:
    name = attribute or DEFAULT_ATTRIBUTE
    found: Any = getattr(module, name, None)
    if isinstance(found, OpenAgentsApp | ComponentRegistry):
        return found
    apps = {key: value for key, value in vars(module).items() if isinstance(value, OpenAgentsApp)}
    if not attribute and len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    what = f"its {name!r} is a {type(found).__name__}" if found is not None else f"it has no {name!r}"
    hint = f"Name one of its apps: {', '.join(sorted(apps))}." if apps else "Make one there: app = OpenAgentsApp()."
    raise UsageProblem(f"--components {spec}: {what}, where an OpenAgentsApp or ComponentRegistry is wanted. {hint}")


# ── importing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _imported(place: str, spec: str) -> ModuleType:
    _make_importable(Path.cwd())
    is_file = place.endswith(".py") or "/" in place
    if not is_file and not all(part.isidentifier() for part in place.split(".")):
        raise UsageProblem(f"--components {spec}: {place!r} is no module name. Give a module such as package.module, "
                           "or a file such as ./components.py.")  # fmt: skip
    if is_file and not Path(place).is_file():
        raise UsageProblem(f"--components {spec}: there is no file {place}.")
    try:
        return _import_file(Path(place).resolve()) if is_file else importlib.import_module(place)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(error.name + ".")):
            where = "It was looked for in the current folder and on the Python path."
            raise UsageProblem(f"--components {spec}: there is no module {error.name!r}. {where}") from error
        raise _unimportable(spec, error) from error
    except BaseException as error:  # SystemExit too: a module may not end the command with a code of its own
        raise _unimportable(spec, error) from error


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_file(path: Path) -> ModuleType:
    """Import a file under the name it has in its package, so that its relative imports work."""
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    _make_importable(folder)
    name = ".".join(parts)
    taken = sys.modules.get(name)
    if taken is None and all(part.isidentifier() for part in parts) and _is_found_as(name, path):
        return importlib.import_module(name)
    if taken is not None and _is_file_of(taken, path):
        return taken
    return _import_alone(path)


def _is_found_as(name: str, path: Path) -> bool:
    """Whether importing `name` would load this file, and not another one that comes first on the path."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path


def _is_file_of(module: ModuleType, path: Path) -> bool:
    return module.__spec__ is not None and module.__spec__.origin == str(path)


def _import_alone(path: Path) -> ModuleType:
    """Import a file under a name of its own: another module has the one it would have."""
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _unimportable(spec: str, error: BaseException) -> UsageProblem:
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno}"
        what = f"{type(error).__name__}: {error.msg}"
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "while it was imported"
        what = f"{type(error).__name__}: {error}"
    return UsageProblem(f"--components {spec}: the module does not import: {what} ({place}).")
