"""Events on resources that serve one task at a time: what a step takes, task by task.

`jaxgen.moe.placement.simulator` computes the same for all devices at once, since the order of tasks on each is
known there. Here each resource serves in the order in which tasks become ready, whatever it is.
"""

import dataclasses
import heapq
from collections.abc import Sequence


@dataclasses.dataclass
class _Task:
    """One device's piece of work; `waits` counts what must end first."""

    resource: int
    seconds: float
    waits: int = 0
    then: list[int] = dataclasses.field(default_factory=list)


class Timeline:
    """Tasks, what each waits for, and the events that follow."""

    def __init__(self, resources: int):
        self._tasks: list[_Task] = []
        self._resources = resources

    def add(self, resource: int, seconds: float, after: Sequence[int] = ()) -> int:
        """A task; returns its number. Resource -1 is none: it ends when all it waits for has ended."""
        if resource >= self._resources or seconds < 0:
            raise ValueError(
                f"resource, seconds are {resource}, {seconds}, allowed: below {self._resources}, 0 or more"
            )
        number = len(self._tasks)
        self._tasks.append(_Task(resource, seconds, len(after)))
        for other in after:
            self._tasks[other].then.append(number)
        return number

    def run(self) -> float:
        """Seconds until the last task has ended; each resource serves in the order of readiness.

        Raises:
          ValueError: tasks that wait for each other.
        """
        free = [0.0] * self._resources
        events = [(0.0, n) for n, task in enumerate(self._tasks) if not task.waits]
        heapq.heapify(events)
        ready: dict[int, float] = {}
        waits, last, done = [t.waits for t in self._tasks], 0.0, 0
        running: set[int] = set()
        while events:
            now, n = heapq.heappop(events)
            task = self._tasks[n]
            if n not in running and task.resource >= 0:  # ready: queue behind what is there
                begin = max(now, free[task.resource])
                free[task.resource] = begin + task.seconds
                running.add(n)
                heapq.heappush(events, (begin + task.seconds, n))
                continue
            last, done = max(last, now), done + 1
            for other in task.then:
                ready[other] = max(ready.get(other, 0.0), now)
                waits[other] -= 1
                if not waits[other]:
                    heapq.heappush(events, (ready[other], other))
        if done < len(self._tasks):
            raise ValueError(f"{len(self._tasks) - done} tasks wait for each other, allowed: none")
        return last
