"""Tasks: the table is the registry, and packages add to it by the entry point ``multidelete.tasks``."""

from multidelete.registry import with_entry_points
from multidelete.tasks.base import Predictions, Task
from multidelete.tasks.retrieval import Retrieval

TASKS: dict[str, type[Task]] = with_entry_points("multidelete.tasks", {"retrieval": Retrieval})

__all__ = ["TASKS", "Predictions", "Retrieval", "Task"]
