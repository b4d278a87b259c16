"""Which GPUs does each worker of a machine or cluster get?

One card each; so many as a vLLM engine spreads a model over; all there are, in even shares, where
accelerate spreads it (`device_map`). Without cards, or with ``device="cpu"``, workers have none.
A worker has whole cards, or what Ray or Slurm counts as one, such as a slice of a card (MIG); none
shares a card with another.
"""

import os
from collections.abc import Mapping

import torch

from step_saliency.benchmark.command.settings import BenchmarkSettings


def visible_cards() -> list[int]:
    """Numbers of the cards that this process sees, as workers are told of them.

    Raises:
        ValueError: ``CUDA_VISIBLE_DEVICES`` names cards otherwise than by number, or slices of
            them.
    """
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None or not count:
        return list(range(count))
    if "MIG-" in named:
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={named!r:.80} names slices of a card (MIG), of which a process "
            "sees one, and workers of this machine are told numbers of cards; run the command "
            "without --workers on one slice, or have Ray or Slurm hand slices out"
        )
    numbers = [name.strip() for name in named.split(",")][:count]
    if not all(number.isdigit() for number in numbers):
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES={named!r} names cards, and workers are told numbers; write the "
            "numbers of the cards"
        )
    return list(map(int, numbers))


def cards_each(settings: BenchmarkSettings, n_cards: int, workers: int) -> int:
    """How many cards each worker gets; 0 for none.

    Args:
        settings: Of the run.
        n_cards: Cards that there are.
        workers: How many share them.

    Raises:
        ValueError: they do not suffice, or the settings name one card for several workers.
    """
    device = settings.device or "cuda"
    if not n_cards or not device.startswith("cuda"):
        return 0
    if ":" in device and workers > 1:
        raise ValueError(
            f"device={device!r} is one card, and {workers} workers need one each; say "
            "device='cuda', or leave it out"
        )
    each = n_cards // workers if settings.device_map else settings.tensor_parallel
    each = n_cards if ":" in device else each
    if each < 1 or each * workers > n_cards:
        raise ValueError(
            f"workers={workers} need {max(1, each) * workers} cards, and there are {n_cards}; take "
            f"{n_cards // max(1, each)} workers or fewer, or device='cpu'"
        )
    return each


def cards_of_ray(resources: Mapping[str, float]) -> int:
    """How many cards a Ray cluster counts.

    Args:
        resources: Of the cluster.

    Raises:
        ValueError: a part of one alone.
    """
    count = resources.get("GPU", 0)
    if 0 < count < 1:
        raise ValueError(
            f"the Ray cluster has {count:g} of a card, and workers get whole ones; start it with "
            "--num-gpus=1, or run with device='cpu'"
        )
    return int(count)


def slices(cards: list[int], each: int, workers: int) -> list[list[int]]:
    """The cards of each worker."""
    return [cards[each * number : each * (number + 1)] for number in range(workers)]
