"""Run what is out of date, each stage as soon as what it needs is there; a unit that is lost is run again."""

from __future__ import annotations

import ast
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from selma.executing.units import Executor, Handle, Unit, last_line
from selma.ground.errors import UserError

LOGS = Path(".work/parallel")
KILLED = (137, 143)  # how a shell tells of a command that SIGKILL or SIGTERM ended
PAUSE = 0.05  # seconds between looks at what runs


class Graph(Protocol):
    """What a walk needs to know of a pipeline; graph.py has DVC's."""

    needs: Mapping[str, list[str]]

    def height(self) -> Mapping[str, float]: ...

    def outdated(self, name: str) -> bool | None: ...

    def prepare(self, name: str) -> bool | None: ...

    def command(self, name: str) -> str: ...


@dataclass
class Walk:
    """One walk over a pipeline. `seconds` has each unit's time once it has ended well, waiting for a place included."""

    graph: Graph
    executor: Executor
    workers: int  # units at once
    shards: int = 1  # parts of a stage that can be drawn in parts
    tries: int = 3  # of a unit that is lost
    logs: Path = LOGS
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.monotonic
    rest: Callable[[], None] = lambda: time.sleep(PAUSE)  # until it is worth a look at what runs
    seconds: dict[str, float] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)  # stages, in the order in which they ended
    _done: set[str] = field(default_factory=set)
    _queue: list[Unit] = field(default_factory=list)  # ready, but without a place
    _running: dict[Unit, tuple[Handle, float]] = field(default_factory=dict)
    _prepared: set[str] = field(default_factory=set)  # stages that begin, or have begun
    _parts: dict[str, int] = field(default_factory=dict)  # shards that a stage waits for
    _lost: Counter[Unit] = field(default_factory=Counter)
    _failed: str = ""
    _held: bool = False  # it has been said that DVC is busy

    def run(self) -> list[str]:
        """Walk to the end; the stages that ran, in the order in which they ended.

        Raises UserError once a stage fails by itself or a unit is lost `tries` times; what runs then is waited for.
        """
        waiting, height = list(self.graph.needs), self.graph.height()
        while self._running or (not self._failed and (waiting or self._queue)):
            if not self._failed:
                for name in [name for name in waiting if self._done.issuperset(self.graph.needs[name])]:
                    if self._considered(name):
                        waiting.remove(name)
                self._queue.sort(key=lambda unit: -height[unit.stage])  # stable: DVC's order among equals
                self._start()
            codes = {unit: handle.poll() for unit, (handle, _) in self._running.items()}
            ended = {unit: code for unit, code in codes.items() if code is not None}
            for unit, code in ended.items():
                self._ended(unit, code)
            if self._running and not ended:
                self.rest()
        if self._failed:
            raise UserError(f"{self._failed}; the same command goes on from here")
        return self.ran

    def _considered(self, name: str) -> bool:
        """Queue a stage whose needs are there, if DVC would run it; False where it cannot say yet."""
        try:
            outdated = self.graph.outdated(name)
        except UserError as error:
            self._fail(str(error))
            return False
        if outdated:
            *parts, whole = units = list(self._units(name))
            for unit in units:
                Path(unit.log).unlink(missing_ok=True)  # of an earlier walk
            self._parts[name] = len(parts)
            self._queue += parts or [whole]
        elif outdated is not None:
            self._done.add(name)
        else:
            self._wait()
        return outdated is not None

    def _wait(self) -> None:
        """Say once that DVC is busy."""
        if not self._held:
            self._held = True
            self.say("another DVC command holds the repository; waiting for it")

    def _start(self) -> None:
        """Give free places to the first units of the queue, but for stages that need not run after all."""
        starting: list[Unit] = []
        try:
            while self._queue and len(self._running) + len(starting) < self.workers:
                stage = self._queue[0].stage
                if stage not in self._prepared and not (runs := self.graph.prepare(stage)):
                    if runs is None:
                        self._wait()
                        break
                    self._done.add(stage)
                    self._queue = [unit for unit in self._queue if unit.stage != stage]
                    continue
                self._prepared.add(stage)
                starting.append(self._queue.pop(0))
            if not starting:
                return
            handles = self.executor.start(starting)
        except UserError as error:
            self._fail(str(error))
            return
        for unit, handle in zip(starting, handles, strict=True):
            self._running[unit] = handle, self.clock()
            self.say(f"{unit.name}: begins ({len(self._running)} running)")

    def _ended(self, unit: Unit, code: int) -> None:
        """What follows from a unit's end."""
        _, began = self._running.pop(unit)
        if code == 0:
            self.seconds[unit.name] = self.clock() - began
            self.say(f"{unit.name}: {self.seconds[unit.name]:.1f} s")
            if unit.name == unit.stage:
                self._done.add(unit.stage)
                self.ran.append(unit.stage)
                return
            self._parts[unit.stage] -= 1
            if self._parts[unit.stage] == 0:  # it gathers them
                self._queue.append(self._unit(unit.stage))
            return
        killed = code < 0 or code in KILLED
        self._lost[unit] += killed
        if killed and self._lost[unit] < self.tries:
            self.say(f"{unit.name}: lost, it runs again")
            self._queue.append(unit)
        else:
            said = last_line(unit.log).removeprefix("error: ")
            why = f"was killed {self.tries} times, at last after saying" if killed else "failed:"
            self._fail(f"{unit.name} {why} {said or 'nothing'} ({unit.log} has all)")

    def _fail(self, why: str) -> None:
        """Start nothing more; the first reason is the walk's."""
        self._failed = self._failed or why
        if self._running:
            self.say(f"{why}; waiting for {len(self._running)} that run")

    def _units(self, name: str) -> Iterator[Unit]:
        """The shards of a stage, if it has any, then the stage."""
        if self.shards > 1 and sharded(self.graph.command(name)):
            for part in range(1, self.shards + 1):
                yield self._unit(name, f"{part}/{self.shards}")
        yield self._unit(name)

    def _unit(self, name: str, shard: str = "") -> Unit:
        words = shlex.split(self.graph.command(name))[1:]
        self.logs.mkdir(parents=True, exist_ok=True)
        title = f"{name} {shard}".rstrip()
        log = self.logs.absolute() / f"{title.replace(' ', '.').replace('/', '-')}.log"
        return Unit(title, name, (*words, *(["--shard", shard] if shard else [])), str(Path.cwd()), str(log))


def sharded(command: str) -> bool:
    """Whether a stage's script takes `--shard`; it is read, not imported."""
    module = shlex.split(command)[2]
    tree = ast.parse(Path(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
    mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    return any(argument.arg == "shard" for main in mains for argument in main.args.args)


def heights(needs: Mapping[str, list[str]], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """The longest chain from each stage on, itself included: how many stages, or what they weigh together.

    `needs` must be in an order in which each stage comes after those that it needs.
    """
    after = dict.fromkeys(needs, 0.0)
    found: dict[str, float] = {}
    for name in reversed(needs):
        found[name] = after[name] + (1.0 if weights is None else weights[name])
        for needed in needs[name]:
            after[needed] = max(after[needed], found[name])
    return found
