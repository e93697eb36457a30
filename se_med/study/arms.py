"""From a study file to arms: each a whole configuration, every mistake told at the place where it was written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from se_med.config.attention import AnyGate, AttentionConfig
from se_med.config.experiment import RUN_NAME, Config
from se_med.config.load import Reading
from se_med.config.merge import merge, resolve_paths
from se_med.config.source import Mark, Problem, did_you_mean
from se_med.config.structure import parts, tags
from se_med.config.yaml_tree import Loc, Place, Tree
from se_med.study.config import CONTROLS, StudyConfig

RESERVED = ("name", "seed", "data.fold")
"""Settings that the study gives every run, so that no arm may."""


@dataclass(frozen=True)
class Arm:
    """One arm as its configuration has it, nothing planned yet.

    Attributes:
        name: name of the arm.
        config: the base with the arm's settings. Of a wider control: with the features of the plain network, not yet widened.
        settings: what the arm lays over the base (over the arm that it is a control of): a tree whose places are the study's.
        control: the control that it is; empty where it is none.
        control_of: the arm that it is a control of.
    """

    name: str
    config: Config
    settings: Tree
    control: str = ""
    control_of: str = ""

    @property
    def keys(self) -> frozenset[Loc]:
        """The settings that the arm gives, each as a path of keys down to what is no mapping."""
        return frozenset(_leaves(self.settings.value))


@dataclass(frozen=True)
class Study:
    """A study as its file has it.

    Attributes:
        config: the study's own settings; ``name`` is filled in.
        path: the file.
        base: what every arm starts from.
        arms: all arms, the reference first, the others in the order of the file and of the sweep.
    """

    config: StudyConfig
    path: Path
    base: Config
    arms: tuple[Arm, ...]


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file, its base and its arms.

    Args:
        path: the study file (YAML).
        overrides: ``key=value`` arguments of the command line, laid over the base.

    Raises:
        UsageError: the file or its base does not exist.
        ConfigError: everything that is wrong with any of them, in one error.
    """
    reading = Reading(StudyConfig)
    tree = reading.file(path)
    study = reading.validated(tree)
    if study.name is None:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-") or "study"
        study = study.model_copy(update={"name": name[:100]})
    if tree is None:  # it has been validated, so it is there
        raise ValueError("no tree")
    reader, below = _Arms(tree, path.parent), Reading(Config)
    base_tree = below.file(study.base)
    if base_tree is not None:
        base_tree = merge(base_tree, reader.settings(("settings",)), Config)
    base_tree = below.overridden(base_tree, overrides)
    base = below.validated(base_tree)
    arms = reader.read(study, base_tree or Tree({}, {}))
    if reader.problems:
        found = Reading(Config)
        found.problems = reader.problems
        found.refuse()
    return Study(study, path, base, arms)


class _Arms:
    """Reads the arms of a study; what is wrong with them is collected in ``problems``."""

    def __init__(self, study: Tree, folder: Path) -> None:
        self.study = study
        self.folder = folder
        self.problems: list[Problem] = []
        self.trees: dict[str, Tree] = {}
        self.arms: dict[str, Arm] = {}

    def read(self, study: StudyConfig, base: Tree) -> tuple[Arm, ...]:
        """Return the arms, the reference first."""
        written = {name: self.settings(("arms", name)) for name in study.arms}
        controls = {name: settings for name, settings in written.items() if {"control", "of"} & _top(settings)}
        for name, settings in written.items():
            if name not in controls:
                self._add(name, base, settings)
        for name, settings in self._swept(study):
            if name in self.arms or name in controls:
                self._tell(("sweep",), f"sweep: makes an arm {name!r}, and there is one of that name; rename the other")
            else:
                self._add(name, base, settings)
        for name, settings in controls.items():
            self._add_control(name, settings)
        order = [name for name in (*written, *self.arms) if name in self.arms]
        if study.reference not in self.arms and not self.problems:
            close = did_you_mean(study.reference, self.arms)
            hint = f"did you mean {close!r}?" if close else f"they are {', '.join(self.arms)}"
            self._tell(("reference",), f"reference: {study.reference!r} is not one of the arms; {hint}")
        if len(self.arms) < 2 and not self.problems:
            self._tell(("arms",), "arms: one arm has nothing to be compared with; give another")
        names = dict.fromkeys((study.reference, *order))
        return tuple(self.arms[name] for name in names if name in self.arms)

    def settings(self, loc: Loc) -> Tree:
        """Return the settings written at a place of the study; keys with dots become mappings in mappings."""
        value: Any = self.study.value
        for key in loc:
            value = (value or {}).get(key)
        result = Tree({}, {(): self.study.place(loc)})
        for key in value or {}:
            result = merge(result, self._setting((*loc, key), key), Config)
        return result

    def _setting(self, loc: Loc, dotted: str) -> Tree:
        """Return the tree of one setting, whose key may have dots."""
        value: Any = self.study.value
        for step in loc:
            value = value[step]
        keys: Loc = tuple(dotted.split("."))
        places = {keys[:length]: self.study.place(loc) for length in range(len(keys))}
        places |= {keys + at[len(loc) :]: place for at, place in self.study.places.items() if at[: len(loc)] == loc}
        places.setdefault(keys, self.study.place(loc))
        for key in reversed(keys):
            value = {key: value}
        return Tree(resolve_paths(value, Config, self.folder), places)

    def _swept(self, study: StudyConfig) -> list[tuple[str, Tree]]:
        """Return name and settings of the arms of the sweep."""
        if not study.sweep:
            return []
        last = [key.split(".")[-1] for key in study.sweep]
        shown = {key: key if last.count(key.split(".")[-1]) > 1 else key.split(".")[-1] for key in study.sweep}
        found = []
        for numbers in itertools.product(*(range(len(values)) for values in study.sweep.values())):
            settings, words = Tree({}, {(): self.study.place(("sweep",))}), []
            for (key, values), number in zip(study.sweep.items(), numbers, strict=True):
                settings = merge(settings, _moved(self._setting(("sweep", key), key), key, number), Config)
                words.append(f"{shown[key]}-{_word(values[number])}")
            name = "_".join(words)[:100]
            if re.fullmatch(RUN_NAME, name) is None:
                self._tell(("sweep",), f"sweep: {name!r} cannot be the name of an arm; write such values as arms")
            found.append((name, settings))
        return found

    def _add(self, name: str, below: Tree, settings: Tree, control: str = "", of: str = "") -> None:
        for dotted in RESERVED:
            if tuple(dotted.split(".")) in set(_leaves(settings.value)):
                mark = settings.place(tuple(dotted.split("."))).key
                self.problems.append(Problem(mark, f"{dotted}: the study sets it for every run; remove it"))
        reading = Reading(Config)
        tree = merge(below, settings, Config)
        config = reading.checked(tree)
        self.problems += reading.problems
        if config is not None:
            self.trees[name] = tree
            self.arms[name] = Arm(name, config, settings, control, of)

    def _add_control(self, name: str, settings: Tree) -> None:
        """Add an arm with ``control`` and ``of``."""
        values = dict(settings.value)
        control, of = values.pop("control", None), values.pop("of", None)
        place = {key: settings.place((key,)).value for key in ("control", "of")}
        if control not in CONTROLS:
            known = ", ".join(CONTROLS)
            what = "key 'control' is missing; it is" if control is None else f"{control!r} is not"
            self.problems.append(Problem(place["control"], f"arms.{name}.control: {what} one of {known}"))
            return
        if of not in self.trees:
            if not self.problems:
                known = ", ".join(self.trees)
                self.problems.append(Problem(place["of"], f"arms.{name}.of: give the name of an arm that is no control: {known}"))
            return
        if control == "wider" and values.get("network", {}).get("features") is not None:
            mark = settings.place(("network", "features")).key
            self.problems.append(Problem(mark, "network.features: control wider finds them; remove the line"))
            return
        arm = self.arms[of]
        if not any(gate is not None for _, gate in arm.config.attention):
            self.problems.append(Problem(place["of"], f"arms.{name}.of: {of!r} has no attention that could be controlled for"))
            return
        attention = {} if control == "wider" else _replaced(arm.config.attention, control)
        below = _with_attention(self.trees[of], attention, place["control"])
        own = Tree(values, {at: spot for at, spot in settings.places.items() if at[:1] not in (("control",), ("of",))})
        self._add(name, below, own, control, of)

    def _tell(self, loc: Loc, message: str) -> None:
        self.problems.append(Problem(self.study.place(loc).value, message))


def _replaced(attention: AttentionConfig, block: str) -> dict[str, Any]:
    """Return the attention with another block at each place, and with those options that both blocks have."""
    known = next(part for part in parts(AnyGate) if block in tags(part)["block"]).model_fields
    return {
        site: {key: value for key, value in gate.model_dump().items() if key in known and value is not None} | {"block": block}
        for site, gate in attention
        if gate is not None
    }


def _with_attention(tree: Tree, attention: dict[str, Any], mark: Mark) -> Tree:
    """Return a tree with another attention, every place of which is the one given."""
    places = {loc: place for loc, place in tree.places.items() if loc[:1] != ("attention",)}
    return Tree(tree.value | {"attention": attention}, places | {("attention",): Place(mark, mark)})


def _moved(setting: Tree, dotted: str, number: int) -> Tree:
    """Return the setting of one of the values that a key is swept over."""
    keys: Loc = tuple(dotted.split("."))
    value = setting.value
    for key in keys:
        value = value[key]
    item = value[number]
    places = {loc: place for loc, place in setting.places.items() if len(loc) <= len(keys)}
    places |= {
        keys + loc[len(keys) + 1 :]: place for loc, place in setting.places.items() if loc[: len(keys) + 1] == (*keys, number)
    }
    for key in reversed(keys):
        item = {key: item}
    return Tree(item, places)


def _word(value: Any) -> str:
    """Write a value as a part of a name: ``[2, 2, 1]`` as ``2-2-1``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "-".join(map(_word, value))
    if isinstance(value, dict):
        return "-".join(f"{key}-{_word(item)}" for key, item in value.items())
    return re.sub(r"[^A-Za-z0-9.-]", "-", str(value))


def _top(settings: Tree) -> set[str]:
    return set(settings.value)


def _leaves(value: Any, above: Loc = ()) -> list[Loc]:
    if not isinstance(value, dict) or not value:
        return [above] if above else []
    return [loc for key, item in value.items() for loc in _leaves(item, (*above, key))]
