"""Python calls with values that are none: each must be a ValueError; what was taken is printed.

A program of its own, since the tests' type checks would stop most of these calls before ours.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tiny import tiny_model, tiny_tokenizer

import step_saliency as ss
from step_saliency.intervene import HeadMean, HeadRedirect, HeadScale, ValueProjection
from step_saliency.options import Decoding, Draws
from step_saliency.tasks import make_problems
from step_saliency.tasks.answers import final_answer, is_correct
from step_saliency.trace import Step

NAN = float("nan")
tokenizer = tiny_tokenizer()
model = tiny_model("qwen2", n_layers=2)
RESPONSE = "<think>\nFirst, 3 + 4 = 7. Then 7 + 5 = 12.\n</think>\nIt is 12."
trace = ss.Trace.from_text(tokenizer, question="What is 3 + 4 + 5?", response=RESPONSE)
beyond = ss.Trace.from_tokens([5, 10**6, 7], starts=[0, 1], regions=["question", "thinking"])
flow = ss.StepFlow.for_model(model)
saliency = ss.step_saliency(model, trace)
by_head = ss.step_saliency(model, trace, per_head=True)
problem = make_problems(n=1)[0]


def text(**change: Any) -> Any:
    return ss.Trace.from_text(tokenizer, **{"question": "Why?", "response": RESPONSE, **change})


def tokens(**change: Any) -> Any:
    fields = {"starts": [0, 1], "regions": ["question", "thinking"], **change}
    return ss.Trace.from_tokens([5, 6, 7], **fields)


def messages(question: Any, response: Any) -> Any:
    return ss.Trace.from_messages(
        tokenizer,
        [{"role": "user", "content": question}, {"role": "assistant", "content": response}],
    )


def maps(**options: Any) -> Any:
    return ss.step_saliency(model, options.pop("trace", trace), **options)


TRIES: dict[str, Callable[[], Any]] = {
    "empty prompt": lambda: text(prompt="", question=""),
    "prompt is a number": lambda: text(prompt=3),
    "chat template is a number": lambda: text(chat_template=1),
    "chat template is empty": lambda: text(chat_template=""),
    "prompt and a chat template": lambda: text(prompt="Why?", question="", chat_template=True),
    "id is a number": lambda: text(id=5),
    "question is a number": lambda: text(question=5),
    "response is a list": lambda: text(response=[RESPONSE]),
    "system is a number": lambda: text(system=5),
    **{
        f"half a character in the {name}": lambda name=name: text(**{name: "a \ud800"})
        for name in ("question", "response", "system")
    },
    "half a character in the prompt": lambda: text(prompt="Why? \ud800"),
    "half a character in a message": lambda: messages("Why? \udc00", "42"),
    "a splitter that returns nothing": lambda: text(splitter=lambda _: None),
    "a splitter that returns fractions": lambda: text(splitter=lambda _: [0.5]),
    "meta is text": lambda: tokens(meta="x"),
    "empty user message": lambda: messages(" ", "42"),
    "empty last message": lambda: messages("Why?", ""),
    "texts are numbers": lambda: tokens(texts=[1, 2]),
    "starts are fractions": lambda: tokens(starts=[0, 1.5]),
    "starts are truth values": lambda: tokens(starts=[False, True]),
    "steps are fractions": lambda: ss.Trace(
        tokens=torch.tensor([5, 6]), steps=(Step(0.0, 2.0, "thinking"),)
    ),
    "step from a truth value": lambda: Step(0, True, "thinking"),
    "layers True": lambda: maps(layers=[True]),
    "layers 0.0": lambda: maps(layers=[0.0]),
    "layers as text": lambda: maps(layers="01"),
    **{
        f"heads {heads}": lambda heads=heads: ss.intervene.HeadScale(heads, 0.0)
        for heads in ((0, 1), [(0, 1.7)], [(0, 1, 2)], {0: 1}, {0: [1.5]}, ["L0"])
    },
    "layers as a number": lambda: maps(layers=1),
    "no layers": lambda: maps(layers=[]),
    "keep of no path": lambda: maps(keep="foo"),
    "keep by hooks": lambda: maps(method="hooks", keep="inputs"),
    "offload by hooks": lambda: maps(method="hooks", offload=True),
    "objective is a class": lambda: maps(objective=ss.LogitDiff),
    "layer of a result is a truth value": lambda: saliency.layer(True),
    "answer of several traces": lambda: maps(trace=[trace, trace], objective="answer", answer=[3]),
    "answer as a number": lambda: maps(objective="answer", answer=5),
    "answer tokens as a number": lambda: maps(objective="logit_diff", answer_tokens=5),
    **{
        f"LogitDiff {options}": lambda options=options: maps(
            objective=ss.LogitDiff(**{"correct": 5, **options})
        )
        for options in (
            {"correct": -1},
            {"correct": 10**6},
            {"correct": 2.5},
            {"correct": True},
            {"wrong": -1},
            {"wrong": 10**6},
            {"position": 1.5},
            {"position": 10**6},
        )
    },
    **{
        f"estimate with {options}": lambda options=options: ss.estimate(
            model, **{"n_tokens": 100, **options}
        )
        for options in (
            {"n_tokens": 0},
            {"n_tokens": True},
            {"n_tokens": 10.5},
            {"n_tokens": "100"},
            {"n_tokens": []},
            {"n_tokens": [5, -1]},
            {"n_tokens": torch.tensor(10.5)},
            {"keep": "foo"},
            {"objective": "foo"},
            {"objective": ["next_token"]},
            {"layers": []},
            {"layers": [99]},
            {"layers": 1},
        )
    },
    "no traces": lambda: maps(trace=[]),
    "tokens of another model": lambda: maps(trace=beyond),
    "answer without use": lambda: maps(answer=[3]),
    "answer tokens without use": lambda: maps(answer_tokens=(3, 4)),
    "answer tokens of another objective": lambda: maps(objective="answer", answer_tokens=(3, 4)),
    "answer of a function": lambda: maps(objective=lambda x, _: x.sum(), answer=[3]),
    "answer at 0": lambda: maps(objective="logit_diff", answer=[0]),
    "answer below 0": lambda: maps(objective="logit_diff", answer=[-1]),
    "answer is a fraction": lambda: maps(objective="answer", answer=[2.5]),
    "answer is empty": lambda: maps(objective="answer", answer=[]),
    "negative answer token": lambda: maps(objective="logit_diff", answer_tokens=(-1, 3)),
    "same answer tokens": lambda: maps(objective="logit_diff", answer_tokens=(3, 3)),
    "three answer tokens": lambda: maps(objective="logit_diff", answer_tokens=(3, 4, 5)),
    "answer token of another model": lambda: maps(objective="logit_diff", answer_tokens=(3, 10**6)),
    **{
        f"Decoding {options}": lambda options=options: Decoding(**options)
        for options in (
            {"n": True},
            {"n": 2.5},
            {"n": "2"},
            {"temperature": NAN},
            {"temperature": float("inf")},
            {"temperature": 1e-300},
            {"temperature": True},
            {"temperature": "0.6"},
            {"top_p": NAN},
            {"top_p": True},
            {"top_k": 2.0},
            {"top_k": True},
            {"max_new_tokens": 10.0},
            {"batch_size": False},
            {"seed": 1.5},
            {"seed": None},
            {"stop_tokens": ["a"]},
            {"stop_tokens": "ab"},
            {"stop_tokens": [-1]},
            {"stop_tokens": [True]},
            {"stop_texts": [3]},
            {"system": 3},
        )
    },
    **{
        f"Draws {options}": lambda options=options: Draws(**options)
        for options in (
            {"confidence": 0},
            {"confidence": 1},
            {"confidence": 2},
            {"confidence": -1},
            {"confidence": NAN},
            {"confidence": "0.9"},
            {"n_resamples": 0},
            {"n_resamples": True},
            {"n_resamples": 10.5},
            {"n_permutations": NAN},
            {"seed": "x"},
        )
    },
    "a map of the model's tokens": lambda: maps(trace=trace.tokens),
    "a map of a problem": lambda: maps(trace=problem),
    "a map of text": lambda: maps(trace="What is 3 + 4?"),
    "a map with model and trace swapped": lambda: ss.step_saliency(trace, model),
    "a map of a model's name": lambda: ss.step_saliency("reasoner", trace),
    "a token map of a model's name": lambda: ss.token_map("reasoner", trace, layer=0),
    "a token map of a list": lambda: ss.token_map(model, [trace], layer=0),
    "a model in place of a token map": lambda: saliency.plot_tokens(model, 0),
    "a head as text": lambda: by_head.plot(0, head="1"),
    "a step as text": lambda: saliency.view_step("1"),
    **{
        f"a picture with {options}": lambda options=options: saliency.plot(**options)
        for options in ({"vmin": 0}, {"vmin": 1, "vmax": 0.1}, {"vmin": NAN}, {"vmax": "1"})
    },
    "traces saved in place of the path": lambda: ss.save_jsonl([trace], "x.jsonl"),
    "one trace saved": lambda: ss.save_jsonl("x.jsonl", trace),
    "means over one trace": lambda: ss.mean_head_outputs(model, trace, progress=False),
    "momentum of one trace": lambda: ss.momentum_bank(model, trace, layers=[0], progress=False),
    "a vote of one trace": lambda: ss.vote(trace),
    "a trace by a model": lambda: problem.trace(model),
    "a trace of a number": lambda: problem.trace(tokenizer, 3),
    "a model in place of its name": lambda: ss.load_model(model),
    "model name is a number": lambda: ss.load_model(3),
    "model name is bytes": lambda: ss.load_model(b"reasoner"),
    "generate with n True": lambda: ss.generate(model, ["Why?"], n=True),
    "StepFlow of numbers": lambda: ss.StepFlow(1, 2),
    "StepFlow with the halves swapped": lambda: ss.StepFlow(
        oeb=ss.StepMomentumInjection([1]), smi=ss.OddsEqualBridge([0])
    ),
    "OEB layers are fractions": lambda: ss.OddsEqualBridge([0.5]),
    "OEB layers are truth values": lambda: ss.OddsEqualBridge([True]),
    "SMI layers are text": lambda: ss.StepMomentumInjection("01"),
    "OEB layers are a number": lambda: ss.OddsEqualBridge(0),
    "OEB heads are names": lambda: ss.OddsEqualBridge([0], heads=["L0H1"]),
    "OEB heads by layer are no lists": lambda: ss.OddsEqualBridge([0], heads={0: 1}),
    "OEB heads are fractions": lambda: ss.OddsEqualBridge([0], heads=[0.5]),
    "OEB bridge is a number": lambda: ss.OddsEqualBridge([0], bridge=2),
    "OEB bridge is fractions": lambda: ss.OddsEqualBridge([0], bridge=[0.5]),
    "OEB seed is text": lambda: ss.OddsEqualBridge([0], placebo="random", seed="a"),
    "tau is text": lambda: ss.OddsEqualBridge([0], tau_max="0.15"),
    "tau by layer is text": lambda: ss.OddsEqualBridge([0], tau_max={0: "a"}),
    "alpha is a truth value": lambda: ss.StepMomentumInjection([0], alpha=True),
    "window is a fraction": lambda: ss.StepMomentumInjection([0], window=2.5),
    "SMI seed is None": lambda: ss.StepMomentumInjection([0], seed=None),
    "bank is a number": lambda: ss.StepMomentumInjection([0], momentum="other", bank=5),
    "factor NaN": lambda: HeadScale(["L0H0"], NAN),
    "factor is text": lambda: HeadScale(["L0H0"], "0"),
    "factor of another layer": lambda: HeadScale(["L0H0"], {0: 0.0, 5: 1.0}),
    "heads are a number": lambda: HeadScale(0, 0.0),
    "regions are a number": lambda: HeadScale(["L0H0"], 0.0, regions=1),
    "query steps are a number": lambda: HeadScale(["L0H0"], 0.0, steps=1),
    "query steps are fractions": lambda: HeadScale(["L0H0"], 0.0, steps=[0.5]),
    "means are none": lambda: HeadMean(["L0H0"], None),
    "redirected to a number": lambda: HeadRedirect(["L0H0"], to=1),
    "mass is text": lambda: HeadRedirect(["L0H0"], to=[1], mass="1"),
    "projection NaN": lambda: ValueProjection([0], strength=NAN),
    "projection of another layer": lambda: ValueProjection([0], strength={1: -1.0}),
    "rank is a fraction": lambda: ValueProjection([0], rank=1.5),
    "a group of numbers": lambda: ss.EditGroup([5]),
    "a seed that is text": lambda: flow.placebo("bridge", "a"),
    "a placebo's traces are one trace": lambda: flow.placebo("bridge", model=model, traces=trace),
    "draws are text": lambda: flow.placebos("bridge", "a"),
    "depth is text": lambda: flow.placebo("layers", n_layers="a"),
    "StepFlow for no model": lambda: ss.StepFlow.for_model(None),
    "StepFlow with named bands": lambda: ss.StepFlow.for_model(model, bands="quarter"),
    "alpha of another layer": lambda: ss.StepMomentumInjection([1], alpha={0: 0.1}),
    "tau of another layer": lambda: ss.OddsEqualBridge([0], tau_max={1: 0.1}),
    **{
        f"attached with {options}": lambda options=options: flow.attached(model, **options)
        for options in (
            {"trace": "x"},
            {"trace": [trace]},
            {"traces": []},
            {"traces": "xy"},
            {"traces": [trace, None]},
            {"traces": trace},
            {"trace": trace, "traces": [trace]},
            {"n_prompt": -1},
            {"n_prompt": True},
            {"n_prompt": 1.5},
            {"n_prompt": "3"},
            {"n_prompt": []},
            {"n_prompt": [3, -1]},
        )
    },
    **{
        f"generate with {name}": lambda options=options: ss.generate(
            model, **{"questions": ["Why?"], "max_new_tokens": 2, "progress": False, **options}
        )
        for name, options in {
            "an object of questions": {"questions": {"a": "Why?"}},
            "a set of questions": {"questions": {"Why?"}},
            "a generator of questions": {"questions": (text for text in ["Why?"])},
            "a number of questions": {"questions": 3},
            "no number of a question": {"question_numbers": [True]},
            "half a number": {"question_numbers": [0.5]},
            "a negative number": {"question_numbers": [-1]},
            "no flow": {"flow": "x"},
            "no effects": {"effects": 3},
        }.items()
    },
    **{
        f"calibrate with {options}": lambda options=options: ss.calibrate(
            model,
            [{"question": q, "answer": "1"} for q in ("a?", "b?")],
            **{"n_folds": 2, "max_new_tokens": 2, "progress": False, **options},
        )
        for options in (
            {"n_folds": 2.5},
            {"n_folds": True},
            {"n_label_free": -1},
            {"n_label_free": 2.0},
            {"taus": [NAN]},
            {"taus": [True]},
            {"bands": {"x": [0, 1]}},
            {"bands": ["a"]},
            {"alphas": [NAN]},
        )
    },
    **{
        f"calibrate to the gold answer {gold!r}": lambda gold=gold: ss.calibrate(
            model, [{"question": q, "answer": gold} for q in ("a?", "b?")], n_folds=2
        )
        for gold in ("", "?!", [3], {}, True)
    },
    **{
        f"diagnose with {name}": lambda options=options: ss.diagnose(
            options.pop("sal", saliency), **options
        )
        for name, options in {
            "other pairs": {"pairs": "some"},
            "no map": {"sal": None},
            "several maps": {"sal": [saliency]},
            "bands as a number": {"bands": 3},
            "a layer in place of a band": {"bands": {"shallow": 0}},
            "a truth value in a band": {"bands": {"shallow": [True]}},
            "half a layer": {"bands": {"deep": [0.0]}},
        }.items()
    },
    **{
        f"a grade of {response!r}": lambda response=response: problem.grade(response)
        for response in (None, 3, b"x", ["x"])
    },
    "a graph of nothing": lambda: problem.graph_of(None),
    "the answer of a number": lambda: final_answer(14),
    **{
        f"right by {gold!r}": lambda gold=gold: is_correct("14", gold)
        for gold in (None, True, "", NAN, "nan", [14], b"14", 14j, np.array([14]))
    },
    **{
        f"problems with {options}": lambda options=options: make_problems(**options)
        for options in ({"n": 1.5}, {"n": "2"}, {"n": True}, {"seed": None}, {"level": 3})
    },
    "an error of no kind": lambda: problem.corrupt("typo"),
    "compare one diagnosis": lambda: ss.compare(ss.diagnose(saliency)),
    "compare maps": lambda: ss.compare([saliency, saliency]),
    "compare within less than nothing": lambda: ss.compare([], caliper=-1),
    "compare within NaN": lambda: ss.compare([], caliper=NAN),
    "alpha NaN": lambda: ss.StepMomentumInjection([1], alpha=NAN),
    "alpha of a layer that the model lacks": lambda: (
        ss.StepMomentumInjection([7], alpha={7: 0.1}).attached(model).__enter__()
    ),
}


PLAIN = {
    "n_tokens": ss.estimate(model, 100, available_bytes=2**30).n_tokens,
    "lengths": ss.estimate(model, [100, 50], available_bytes=2**30).n_traces,
    "layers": maps(layers=[1]).layers,
    "answer": maps(objective="answer", answer=[5, 6]).maps.tolist(),
    "answer_tokens": maps(objective="logit_diff", answer_tokens=(5, 6)).maps.tolist(),
    "LogitDiff": maps(objective=ss.LogitDiff(5, 6, position=7)).maps.tolist(),
    "colours": saliency.plot(vmin=5, vmax=6).axes[0].images[0].get_clim(),
    "head": by_head.plot(0, head=1).axes[0].get_title(loc="left"),
    "heads": dict(HeadScale([(5, 6)], 0.0).heads),
    "heads by layer": dict(HeadScale({5: [6]}, 0.0).heads),
}


def with_numbers_of(whole: Callable[[int], Any]) -> dict[str, Any]:
    """The values of `PLAIN`, asked for by whole numbers of another library."""
    five, six, seven = whole(5), whole(6), whole(7)
    return {
        "n_tokens": ss.estimate(model, whole(100), available_bytes=2**30).n_tokens,
        "lengths": ss.estimate(model, [whole(100), whole(50)], available_bytes=2**30).n_traces,
        "layers": maps(layers=[whole(1)]).layers,
        "answer": maps(objective="answer", answer=[five, six]).maps.tolist(),
        "answer_tokens": maps(objective="logit_diff", answer_tokens=(five, six)).maps.tolist(),
        "LogitDiff": maps(objective=ss.LogitDiff(five, six, position=seven)).maps.tolist(),
        "colours": saliency.plot(vmin=five, vmax=six).axes[0].images[0].get_clim(),
        "head": by_head.plot(0, head=whole(1)).axes[0].get_title(loc="left"),
        "heads": dict(HeadScale(whole([[5, 6]]), 0.0).heads),
        "heads by layer": dict(HeadScale({5: whole([6])}, 0.0).heads),
    }


def outcome(call: Callable[[], Any]) -> str:
    try:
        return f"returned {call()!r:.80}"
    except ValueError as error:
        return "" if "\n" not in str(error) else f"two lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    outcomes = {name: outcome(call) for name, call in TRIES.items()}
    for whole in (np.int64, torch.tensor):
        others = with_numbers_of(whole)
        outcomes |= {
            f"{name} as {whole.__name__}": f"{others[name]!r:.80}"
            for name in PLAIN
            if repr(others[name]) != repr(PLAIN[name])
        }
    json.dump({name: got for name, got in outcomes.items() if got}, sys.stdout, indent=1)
