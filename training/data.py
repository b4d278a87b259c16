"""Training data made on the fly: an endless, seeded stream of batches of similar length.

Batches come in pools. Pool k holds the same problems in the same order whenever it is made (its
random state is seeded with ``(seed, k)``), so a run resumes at (pool, batch) exactly, and several
processes can make pools ahead. Within a pool the problems are sorted by length before they are cut
into batches, which keeps padding rare.
"""

import multiprocessing
import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from step_saliency.tasks.graph import Difficulty, Split, draw_graph
from step_saliency.tasks.notation import (
    SUMMARY,
    Family,
    join_response,
    write_question,
    write_steps,
)

IGNORED = -100
POOL_BATCHES = 16
CURRICULUM_POOLS = 20
MAX_STEPS = 10
MAX_DISTRACTORS = 6
FAMILIES: tuple[Family, ...] = ("symbols", "words")


class DrawConversations(Protocol):
    """Draws (question, response) pairs of the difficulty that pool number ``pool`` has."""

    def __call__(
        self, rng: random.Random, n: int, *, pool: int, split: Split
    ) -> list[tuple[str, str]]: ...


@dataclass(frozen=True)
class Example:
    """Token ids of one conversation; the first ``n_prompt`` are given, the rest is to be learnt."""

    ids: list[int]
    n_prompt: int


@dataclass(frozen=True)
class Batch:
    """Right-padded ids and their labels (-100 on prompt and padding)."""

    ids: Int[Tensor, "batch pos"]
    labels: Int[Tensor, "batch pos"]
    n_tokens: int


def draw_difficulty(rng: random.Random, pool: int) -> Difficulty:
    """Short problems first; from pool 20 on the full range, biased to the middle."""
    longest = min(MAX_STEPS, 3 + pool * (MAX_STEPS - 3) // CURRICULUM_POOLS)
    n_steps = min(longest, 1 + min(rng.randint(0, 9), rng.randint(1, 9)))
    n_distractors = min(rng.randint(0, MAX_DISTRACTORS), rng.randint(0, MAX_DISTRACTORS))
    return Difficulty(n_steps, n_distractors, digits=rng.choices((1, 2, 3), (2, 6, 2))[0])


def encode(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[tuple[str, str]]
) -> list[Example]:
    """Token ids of (question, response) pairs in the chat format."""
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question, _ in conversations
    ]
    answers = [response + tokenizer.eos_token for _, response in conversations]
    encoded = tokenizer([*prompts, *answers], add_special_tokens=False)["input_ids"]
    n = len(conversations)
    return [Example(encoded[i] + encoded[n + i], len(encoded[i])) for i in range(n)]


def draw_conversations(
    rng: random.Random, n: int, *, pool: int, split: Split
) -> list[tuple[str, str]]:
    """Questions of mixed difficulty, alternating between the two notations, and their solutions."""
    conversations = []
    for i in range(n):
        family = FAMILIES[i % len(FAMILIES)]
        graph = draw_graph(rng, draw_difficulty(rng, pool), split)
        summary = SUMMARY.format(graph.values[graph.target])
        response = join_response(write_steps(graph, family), summary)
        conversations.append((write_question(graph, family)[0], response))
    return conversations


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_id)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        labels[row, example.n_prompt : len(example.ids)] = torch.tensor(
            example.ids[example.n_prompt :]
        )
    return Batch(ids, labels, sum(len(example.ids) for example in examples))


def make_pool(
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    pool: int,
    batch_size: int,
    draw: DrawConversations = draw_conversations,
) -> list[Batch]:
    """The batches of pool number ``pool``, in training order."""
    rng = random.Random(f"{seed}/{pool}")
    conversations = draw(rng, POOL_BATCHES * batch_size, pool=pool, split="train")
    examples = sorted(encode(tokenizer, conversations), key=lambda example: len(example.ids))
    batches = [
        collate(examples[i : i + batch_size], tokenizer.pad_token_id)
        for i in range(0, len(examples), batch_size)
    ]
    rng.shuffle(batches)
    return batches


def batches_from(
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    batch_size: int,
    start: int,
    draw: DrawConversations = draw_conversations,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches number ``start``, ``start + 1``, ... of the stream, without end.

    Args:
        tokenizer: Of the model.
        seed: Of the stream.
        batch_size: Problems a batch.
        start: Number of the first batch.
        draw: Draws the problems.
        workers: Processes that make pools ahead; 0 makes them here. The stream is the same.
    """
    first, skip = divmod(start, POOL_BATCHES)
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "draw": draw}
    if workers:
        pools = _pools_ahead(tokenizer, options, first, workers)
    else:
        pools = (make_pool(tokenizer, pool=pool, **options) for pool in count(first))
    for batches in pools:
        yield from batches[skip:]
        skip = 0


def _pools_ahead(
    tokenizer: PreTrainedTokenizerFast, options: dict[str, Any], first: int, workers: int
) -> Iterator[list[Batch]]:
    """Pools ``first``, ``first + 1``, ..., of which each process has two in hand."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer, options)) as executor:
        waiting = deque(executor.submit(_packed_pool, first + i) for i in range(2 * workers))
        for pool in count(first + 2 * workers):
            packed = waiting.popleft().result()
            waiting.append(executor.submit(_packed_pool, pool))
            yield [
                Batch(torch.from_numpy(ids).long(), torch.from_numpy(labels).long(), n)
                for ids, labels, n in packed
            ]


_worker: tuple[PreTrainedTokenizerFast, dict[str, Any]]


def _start_worker(tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = (tokenizer, options)


def _packed_pool(pool: int) -> list[tuple[Any, Any, int]]:
    """A pool as small arrays, which travel between processes faster than tensors."""
    tokenizer, options = _worker
    return [
        (batch.ids.short().numpy(), batch.labels.short().numpy(), batch.n_tokens)
        for batch in make_pool(tokenizer, pool=pool, **options)
    ]
