"""Runs concurrent code under every schedule, deterministically and without threads.

Tasks are greenlets. They may be switched only where the code under test can be held up: before it
takes a lock, where it parks, and where the test says so (`Scheduler.pause`, used by fakes for the
duration of a disk call). Between those points it runs in one piece, which is what the code's own
locks promise, or what the tests are to find out. A task is also interrupted there, as a thread is
by a signal's handler (`Scheduler.interrupt`).

Time is the scheduler's: it stands still until somebody's deadline strikes. That may happen at any
step, the earliest deadline first, and must when nothing else can go on (`Scheduler.stalls`).

`explore` runs a scenario again and again, each time with another sequence of decisions, until
every schedule with at most `delays` deviations from round-robin has been seen. Most concurrency
bugs need one or two (Emmi, Qadeer and Rakamaric, "Delay-bounded scheduling", POPL 2011), and the
number of schedules grows with their number only, not with the number of tasks. Beyond that bound
it can go on at random, from a seed.
"""

import contextlib
import itertools
import math
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import greenlet

__all__ = [
    "ControlledCondition",
    "ControlledLock",
    "ControlledPump",
    "ControlledWaiter",
    "Deadlock",
    "Scenario",
    "Scheduler",
    "explore",
]

Scenario = Callable[["Scheduler"], Callable[[], None]]
"""Sets up and spawns tasks, and returns the check to make once they have all ended."""

_ANY_NUMBER: Final = 1 << 30
"""Of delays."""
_TRIES_A_SCHEDULE: Final = 5
"""How many random schedules to run for each one wanted, as some come again."""


_LONG: Final = 1e6
"""Seconds from which on a wait counts as one without end."""


def _always() -> bool:
    return True


class Deadlock(AssertionError):
    """Every task that is left waits for another."""


class Life:
    """There as long as a task is, as far as weak references can tell: stands for its thread."""

    def done(self) -> bool:
        return False


@dataclass(eq=False)
class _Task:
    name: str
    run: greenlet.greenlet
    ready: Callable[[], bool] = _always
    deadline: float | None = None
    life: Life = field(default_factory=Life)
    interruptions: list[Callable[[], None]] = field(default_factory=list)

    def goes_on(self, now: float) -> bool:
        late = self.deadline is not None and now >= self.deadline
        return late or self.ready() or bool(self.interruptions)

    def where(self) -> str:
        """Its name, and the functions in which it is, the innermost last."""
        names = []
        frame = self.run.gr_frame
        while frame is not None:
            names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            frame = frame.f_back
        return f"{self.name} in {' > '.join(names[:1:-1])}"


@dataclass
class _Decision:
    options: list[int]
    last: int
    chosen: int = 0


@dataclass
class Scheduler:
    """One execution: follows the decisions it is given, then the default, noting alternatives."""

    decisions: list[_Decision]
    delays: int
    now: float = 0.0
    invariant: Callable[[], None] = lambda: None
    choose: Callable[[int], int] = lambda last: 0
    """Picks one of the options 0 to `last` where no decision is given."""
    stalls: int = 0
    """How often nobody could go on until a deadline struck."""
    _tasks: list[_Task] = field(default_factory=list)
    _current: _Task | None = None
    _last: _Task | None = None
    _step: int = 0
    _over: bool = False
    _outside: Life = field(default_factory=Life)
    _trace: list[str] = field(default_factory=list)

    def spawn(self, name: str, target: Callable[[], None]) -> None:
        """Add a task."""
        main = self._current.run.parent if self._current else None
        self._tasks.append(_Task(name, greenlet.greenlet(target, main)))

    def pause(self, ready: Callable[[], bool] = _always) -> None:
        """Called by a task: other tasks may run until `ready()`."""
        self._hold(ready, None)

    def sleep(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Called by a task: other tasks may run until `ready()`; False: for so long it was not.

        The deadline may strike at any moment, so that is an alternative at every decision.
        """
        self._hold(ready, self.now + seconds if seconds < _LONG else None)
        return ready()

    def _hold(self, ready: Callable[[], bool], deadline: float | None) -> None:
        task = self._current
        if task is None:  # the scenario's own set-up and checks are not scheduled
            assert ready(), "would block outside of a task"
            return
        if self._over:
            raise greenlet.GreenletExit
        while True:
            task.ready, task.deadline = ready, deadline
            self._switch(task)
            if not task.interruptions:
                return
            task.interruptions.pop(0)()
            if ready() or (deadline is not None and self.now >= deadline):
                return

    def interrupt(self, name: str, handler: Callable[[], None]) -> None:
        """Have the task `name` call `handler` where it is now held up, before it goes on there.

        Nothing happens if it has ended.
        """
        for task in self._tasks:
            if task.name == name and task is not self._current:
                task.interruptions.append(handler)

    def is_running(self, name: str) -> bool:
        """Whether the caller is, or is within, the task `name`."""
        return self._current is not None and self._current.name == name

    def has_ended(self, name: str) -> bool:
        """Whether there is no task `name` any more."""
        return name not in self.tasks

    @property
    def tasks(self) -> set[str]:
        """The names of those that have not ended."""
        return {task.name for task in self._tasks}

    @property
    def me(self) -> str:
        """The name of the running task; empty outside of one."""
        return self._current.name if self._current else ""

    @property
    def life(self) -> Life:
        """That of the running task, or of who is not scheduled."""
        return self._current.life if self._current else self._outside

    @property
    def holder(self) -> Callable[[], Life | None]:
        """What the engine keeps of the running task: compares equal for the same one."""
        return weakref.ref(self.life)

    def clock(self) -> float:
        """The scenario's time, in seconds."""
        return self.now

    def story(self) -> str:
        """Who ran, for how many steps each time."""
        turns = [(name, len(list(steps))) for name, steps in itertools.groupby(self._trace)]
        return ", ".join(f"{name} {steps}" for name, steps in turns)

    def run(self) -> None:
        """Run all tasks to their end."""
        try:
            while self._tasks:
                self._run_one()
        except BaseException:
            self._give_up()
            raise

    def _run_one(self) -> None:
        options = self._options()
        if not options:
            raise Deadlock(f"all wait: {', '.join(task.where() for task in self._tasks)}")
        number = self._decide(options)
        task = self._tasks[number % len(self._tasks)]
        if number >= len(self._tasks):
            assert task.deadline is not None
            self.stalls += options[0] == number
            self.now = task.deadline
        self._trace.append(task.name)
        self._current = task
        task.run.switch()
        self._current = None
        self._last = None if task.run.dead else task
        if task.run.dead:
            self._tasks.remove(task)
        self.invariant()

    def _switch(self, task: _Task) -> None:
        main = task.run.parent
        assert main is not None
        main.switch()
        if self._over:
            raise greenlet.GreenletExit

    def _give_up(self) -> None:
        """End what is left: nobody else would, as long as it takes."""
        self._over = True
        for task in self._tasks:
            self._current = task
            with contextlib.suppress(BaseException):
                task.run.throw(greenlet.GreenletExit)
        self._current = None

    def _options(self) -> list[int]:
        """Numbers of the tasks that can go on: the one that ran last, its successors; then the
        one whose deadline is the next to strike."""
        count = len(self._tasks)
        first = self._tasks.index(self._last) if self._last is not None else 0
        turns = [(first + i) % count for i in range(count)]
        ready = [i for i in turns if self._tasks[i].goes_on(self.now)]
        late = [
            (deadline, i + count)
            for i in turns
            if i not in ready and (deadline := self._tasks[i].deadline) is not None
        ]
        return [*ready, min(late)[1]] if late else ready

    def _decide(self, options: list[int]) -> int:
        """The next option to take; passing over k of them costs k delays."""
        if self._step == len(self.decisions):
            last = min(self.delays, len(options) - 1)
            self.decisions.append(_Decision(options, last, self.choose(last)))
        decision = self.decisions[self._step]
        assert decision.options == options, "the scenario is not deterministic"
        self._step += 1
        self.delays -= decision.chosen
        return options[decision.chosen]


class ControlledLock:
    """Stands in for a lock of `threading`; whoever takes it may be held up before."""

    def __init__(self, scheduler: Scheduler, *, reentrant: bool = True) -> None:
        self._scheduler = scheduler
        self._reentrant = reentrant
        self._owner: Life | None = None
        self._times = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_owned():
            assert self._reentrant, "a thread waits for itself"
            self._times += 1
            return True
        if blocking:
            seconds = math.inf if timeout < 0 else timeout
            self._scheduler.sleep(self._is_free, seconds)
        else:
            self._scheduler.pause()
        if self._owner is not None:
            return False
        self._owner, self._times = self._scheduler.life, 1
        return True

    def release(self) -> None:
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")  # as the real one does
        self._times -= 1
        if not self._times:
            self._owner = None

    def _is_owned(self) -> bool:
        return self._owner is self._scheduler.life

    def _is_free(self) -> bool:
        return self._owner is None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class ControlledCondition:
    """Stands in for `threading.Condition`; `notify` wakes who has waited longest."""

    def __init__(self, scheduler: Scheduler, lock: ControlledLock) -> None:
        self._scheduler = scheduler
        self._lock = lock
        self._waiting: list[object] = []

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.__exit__(*exc_info)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        while not predicate():
            if timeout is not None:
                assert timeout == 0, "only waits without end or without waiting are simulated"
                return False
            ticket = object()
            self._waiting.append(ticket)
            self._lock.__exit__()
            self._scheduler.pause(lambda ticket=ticket: ticket not in self._waiting)  # type: ignore[misc] # mypy knows no default here
            self._lock.__enter__()
        return True

    def notify(self) -> None:
        del self._waiting[:1]

    def notify_all(self) -> None:
        self._waiting.clear()


class ControlledWaiter:
    """Stands in for `hq_core.engine.waiters.ThreadWaiter`."""

    loop: object = None

    def __init__(self, scheduler: Scheduler, needs: tuple[int, int] = (1, 0)) -> None:
        self.place = self.cost = 0
        self.needs = needs
        self._scheduler = scheduler
        self._woken = False

    def wake(self) -> bool:
        self._woken = True
        return True

    def wait(self, timeout: float) -> bool:
        woken = self._scheduler.sleep(lambda: self._woken, timeout)
        self._woken = False
        return woken


class ControlledPump:
    """A pump whose thread is a task that ends at `stop`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._rung = self._stopping = self._ended = False

    def start(self, step: Callable[[], bool], name: str) -> None:
        self._step = step
        self._name = name
        self._scheduler.spawn(name, self._run)

    def wake(self) -> None:
        self._rung = True

    def stop(self) -> None:
        self._stopping = True
        if not self._scheduler.is_running(self._name):
            self._scheduler.pause(lambda: self._ended)

    def _run(self) -> None:
        while not self._stopping:
            self._scheduler.pause(lambda: self._rung or self._stopping)
            self._rung = False
            while self._step():
                pass
        self._ended = True


def explore(scenario: Scenario, delays: int = 3, limit: int = 100_000, at_least: int = 0) -> int:
    """Run `scenario` under every schedule; returns how many there are.

    If they are fewer than `at_least`, random ones follow, with any number of delays, until so many
    different ones have been run, or no new one is found any more.

    An exception of a task, a check or an invariant ends the exploration, with the decisions that
    led to it as a note.
    """
    decisions: list[_Decision] = []
    seen: set[tuple[int, ...]] = set()
    while True:
        _run(scenario, Scheduler(decisions, delays), len(seen))
        seen.add(_taken(decisions))
        assert len(seen) <= limit, f"more than {limit} schedules"
        while decisions and decisions[-1].chosen == decisions[-1].last:
            decisions.pop()
        if not decisions:
            break
        decisions[-1].chosen += 1
    choices = random.Random(0)
    for _ in range(_TRIES_A_SCHEDULE * at_least):
        if len(seen) >= at_least:
            break
        scheduler = Scheduler([], _ANY_NUMBER, choose=lambda last: choices.randint(0, last))
        _run(scenario, scheduler, len(seen))
        seen.add(_taken(scheduler.decisions))
    return len(seen)


def _run(scenario: Scenario, scheduler: Scheduler, number: int) -> None:
    try:
        check = scenario(scheduler)
        scheduler.run()
        check()
    except BaseException as exc:
        exc.add_note(f"schedule {number}: {scheduler.story()}")
        raise


def _taken(decisions: list[_Decision]) -> tuple[int, ...]:
    return tuple(decision.options[decision.chosen] for decision in decisions)
