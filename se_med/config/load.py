"""Reading a configuration: file, the files it extends, command line; validated as a whole, every problem told at once."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from se_med.config.base import Part
from se_med.config.experiment import Config
from se_med.config.merge import merge, resolve_paths
from se_med.config.messages import explain
from se_med.config.overrides import parse_override
from se_med.config.source import Mark, Problem, Source, show
from se_med.config.yaml_tree import MAX_BYTES, Tree, decode, parse_tree
from se_med.errors import ConfigError, UsageError

MAX_EXTENDS = 20
"""Longest chain of files that extend one another."""
PRESETS = Path(__file__).parent.parent / "configs" / "presets"
"""The presets that come with se-med: ``extends: presets/fast.yaml`` finds them from any folder that has no such file."""

AnyPart = TypeVar("AnyPart", bound=Part)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read the configuration of a run.

    Args:
        path: YAML file. It may name others with ``extends``, over which it is laid.
        overrides: ``key=value`` arguments of the command line, e.g. ``training.steps=2000``, laid over the file in order.

    Raises:
        UsageError: the file does not exist or cannot be read.
        ConfigError: everything else that is wrong, in one error.
    """
    return load_part(path, Config, overrides)


def parse_config(text: str, name: str, folder: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read the configuration of a run from text, as stored with a run.

    Args:
        text: YAML, as in a file.
        name: what messages call the text.
        folder: what relative paths are relative to; the current folder by default.
        overrides: as for `load_config`.

    Raises:
        ConfigError: everything that is wrong, in one error.
    """
    reading = Reading(Config)
    tree = reading.laid_over(Source(name, text, folder if folder is not None else Path.cwd()), ())
    return reading.validated(reading.overridden(tree, overrides))


def load_part(path: Path | str, model: type[AnyPart], overrides: Sequence[str] = ()) -> AnyPart:
    """Read a YAML file as any model, in the way of `load_config`."""
    reading = Reading(model)
    return reading.validated(reading.overridden(reading.file(path), overrides))


class Reading(Generic[AnyPart]):
    """The files of one configuration: what was read so far, and what is wrong with it.

    A file becomes a tree, a tree gets the command line laid over it and is validated. Trees can be laid over one another in
    between; what is wrong with any of them is collected here.
    """

    def __init__(self, model: type[AnyPart]) -> None:
        self.model = model
        self.problems: list[Problem] = []
        self.sources: list[Source] = []
        self.read: dict[Path, Tree | None] = {}

    def file(self, path: Path | str) -> Tree | None:
        """Return the tree of a file laid over everything it extends; None if a file of them cannot be read as YAML.

        Raises:
            UsageError: the file does not exist or cannot be read.
        """
        try:
            content = _content(Path(path))
        except OSError as error:
            raise UsageError(f"{path}: {_reason(error)}; give the path of a YAML file") from None
        source = decode(content, str(path), Path(path).parent, self.problems)
        return self.laid_over(source, (Path(path).resolve(),)) if source is not None else None

    def overridden(self, tree: Tree | None, overrides: Sequence[str]) -> Tree | None:
        """Return the tree with ``key=value`` arguments of the command line laid over it."""
        for text in overrides:
            override = parse_override(text, self.problems)
            if override is None or tree is None:
                continue
            override.value = resolve_paths(override.value, self.model, Path.cwd())
            tree = merge(tree, override, self.model)
        return tree

    def checked(self, tree: Tree) -> AnyPart | None:
        """Return what a tree says; None where it is not valid, and the reasons are among the problems."""
        try:
            # Strict: '5' is not a number and 1.5 not a whole one, while 4 is fine for a float. Lists are tuples already.
            return self.model.model_validate(tree.value, strict=True)
        except ValidationError as error:
            self.problems.extend(explain(error, tree, self.model))
            return None

    def validated(self, tree: Tree | None) -> AnyPart:
        """Return what a tree says.

        Raises:
            ConfigError: everything that is wrong with it and with what was read before, in one error.
        """
        config = self.checked(tree) if tree is not None else None
        self.refuse()
        if config is None:
            raise ConfigError(["nothing could be read"])
        return config

    def refuse(self) -> None:
        """Raise one error with all problems, in the order of files and lines; do nothing where there is none.

        Raises:
            ConfigError: there is at least one problem.
        """
        order = {source: index for index, source in enumerate(self.sources)}
        last = len(order)
        self.problems.sort(key=lambda problem: (order.get(problem.mark.source, last), problem.mark.line, problem.mark.column))
        if self.problems:
            raise ConfigError(list(dict.fromkeys(map(str, self.problems))))

    def laid_over(self, source: Source, chain: tuple[Path, ...]) -> Tree | None:
        """Return the tree of a source laid over everything it extends; None if a file of them cannot be read at all."""
        self.sources.append(source)
        tree = parse_tree(source, self.problems)
        if tree is None:
            return None
        if not isinstance(tree.value, dict):
            text = "empty; a configuration has at least one `key: value`"
            if tree.value is not None:
                text = f"{show(tree.value)} is not a configuration; its top level must be a mapping (`key: value`)"
            self.problems.append(Problem(Mark(source) if tree.value is None else tree.place(()).value, text))
            return None
        names = tree.value.pop("extends", ())
        tree.value = resolve_paths(tree.value, self.model, source.folder)
        layers = [
            self.extended(name, tree.place(("extends", index)).value, chain)
            for index, name in enumerate(names if isinstance(names, tuple) else (names,))
        ]
        result: Tree | None = None
        for layer in (*layers, tree):
            if layer is None:
                return None
            result = layer if result is None else merge(result, layer, self.model)
        return result

    def extended(self, name: object, mark: Mark, chain: tuple[Path, ...]) -> Tree | None:
        """Return the tree of one file named by ``extends``."""
        if not isinstance(name, str) or not name or "\0" in name:
            self.problems.append(Problem(mark, f"extends: {show(name)} is not the path of a file, nor a list of them"))
            return None
        try:
            path = mark.source.folder / Path(name).expanduser()
            if Path(name).parts[:1] == (PRESETS.name,) and not path.exists():
                path = PRESETS.parent / name
            identity = path.resolve()
            content = _content(path)
        except (OSError, RuntimeError) as error:
            self.problems.append(Problem(mark, f"extends: {show(name)}: {_reason(error)} (relative to this file)"))
            return None
        if identity in chain or len(chain) > MAX_EXTENDS:
            files = " -> ".join(file.name for file in (*chain[-MAX_EXTENDS:], identity))
            what = "the files extend one another in a circle" if identity in chain else "too many files extend one another"
            self.problems.append(Problem(mark, f"extends: {what}: {files}"))
            return None
        if identity not in self.read:
            source = decode(content, str(path), path.parent, self.problems)
            self.read[identity] = self.laid_over(source, (*chain, identity)) if source is not None else None
        return self.read[identity]


def _content(path: Path) -> bytes:
    if not path.is_dir() and path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise OSError(errno.EINVAL, "a pipe or device, not a file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _reason(error: OSError | RuntimeError) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"
