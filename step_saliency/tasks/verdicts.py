"""A judgement as it was written, by whoever judged: right, wrong, or neither."""


def verdict(stated: object) -> bool | None:
    """A judgement, read strictly: true, false, the same as text, 0 or 1; None for anything else."""
    if isinstance(stated, bool):
        return stated
    if isinstance(stated, int | float) and stated in (0, 1):
        return bool(stated)
    if isinstance(stated, str):
        return {"true": True, "false": False, "1": True, "0": False}.get(stated.strip().lower())
    return None
