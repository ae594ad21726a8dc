"""The tree at every point of a build: the skeleton's files with the code of some leaves in them.

A file's leaves are written one after the other (order.py), so a state of the tree is a number for each file: how many of
its leaves are settled in it. What a leaf is built on is then a function of the plan alone, and texts are made once each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from zerorepo.generation.edits import apply
from zerorepo.generation.leaf import Result
from zerorepo.generation.order import Plan, Task
from zerorepo.generation.skeleton import decoded


class State(NamedTuple):
    """chains: file to the number of its leaves that are settled; integrations: how many areas' tests are."""

    chains: Mapping[str, int]
    integrations: int = 0


class States:
    """All states of one build. results: settled so far; of a state only what is settled in it is looked at."""

    def __init__(self, files: Mapping[str, bytes], plan: Plan, results: Mapping[str, Result]) -> None:
        self.files, self.plan, self.results = files, plan, results
        self.texts: dict[str, str] = {}
        self.encodings: dict[str, str] = {}
        for path, data in files.items():
            if path.endswith(".py"):
                try:
                    self.texts[path], self.encodings[path] = decoded(data)
                except ValueError:
                    continue  # bytes that stay as they are: no leaf is in it
        self.chains: dict[str, list[Task]] = defaultdict(list)
        self.integrations = [task for task in plan.tasks if not task.is_leaf]
        self._place: dict[str, int] = {}
        self._path = {task.id: task.path for task in plan.tasks}
        self._after: dict[str, dict[str, int]] = {}
        self._before: dict[str, State] = {}
        self._made: dict[tuple[str, int, int], str] = {}
        for task in plan.tasks:
            chains: dict[str, int] = {}
            for need in reversed(task.needs):
                if need in self._place and chains.get(self._path[need], 0) > self._place[need]:
                    continue  # a later one was built on it, and on all that it was built on
                for path, count in self._after[need].items():
                    chains[path] = max(count, chains.get(path, 0))
            number = 0
            if task.is_leaf:
                self._place[task.id] = len(self.chains[task.path])
                self.chains[task.path].append(task)
            else:
                number = self.integrations.index(task)
            self._before[task.id] = State(chains, number)
            self._after[task.id] = {**chains, **({task.path: self._place[task.id] + 1} if task.is_leaf else {})}

    def before(self, task: Task) -> State:
        """What a task is built on: all that is settled before it by the plan."""
        return self._before[task.id]

    @property
    def last(self) -> State:
        return State({path: len(chain) for path, chain in self.chains.items()}, len(self.integrations))

    def holds(self, state: State, task: Task) -> bool:
        """Whether a leaf is settled in a state."""
        return state.chains.get(task.path, 0) > self._place[task.id]

    def text(self, path: str, state: State) -> str:
        count = state.chains.get(path, 0)
        if not count:
            return self.texts[path]
        key = (path, count, state.integrations)
        if key not in self._made:
            self._made[key] = self._text(path, count, state.integrations)
        return self._made[key]

    def _text(self, path: str, count: int, integrations: int) -> str:
        if integrations:
            text = self.text(path, State({path: count}, integrations - 1))
            integration = self.results.get(self.integrations[integrations - 1].id)
            here = {task.id: task for task in self.chains[path][:count]}
            for key, patch in () if integration is None else integration.patches:
                if key in here and self.results[key].status == "done":  # on the whole tree it may have failed since
                    text = apply(text, here[key].qualname, patch)
            return text
        known = next((n for n in range(count - 1, 0, -1) if (path, n, 0) in self._made), 0)
        text = self._made[path, known, 0] if known else self.texts[path]
        for number, task in enumerate(self.chains[path][known:count], known + 1):
            result = self.results.get(task.id)  # None in the last state of a build that ended early
            for _, patch in () if result is None else result.patches:
                text = apply(text, task.qualname, patch)
            self._made[path, number, 0] = text
        return text

    def at(self, state: State) -> Mapping[str, str]:
        """Path to text of every Python file."""
        return _Texts(self, state)

    def bytes_at(self, state: State) -> dict[str, bytes]:
        """Every file of the skeleton."""
        found = dict(self.files)
        for path, count in state.chains.items():
            if count:
                found[path] = self.encoded(path, self.text(path, state))
        return found

    def encoded(self, path: str, text: str) -> bytes:
        return text.encode(self.encodings.get(path, "utf-8"))


class _Texts(Mapping[str, str]):
    def __init__(self, states: States, state: State) -> None:
        self._states, self._state = states, state

    def __getitem__(self, path: str) -> str:
        if path not in self._states.texts:
            raise KeyError(path)
        return self._states.text(path, self._state)

    def __iter__(self) -> Iterator[str]:
        return iter(self._states.texts)

    def __len__(self) -> int:
        return len(self._states.texts)
