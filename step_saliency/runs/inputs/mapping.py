"""Rows whose fields have names of their own, under the names of our own form."""

from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs.beside import asked_of
from step_saliency.runs.inputs.names import GOLD, IDS, QUESTIONS, VERDICTS, at_path, plain_name
from step_saliency.runs.roles import ROLES

TEXTS = frozenset({"prompt", "thinking", "response", "messages"})
"""Roles by which the response is found; with one of them a row is read as our own form."""

KEPT = (
    *GOLD,
    "reward_model",
    "verification_info",
    "metadata",
    *IDS,
    *QUESTIONS,
    *VERDICTS,
    "problem_id",
    "system",
)
"""Fields that keep their meaning where --field names the response, unless it names them too."""


def with_fields(data: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """A row with its fields under the names of our own form.

    Raises:
        ValueError: the row lacks one that it cannot be read without.
    """
    values = {role: at_path(data, name) for role, name in fields.items()}
    needed = [role for role in ("question", *sorted(TEXTS)) if role in values]
    for role in needed:
        if values[role] is None:
            raise ValueError(
                f"--field {role}={fields[role]}: the row has no {fields[role]} "
                f"({', '.join(map(str, list(data)[:10]))})"
            )
    renamed = {ROLES[role]: value for role, value in values.items() if value is not None}
    if not TEXTS & set(fields):
        return {**data, **renamed}
    if {"messages", "response"} <= set(renamed):
        renamed["messages"] = asked_of(renamed["messages"], renamed["response"])
    if isinstance(renamed.get("response"), list):
        renamed["responses"] = renamed.pop("response")
    taken = {spelled for name in fields.values() for spelled in (name, plain_name(name))}
    return {**{name: data[name] for name in KEPT if name in data and name not in taken}, **renamed}
