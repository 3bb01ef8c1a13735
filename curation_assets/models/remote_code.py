"""Remote code: Python that a checkpoint's authors ship beside its weights, imported from a folder under a private package name.

Only files that the model's `WeightsSpec` names can be imported, the pinned ones only with their pinned SHA-256, and what is compiled are the very bytes that
were checked. (Code without a pinned hash was compared with the cache's own name for it, see `weights.find_problems`; in a folder of the user's it is taken as it
is.) Nothing is written, downloaded or put into transformers: the code sees transformers through a view that adds what the installed version lacks
(`legacy_transformers`), and that view exists in these modules only. Whether code may run at all is the caller's to decide.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from curation_assets.models.weights import WeightFile, WeightsError, listed

_PRIVATE = "_curation_assets_remote_"

_MOVED_TO = (
    "transformers.pytorch_utils",
    "transformers.modeling_utils",
    "transformers.utils",
    "transformers.utils.generic",
    "transformers",
)
"""Where names of transformers are looked for that are no longer in the module that older code imports them from."""


class RemotePackage:
    """The modules of one folder. Nothing of them runs before `load`.

    Args:
        folder: where the files lie, all side by side.
        files: what may be imported; those whose names do not end in `.py` are left alone.
        stand_ins: name -> what the code gets for it from any module of transformers, in place of what is there or missing there.

    Raises:
        WeightsError: a file is missing, differs from its pinned hash, is no Python, or imports a module that is neither here nor installed.
    """

    def __init__(self, folder: Path, files: Sequence[WeightFile], *, stand_ins: Mapping[str, object]) -> None:
        self._folder = folder
        self._stand_ins = stand_ins
        code = [file for file in files if file.name.endswith(".py")]
        self._sources = {file.name.removesuffix(".py"): _checked_source(folder / file.name, file.sha256) for file in code}
        self._trees = {name: _parsed(folder / f"{name}.py", source) for name, source in self._sources.items()}
        self._check_imports()
        digest = hashlib.sha256(b"\0".join(name.encode() + b"\0" + source for name, source in sorted(self._sources.items())))
        self._package = ModuleType(f"{_PRIVATE}{digest.hexdigest()[:16]}", f"Code of {folder}.")
        self._package.__path__ = []  # a package, but Python's own finders find nothing in it
        self._modules: dict[str, ModuleType] = {}

    def load(self, reference: str) -> Any:
        """Run a module, and those that it imports, and give a class of it.

        Args:
            reference: `module.Class`, as in the `auto_map` of a config.json.

        Raises:
            WeightsError: no such module or class, or the module cannot be run with the installed libraries.
        """
        module_name, _, class_name = reference.partition(".")
        if module_name not in self._sources or not class_name.isidentifier():
            raise WeightsError(f"{self._folder}: auto_map names {reference!r}; there are the modules {listed(sorted(self._sources))}")
        try:
            module = self._run(module_name)
        except Exception as error:  # code of others may raise anything
            raise WeightsError(f"{self._folder / module_name}.py does not run here: {type(error).__name__}: {error}") from error
        if not isinstance(found := getattr(module, class_name, None), type):
            raise WeightsError(f"{self._folder / module_name}.py has no class {class_name}, which auto_map names")
        return found

    def _check_imports(self) -> None:
        wanted = {(name, *found) for name, tree in self._trees.items() for found in _imports(tree)}
        absent = sorted({other for _, other, is_relative in wanted if is_relative and other not in self._sources})
        if absent:
            raise WeightsError(f"{self._folder}: the code imports {listed(absent)}, not among the pinned {listed(sorted(self._sources))}")
        packages = {other.partition(".")[0] for _, other, is_relative in wanted if not is_relative}
        lacking = sorted(package for package in packages if importlib.util.find_spec(package) is None)
        if lacking:
            raise WeightsError(f"{self._folder}: the code needs {listed(lacking)}, not installed here: pip install {' '.join(lacking)}")

    def _run(self, name: str) -> ModuleType:
        """Run a module once, in its private package, with its own `import`."""
        if name in self._modules:
            return self._modules[name]
        if name not in self._sources:
            raise ImportError(f"{name} is not among the pinned files of {self._folder}")
        module = ModuleType(f"{self._package.__name__}.{name}")
        module.__package__ = self._package.__name__
        module.__file__ = str(self._folder / f"{name}.py")
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        self._modules[name] = module
        # dataclasses and typing look a class's module up here
        sys.modules[self._package.__name__], sys.modules[module.__name__] = self._package, module
        try:
            exec(compile(self._trees[name], module.__file__, "exec"), module.__dict__)
        except BaseException:
            del self._modules[name], sys.modules[module.__name__]
            raise
        return module

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002  the names of __import__, which may be called by keyword
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Stand in for `__import__` in the modules."""
        if level == 1:
            if name:
                return self._run(name)
            for other in fromlist or ():
                setattr(self._package, other, self._run(other))
            return self._package
        if level > 1:
            raise ImportError(f"{'.' * level}{name} lies outside of {self._folder}")
        module = builtins.__import__(name, globals, locals, fromlist or (), 0)
        return _View(module, self._stand_ins) if name.partition(".")[0] == "transformers" else module


class _View(ModuleType):
    """A module of transformers as the remote code sees it."""

    def __init__(self, module: ModuleType, stand_ins: Mapping[str, object]) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(_seen=module, _stand_ins=stand_ins)

    def __getattr__(self, name: str) -> object:
        seen: ModuleType = self.__dict__["_seen"]
        stand_ins: Mapping[str, object] = self.__dict__["_stand_ins"]
        if name in stand_ins:
            return stand_ins[name]
        places = [seen.__name__] if name.startswith("__") else [seen.__name__, *_MOVED_TO]
        for place in places:
            # one import at a time: most names are in their own module
            if hasattr(module := importlib.import_module(place), name):
                found = getattr(module, name)
                return _View(found, stand_ins) if isinstance(found, ModuleType) and found.__name__.startswith("transformers") else found
        version = importlib.import_module("transformers").__version__
        raise AttributeError(f"{seen.__name__}.{name} is not in transformers {version}, and there is no stand-in for it")


def _checked_source(path: Path, sha256: str | None) -> bytes:
    if not path.is_file():
        raise WeightsError(f"{path} is missing")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    if sha256 is not None and (found := hashlib.sha256(source).hexdigest()) != sha256:
        raise WeightsError(f"{path} has the SHA-256 {found}, pinned is {sha256}; this code is not run. Restore the published file")
    return source


def _parsed(path: Path, source: bytes) -> ast.Module:
    try:
        return ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        raise WeightsError(f"{path} is no Python: {error}") from error


def _imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Give (module, whether relative) of the imports that always run: not those in `try`, in `if` or in a function."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or "", False
        elif isinstance(node, ast.ImportFrom):
            yield from ((name, True) for name in ([node.module] if node.module else [alias.name for alias in node.names]))
