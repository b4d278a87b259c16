"""Is a generation that is killed and taken up again the one that an unbroken run would have been?

Question: many batched, sampled responses of the bundled reasoner, decoded with StepFlow and written
by ``ss.generate(save_to=...)``. One process is killed (SIGKILL) in the middle and another goes on
in the same file; a third writes a file of its own without a break. Then

    lost     responses that the taken-up file lacks
    twice    responses that it has more than once
    changed  responses whose tokens differ from the unbroken run's

must all be 0. The exit status says so. Both files stay in ``--out``.

    python benchmarks/durability.py                # 10,000 responses
    python benchmarks/durability.py --count 200    # a few

When it misleads: a kill loses nothing that the operating system took; a machine that loses power
may lose the last lines, which are then decoded again.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import step_saliency as ss
from step_saliency.storage.lines import read_lines

ROOT = Path(__file__).parents[1]
SAMPLES = 4


def work(path: Path, args: argparse.Namespace) -> None:
    """Write, or go on writing, the responses."""
    model = ss.load_model(args.model)
    ss.generate(
        model,
        ss.tasks.make_problems(n=-(-args.count // SAMPLES), level="easy", seed=args.seed),
        flow=ss.StepFlow.for_model(model),
        method="fast",
        n=SAMPLES,
        temperature=1.0,
        max_new_tokens=args.tokens,
        seed=args.seed,
        batch_size=args.batch,
        format="think",
        splitter="line",
        save_to=path,
        progress=False,
    )


def start(path: Path, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """A process that works on a file."""
    options = ["model", "count", "tokens", "batch", "seed"]
    arguments = [part for name in options for part in (f"--{name}", str(getattr(args, name)))]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), "--work", str(path), *arguments], env=environment
    )


def finish(path: Path, args: argparse.Namespace) -> None:
    """Let a process work to the end."""
    status = start(path, args).wait()
    if status:
        raise SystemExit(f"the process that wrote {path} ended with status {status}")


def kill_in_the_middle(path: Path, args: argparse.Namespace) -> int:
    """Start a process and kill it when half of the responses are written; how many there are."""
    process = start(path, args)
    while lines_of(path) < args.count // 2:
        if process.poll() is not None:
            raise SystemExit("the process ended before it was killed; ask for more responses")
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return lines_of(path)


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def tokens_of(path: Path) -> list[tuple[tuple[int, int], list[int]]]:
    """Question, sample and tokens of each line."""
    return [
        ((line["meta"]["question_index"], line["meta"]["sample"]), line["tokens"])
        for line in read_lines(path)
    ]


def compare(broken: Path, unbroken: Path) -> dict[str, int]:
    """How many responses were lost, written twice or changed."""
    taken_up, whole = tokens_of(broken), dict(tokens_of(unbroken))
    counts = Counter(name for name, _ in taken_up)
    return {
        "lost": len(whole.keys() - counts.keys()),
        "twice": sum(count - 1 for count in counts.values()),
        "changed": sum(tokens != whole.get(name) for name, tokens in taken_up),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="reasoner")
    parser.add_argument("--count", type=int, default=10_000, help="number of responses")
    parser.add_argument("--tokens", type=int, default=256, help="longest response")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("durability"))
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    if args.work is not None:
        work(args.work, args)
        return 0
    broken, unbroken = args.out / "broken.jsonl", args.out / "unbroken.jsonl"
    if broken.exists() or unbroken.exists():
        raise SystemExit(f"{args.out} holds an earlier run; remove it or choose another --out")
    begun = time.time()
    n_killed = kill_in_the_middle(broken, args)
    print(f"killed after {n_killed:,} responses ({time.time() - begun:.0f} s)", flush=True)
    finish(broken, args)
    print(f"taken up to {lines_of(broken):,} responses ({time.time() - begun:.0f} s)", flush=True)
    finish(unbroken, args)
    differences = compare(broken, unbroken)
    whole = dict(tokens_of(unbroken))
    print(
        f"unbroken run: {len(whole):,} responses ({time.time() - begun:.0f} s); "
        + ", ".join(f"{name} {count}" for name, count in differences.items())
    )
    return int(any(differences.values()) or len(whole) < args.count)


if __name__ == "__main__":
    sys.exit(main())
