"""Options as objects and as keywords: one set of names, one set of defaults, checked when made."""

import inspect
import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from tiny import tiny_model

import step_saliency as ss
from step_saliency.options import Decoding, DecodingOptions, Draws, DrawsOptions, with_keywords

FEW: dict[str, Any] = {"max_new_tokens": 6, "progress": False, "format": "plain"}


@pytest.mark.parametrize(("made", "known"), [(Decoding, DecodingOptions), (Draws, DrawsOptions)])
def test_keywords_are_the_fields(made: type, known: type) -> None:
    kinds = {field.name: field.type for field in fields(made)}
    assert inspect.get_annotations(known) == kinds
    assert all(f"        {name}: " in (made.__doc__ or "") for name in kinds)


@pytest.mark.parametrize("call", [ss.generate, ss.calibrate])
def test_signatures_show_every_keyword_with_its_default(call: Callable[..., Any]) -> None:
    shown = inspect.signature(call).parameters
    assert all(p.kind is not p.VAR_KEYWORD for p in shown.values())
    for field in fields(Decoding):
        assert shown[field.name].default == getattr(Decoding(), field.name)
    documented = inspect.getdoc(call) or ""
    assert not [name for name in shown if f"    {name}: " not in documented]


def test_help_explains_keywords_in_the_words_of_the_object_or_the_calls_own() -> None:
    generating, calibrating = inspect.getdoc(ss.generate) or "", inspect.getdoc(ss.calibrate) or ""
    for text in (generating, calibrating):
        assert text.count("    top_k: Sample from this many most probable tokens.\n") == 1
        arguments = text.partition("Args:\n")[2].partition("\n\n")[0]
        assert "\n    stop_texts: " in arguments
    assert "    seed: Seed of all samples.\n" in generating
    assert calibrating.count("    seed: ") == 1
    assert "    seed: Of all samples, of the folds and of the intervals.\n" in calibrating


@pytest.mark.parametrize("call", [ss.generate, ss.calibrate])
def test_an_unknown_keyword_is_named(call: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=rf"{call.__name__}\(\) got .* argument 'temprature'"):
        call(None, ["q"], temprature=0.5)


def test_an_object_and_keywords_are_one_call() -> None:
    model = tiny_model("qwen2")
    by_keyword = ss.generate(model, ["a b c"], n=3, temperature=1.0, seed=4, **FEW)
    shared = Decoding(n=3, seed=1, max_new_tokens=6, format="plain")
    by_both = ss.generate(
        model, ["a b c"], decoding=shared, temperature=1.0, seed=4, progress=False
    )
    assert [t.to_dict() for t in by_both] == [t.to_dict() for t in by_keyword]
    assert shared.seed == 1
    other_seed = ss.generate(model, ["a b c"], decoding=shared, temperature=1.0, progress=False)
    assert [t.to_dict() for t in other_seed] != [t.to_dict() for t in by_both]


def test_keywords_of_another_object_are_left_to_it() -> None:
    keywords = {"seed": 3, "confidence": 0.9, "n": 2}
    assert with_keywords(Draws(), keywords) == Draws(seed=3, confidence=0.9)
    assert with_keywords(Decoding(), keywords) == Decoding(seed=3, n=2)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Decoding(n=0), "n=0 is below 1"),
        (lambda: Decoding(temperature=-1), "temperature=-1 is below 0"),
        (lambda: Decoding(top_p=0), r"top_p=0 is not in \(0, 1\]"),
        (lambda: Decoding(top_p=1.1), "top_p=1.1"),
        (lambda: Decoding(top_k=0), "top_k=0 is below 1"),
        (lambda: Decoding(seed=-1), "seed=-1 is below 0"),
        (lambda: Decoding(max_new_tokens=0), "max_new_tokens=0 is below 1"),
        (lambda: Decoding(batch_size=0), "batch_size=0 is below 1"),
        (lambda: Decoding(stop_texts=""), r"stop_texts=\[''\] has an empty text"),
        (lambda: Decoding(n=0, top_k=0), "n=0 is below 1; top_k=0 is below 1"),
        (lambda: Draws(confidence=1), "confidence=1 is not between 0 and 1"),
        (lambda: Draws(n_resamples=0), "n_resamples=0 is below 1"),
        (lambda: Draws(n_permutations=0), "n_permutations=0 is below 1"),
    ],
)
def test_values_out_of_range_are_refused_when_the_object_is_made(
    make: Callable[[], object], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_numbers_of_numpy_become_plain() -> None:
    """So that a log and its traces can be written."""
    made = Decoding()
    numbers = {"n": np.int64(2), "seed": np.int64(3), "temperature": np.float32(1)}
    for name, value in {**numbers, "stop_tokens": np.array([4, 5])}.items():
        object.__setattr__(made, name, value)  # the annotations, checked here, say what is best
    made._make_plain()
    assert json.loads(json.dumps(vars(made)))["stop_tokens"] == [4, 5]
    assert made == Decoding(n=2, seed=3, temperature=1.0, stop_tokens=(4, 5))


def test_objects_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Decoding().n = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Draws(0.9)  # type: ignore[misc]
