"""What each bundled model learns from: its problems and its tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from transformers import PreTrainedTokenizerFast

from training import data, reports
from training.data import DrawConversations
from training.model import Task
from training.tokenizer import REPORT_PHRASES, build_tokenizer


@dataclass(frozen=True)
class Curriculum:
    """Of one bundled model.

    Attributes:
        draw: Draws its training problems.
        tokenizer: Builds its tokenizer.
    """

    draw: DrawConversations
    tokenizer: Callable[[], PreTrainedTokenizerFast]


def report_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(phrases=REPORT_PHRASES, model_max_length=2048)


CURRICULA: Mapping[Task, Curriculum] = MappingProxyType(
    {
        "reasoner": Curriculum(data.draw_conversations, build_tokenizer),
        "planner": Curriculum(reports.draw_unplanned, report_tokenizer),
        "reporter": Curriculum(reports.draw_conversations, report_tokenizer),
    }
)
