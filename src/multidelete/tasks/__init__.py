"""Registry of tasks; other packages add tasks with the entry point ``multidelete.tasks``."""

from collections.abc import Collection

from multidelete.models.base import Model
from multidelete.tasks.base import Predictions, Task
from multidelete.tasks.entailment import Entailment
from multidelete.tasks.graph_text import GraphText
from multidelete.tasks.reasoning import Reasoning
from multidelete.tasks.retrieval import Retrieval
from multidelete.utils.errors import InputError
from multidelete.utils.registry import with_entry_points

TASKS: dict[str, type[Task]] = with_entry_points(
    "multidelete.tasks",
    {"retrieval": Retrieval, "entailment": Entailment, "reasoning": Reasoning, "graph_text": GraphText},
)


def task_for(model: type[Model], labels: Collection[str]) -> str:
    """Name of the task that a model was trained for.

    Args:
        model: Architecture of the model.
        labels: Classes of its head, if any.

    Raises:
        InputError: No task has these classes.
    """
    for name, task in TASKS.items():
        if task.provides() <= model.provides and task.labelled == bool(labels) and task.classes == frozenset(labels):
            return name
    raise InputError(f"no task of {model.name} has the classes {', '.join(labels)}; tasks are {', '.join(TASKS)}")


__all__ = ["TASKS", "Entailment", "GraphText", "Predictions", "Reasoning", "Retrieval", "Task", "task_for"]
