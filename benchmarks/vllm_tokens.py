"""Does a vLLM engine write what the fast loop writes, and are requests without a flow left alone?

Question: over some prompts, decoded greedily,

    equal     responses under a flow that are those of `ss.generate(method="fast")`, token for token
    parted    the others; they may part only where rounding decides. The largest difference between
              the logits of the two tokens at that place is given, by the TransformerLens object
              under the same flow
    beside    requests without a flow in the same batch, whose tokens and log-probabilities are
              those of an engine that does not know StepFlow (a process of its own, with
              ``VLLM_PLUGINS`` empty), to the bit. Both engines get as many requests of as many
              tokens, so that their kernels run over equal shapes

Each step (``plain``, ``engine-oeb``, ``loop-oeb``, and so on) is a process of its own that leaves a
file in ``--work``; steps whose files are there are not run again, so that a run that was broken off
goes on. Flows are stronger than by default, so that they change what is written.
Writes ``<out>/<name>-vllm-tokens.md``.

    .venv-vllm/bin/python benchmarks/vllm_tokens.py --work FOLDER
    .venv-vllm/bin/python benchmarks/vllm_tokens.py --model FOLDER --name smollm2-135m-instruct \\
        --questions gsm8k_test.jsonl --work FOLDER

When it misleads: prefix caching is off (cached prefixes change the shapes that kernels run over).
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mixed_lengths import questions
from vllm_engine import engine, folder_of, model_parser, processor

import step_saliency as ss
from step_saliency.segment.build import prompt_tokens
from step_saliency.storage.files import write_text
from step_saliency.vllm import KEY, FlowOptions

ROOT = Path(__file__).parents[1]
KINDS = ("oeb", "smi", "stepflow")


@dataclass(frozen=True)
class Written:
    """What a step wrote.

    Attributes:
        tokens: Of each request.
        logprobs: Log-probability of each of them; none from the loop.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]

    @classmethod
    def of(cls, place: Path) -> "Written":
        return cls(**json.loads(place.read_text()))


def options_of(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """A flow as requests ask for it."""
    return {"flow": kind, "tau_max": args.tau_max, "alpha": args.alpha}


def by_engine(args: argparse.Namespace, kind: str) -> Written:
    """Requests under a flow, and those without one in the same batch."""
    llm = engine(folder_of(args.model), args, enable_prefix_caching=False)
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()
    prompts = [prompt_tokens(tokenizer, text) for text in questions(args)]
    kinds = ["off" if kind == "plain" else kind] * len(prompts) + ["off"] * args.beside
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=args.tokens,
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
            extra_args=None if each == "off" else {KEY: options_of(args, each)},
        )
        for each in kinds
    ]
    asked = [{"prompt_token_ids": ids} for ids in prompts + prompts[: args.beside]]
    outputs = [output.outputs[0] for output in llm.generate(asked, params, use_tqdm=False)]
    knows = "step_saliency.vllm.plugin" in sys.modules
    assert knows == (kind != "plain"), "the engine without StepFlow has it, or the other has not"
    tokens = [list(output.token_ids) for output in outputs]
    logprobs = [
        [known[token].logprob for token, known in zip(ids, output.logprobs, strict=True)]
        for ids, output in zip(tokens, outputs, strict=True)
    ]
    return Written(tokens, logprobs)


def by_loop(args: argparse.Namespace, kind: str) -> Written:
    """Responses by the fast loop."""
    model = ss.load_model(args.model)
    traces = ss.generate(
        model,
        questions(args),
        flow=FlowOptions.of(options_of(args, kind)).for_depth(model.cfg.n_layers),
        method="fast",
        temperature=0,
        max_new_tokens=args.tokens,
        batch_size=args.batch,
        progress=False,
    )
    tokens = [t.tokens.tolist()[-t.meta["response_tokens"] :] for t in traces]
    return Written(tokens, [])


def run(args: argparse.Namespace, step: str) -> None:
    """One step, in this process."""
    where, _, kind = step.partition("-")
    written = by_loop(args, kind) if where == "loop" else by_engine(args, kind or where)
    write_text(args.work / f"{step}.json", json.dumps(asdict(written)))


def run_all(args: argparse.Namespace) -> None:
    """The steps whose files are not there, each in a process of its own."""
    args.work.mkdir(parents=True, exist_ok=True)
    steps = ["plain", *(f"{where}-{kind}" for kind in args.kinds for where in ("loop", "engine"))]
    for step in steps:
        if not (args.work / f"{step}.json").exists():
            print(step, flush=True)
            plugins = {"VLLM_PLUGINS": "" if step == "plain" else "stepflow"}
            command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
            subprocess.run(command, check=True, env={**os.environ, **plugins})


def parted(got: Sequence[int], want: Sequence[int]) -> int | None:
    """Where a response parts from another; None if it goes on as that one does."""
    pairs = enumerate(zip(got, want, strict=False))
    return next((place for place, (a, b) in pairs if a != b), None)


def gap(model: Any, flow: ss.StepFlow, tokens: Sequence[int], pair: Sequence[int]) -> float:
    """Difference of two tokens' logits after some others."""
    with torch.no_grad(), flow.attached(model):
        logits = model(torch.tensor([tokens]))[0, -1]
    return abs(float(logits[pair[0]] - logits[pair[1]]))


def compared(args: argparse.Namespace, model: Any, kind: str) -> str:
    """A row of the table."""
    engine_, loop, plain = (
        Written.of(args.work / f"{step}.json")
        for step in (f"engine-{kind}", f"loop-{kind}", "plain")
    )
    flow = FlowOptions.of(options_of(args, kind)).for_depth(model.cfg.n_layers)
    assert flow is not None
    gaps, changed = [], 0
    for number, (text, want) in enumerate(zip(questions(args), loop.tokens, strict=True)):
        got = engine_.tokens[number]
        changed += got != plain.tokens[number]
        at = parted(got, want)
        if at is not None:
            known = prompt_tokens(model.tokenizer, text) + want[:at]
            gaps.append(gap(model, flow, known, (got[at], want[at])))
    n = len(loop.tokens)
    same = sum(
        engine_.tokens[place] == plain.tokens[place]
        and engine_.logprobs[place] == plain.logprobs[place]
        for place in range(n, len(plain.tokens))
    )
    largest = f"{max(gaps):.1e}" if gaps else "-"
    beside = len(plain.tokens) - n
    parts = (kind, n, changed, n - len(gaps), len(gaps), largest, f"{same} of {beside}")
    return f"| {' | '.join(map(str, parts))} |"


def report(args: argparse.Namespace) -> None:
    """Print and write the table."""
    model = ss.load_model(args.model)
    lines = [
        f"# Greedy tokens inside vLLM and by the fast loop, {args.name or Path(args.model).name}",
        "",
        f"{args.count} prompts of up to {args.tokens} tokens, tau_max {args.tau_max}, alpha "
        f"{args.alpha}, float32, {processor()}. Changed: "
        "responses that the flow changes. Parted: responses that are not those of the fast loop; "
        "gap: the largest difference between the logits of the two tokens where they part. Beside: "
        "requests without a flow in the same batch that are, tokens and log-probabilities, those "
        "of an engine that does not know StepFlow, to the bit.",
        "",
        "| flow | responses | changed | equal | parted | gap | beside |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(compared(args, model, kind) for kind in args.kinds),
    ]
    name = f"{args.name or Path(args.model).name}-vllm-tokens.md"
    write_text(args.out / name, "\n".join(lines) + "\n")
    print("\n".join(lines))


def parse_arguments() -> argparse.Namespace:
    parser = model_parser(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--count", type=int, default=64, help="prompts")
    parser.add_argument("--beside", type=int, default=16, help="requests without a flow")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--tau-max", type=float, default=0.3, help="of the bridge")
    parser.add_argument("--alpha", type=float, default=0.3, help="of momentum")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--work", type=Path, required=True, help="folder for what steps leave")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch, args.dtype = args.count + args.beside, "float32"
    return args


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    if args.step:
        run(args, args.step)
    else:
        run_all(args)
        report(args)


if __name__ == "__main__":
    main()
