"""What inspect-ai finds by the entry point: the provider and the tasks."""

from typing import TYPE_CHECKING

from inspect_ai.model import modelapi

if TYPE_CHECKING:
    from inspect_ai.model import ModelAPI


@modelapi(name="step-saliency")
def step_saliency_models() -> "type[ModelAPI]":
    """``step-saliency/MODEL``."""
    from step_saliency.benchmark.provider.api import StepSaliencyAPI

    return StepSaliencyAPI


from step_saliency.benchmark.suites.tasks import aime24 as aime24  # noqa: E402
from step_saliency.benchmark.suites.tasks import aime25 as aime25  # noqa: E402
from step_saliency.benchmark.suites.tasks import amc23 as amc23  # noqa: E402
from step_saliency.benchmark.suites.tasks import gpqa_diamond as gpqa_diamond  # noqa: E402
from step_saliency.benchmark.suites.tasks import gsm8k as gsm8k  # noqa: E402
from step_saliency.benchmark.suites.tasks import livecodebench as livecodebench  # noqa: E402
from step_saliency.benchmark.suites.tasks import math500 as math500  # noqa: E402
from step_saliency.benchmark.suites.tasks import reasoner as reasoner  # noqa: E402
