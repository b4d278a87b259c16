"""What of a pair is patched, and which paths are cut."""

from collections.abc import Sequence

from analyses.instruments.knockout import Cut
from analyses.instruments.patching import (
    Patch,
    Role,
    Site,
)
from analyses.patching.pairs import Pair

STEP_SITES: tuple[Site, ...] = ("resid_post", "attn_out", "mlp_out")


def step_patches(pair: Pair, layers: Sequence[int], sites: Sequence[Site]) -> list[Patch]:
    """One patch per step from the source on, layer and site; and all positions together."""
    length = len(pair.clean.tokens)
    patches = []
    for site in sites:
        for layer in layers:
            patches.append(Patch(site, layer, tuple(range(length)), "all"))
            for number, step in enumerate(pair.clean.steps):
                role = pair.role(number)
                if role is not None and number >= pair.source_step:
                    span = tuple(range(step.start, step.stop))
                    patches.append(Patch(site, layer, span, role, number))
    return patches


def head_patches(pair: Pair, layers: Sequence[int], heads: int) -> list[Patch]:
    """Single heads, at the source, at the read step, and everywhere."""
    spans: dict[Role, tuple[int, ...]] = {"all": tuple(range(len(pair.clean.tokens)))}
    for role, number in (("source", pair.source_step), ("read", pair.read_step)):
        spans[role] = _tokens_of(pair, number)  # type: ignore[index]
    return [
        Patch("z", layer, span, role, head=head)
        for layer in layers
        for head in range(heads)
        for role, span in spans.items()
        if span
    ]


def _tokens_of(pair: Pair, number: int) -> tuple[int, ...]:
    if number >= len(pair.clean.steps):
        return ()
    step = pair.clean.steps[number]
    return tuple(range(step.start, step.stop))


def path_cuts(pair: Pair, layers: Sequence[int]) -> list[tuple[str, int | None, Cut]]:
    """(path, layer, cut) of the edges from the source to the read step and to what lies between.

    ``direct`` is cut in all layers and in each, ``direct up to`` in all layers up to one: what a
    layer cannot bring, a later one can, so that single layers say what is needed, not what is
    enough.
    """
    keys = _tokens_of(pair, pair.source_step)
    after = range(keys[-1] + 1, len(pair.clean.tokens))
    read = set(_tokens_of(pair, pair.read_step)) | {pair.position}
    direct = tuple(position for position in after if position in read)
    indirect = tuple(position for position in after if position not in read)
    whole: list[tuple[str, int | None, Cut]] = [
        ("direct", None, Cut(direct, keys)),
        ("indirect", None, Cut(indirect, keys)),
        ("both", None, Cut(tuple(after), keys)),
    ]
    single = [("direct", layer, Cut(direct, keys, (layer,))) for layer in layers]
    below = [tuple(range(layer + 1)) for layer in layers]
    return [
        *whole,
        *single,
        *(("direct up to", some[-1], Cut(direct, keys, some)) for some in below),
    ]
