"""``--field question=NAME,response=NAME,gold=NAME``: which field holds what. Loads nothing."""

ROLES = {
    "question": "question",
    "prompt": "prompt",
    "thinking": "reasoning_content",
    "response": "response",
    "messages": "messages",
    "gold": "gold_answer",
    "correct": "is_correct",
    "id": "id",
    "problem": "problem_id",
}
"""What a field may be named as, and the field of our own form that it becomes."""


def parse_fields(text: str) -> dict[str, str]:
    """Fields by role.

    Args:
        text: Such as ``question=prompt_text,response=model_output``.

    Raises:
        ValueError: it says something else.
    """
    fields: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        role, equals, name = part.partition("=")
        if not equals or not name.strip() or role.strip() not in ROLES:
            raise ValueError(
                f"--field {part!r} is not understood; write ROLE=NAME, where ROLE is one of "
                f"{', '.join(ROLES)}"
            )
        if role.strip() in fields:
            raise ValueError(f"--field names {role.strip()} twice")
        fields[role.strip()] = name.strip()
    return fields
