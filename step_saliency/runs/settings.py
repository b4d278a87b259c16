"""What a run of `step-saliency map` depends on. Loads nothing heavy: the command line reads it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from step_saliency.options import MAP_DECODING, Decoding, Method, ObjectiveName, Pool, Rows
from step_saliency.runs.functions import UserFunction

UNSAID = ("top_k", "stop_tokens", "stop_texts", "fields", "answer", "grade")
"""Options that manifests leave out where they are not set."""


@dataclass(frozen=True, kw_only=True)
class MapSettings(Decoding):
    """What `map_file` does; two runs into one folder must agree in all of it.

    The options of `Decoding` are those of answers to rows that have only a question; ``format`` and
    ``splitter`` hold for responses that are given too.

    Attributes:
        model: Name for `load_model`.
        backend: As for `load_model`.
        device: As for `load_model`.
        dtype: As for `load_model`.
        revision: As for `load_model`.
        trust_remote_code: As for `load_model`.
        objective: As for `step_saliency`.
        method: As for `step_saliency`.
        pool: As for `step_saliency`.
        rows: As for `step_saliency`.
        per_head: As for `step_saliency`.
        layers: As for `step_saliency`.
        instruction: Text put after the question of rows that have only a question.
        fields: Names of the fields of rows by role (question, response, gold, ...), see
            `step_saliency.runs.roles`.
        answer: Let the model answer also questions beside which a response may stand that could not
            be read.
        grade: Judges responses in place of `tasks.answers.is_correct`: a function of the part that
            is graded and the gold answer (empty without one), True, False or None (unknown).
        figures: Draw the figures of each trace; `step_saliency.runs.figures` draws them later too.
    """

    model: str = "reasoner"
    backend: str = "auto"
    device: str | None = None
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    objective: ObjectiveName = "next_token"
    method: Method = "auto"
    pool: Pool = "mean"
    rows: Rows = "query"
    per_head: bool = False
    layers: tuple[int, ...] | None = None
    instruction: str | None = None
    temperature: float | int = MAP_DECODING.temperature
    max_new_tokens: int = MAP_DECODING.max_new_tokens
    batch_size: int | Literal["auto"] = MAP_DECODING.batch_size
    fields: Mapping[str, str] = field(default_factory=dict)
    answer: bool = False
    grade: Callable[[str, str], Any] | None = None
    figures: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON types; functions of the user's with their code."""
        fields = asdict(replace(self, grade=None)) | {"grade": _named(self.grade)}
        text = json.dumps(fields, default=_described)
        settings: dict[str, Any] = json.loads(text)
        return {name: value for name, value in settings.items() if name not in UNSAID or value}


def _named(grade: Callable[[str, str], Any] | None) -> object:
    """What a manifest says of a grading function."""
    if isinstance(grade, UserFunction):
        return {"function": grade.name, "sha256": grade.sha256}
    return grade


def _described(value: object) -> Any:
    from step_saliency.storage.described import described

    return described(value)
