"""The fastest engine of this process that knows a task's model: to score, audit and fine-tune."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgru.engines.jax.engine import JaxEngine
    from fedgru.engines.reference import ReferenceEngine
    from fedgru.task.task import Task


def fastest(task: Task) -> type[JaxEngine] | type[ReferenceEngine]:
    """Return the class of that engine; all engines give the same numbers."""
    if task.settings.model.model is not None:
        from fedgru.engines.reference import ReferenceEngine

        return ReferenceEngine
    from fedgru.engines.jax.engine import JaxEngine

    return JaxEngine
