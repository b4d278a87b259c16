"""Which claims of the method hold here? The page `results/FINDINGS.md`, made from its tables.

    python -m analyses.findings            # writes results/FINDINGS.md; needs no model

Every number on the page, in its tables and in its prose, is read when the page is written: an
estimate with its 95% interval, the number of problems, and the p-value where one was tested. The
words beside the numbers are written by hand in ``templates/claims``, for the results that are there
now: run an analysis anew, and read them again. What is missing says so.

When it misleads: a small model of one task. An interval around zero that is narrow says that an
effect is small here, not that it is small elsewhere.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from analyses.findings import depth, facts, wording
from analyses.findings.sources import SOURCES
from analyses.findings.tables import NotRunError, Results
from step_saliency.options import Draws
from step_saliency.storage.files import write_text

ROOT = Path(__file__).parents[2]
TEMPLATES = Path(__file__).parent / "templates"
SUFFIXES = {"reasoner": "", "reporter": "_reporter", "smollm2": "_smollm2", "qwen": "_qwen"}

Role = Literal["estimate", "control"]


@dataclass(frozen=True)
class Claim:
    """A claim, as a template of this name states it.

    Attributes:
        name: Of the template.
        model: On which model; `SUFFIXES` has them.
        of_paper: Whether the paper makes it, or this project asks it.
    """

    name: str
    model: str = "reasoner"
    of_paper: bool = False


CLAIMS = (
    Claim("shallow_lock_in", of_paper=True),
    Claim("deep_decay", of_paper=True),
    Claim("summary_looks", of_paper=True),
    Claim("oeb", of_paper=True),
    Claim("smi", of_paper=True),
    Claim("both_edits", of_paper=True),
    Claim("quarter_bands", of_paper=True),
    Claim("propagation_errors", of_paper=True),
    Claim("compute", of_paper=True),
    Claim("mended_pattern", of_paper=True),
    Claim("rivals", of_paper=True),
    Claim("hard_problems", of_paper=True),
    Claim("planted_lock_in"),
    Claim("few_heads"),
    Claim("cut_edges"),
    Claim("premises"),
    Claim("premise_paths"),
    Claim("other_texts"),
    Claim("reporter_edits", "reporter"),
    Claim("reporter_decay", "reporter"),
    Claim("reporter_lock_in", "reporter"),
    Claim("reporter_heads", "reporter"),
    Claim("reporter_pattern", "reporter"),
    Claim("reporter_compute", "reporter"),
    Claim("smollm2_edits", "smollm2"),
    Claim("smollm2_cut_edges", "smollm2"),
    Claim("smollm2_premise_paths", "smollm2"),
    Claim("qwen_edits", "qwen"),
    Claim("qwen_compute", "qwen"),
    Claim("qwen_pattern", "qwen"),
    Claim("qwen_cut_edges", "qwen"),
)


def environment() -> Environment:
    """Templates with their filters; a name that they do not know is an error."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    templates.filters |= wording.FILTERS | depth.FILTERS
    return templates


def render(results: Path) -> str:
    """The page.

    Args:
        results: Folder of results folders.
    """
    templates = environment()
    context = {
        "claims": [section(templates, claim, results) for claim in CLAIMS],
        "of_paper": _numbers(lambda claim: claim.of_paper),
        "of_model": {
            model: _numbers(lambda claim, model=model: claim.model == model and not claim.of_paper)
            for model in SUFFIXES
        },
        "confidence": Draws().confidence,
        "paper": facts.PAPER,
    }
    return templates.get_template("findings.md.jinja").render(context)


def _numbers(which: Callable[..., bool]) -> str:
    """Numbers of the claims on the page, such as "1 to 12"."""
    return wording.layers(n for n, claim in enumerate(CLAIMS, 1) if which(claim))


def section(templates: Environment, claim: Claim, results: Path) -> dict[str, str]:
    """The texts of a claim: ``claim, verdict, finding, measured, carries, model``."""
    template = templates.get_template(f"claims/{claim.name}.md.jinja")
    values = claim_context(Results(results, SUFFIXES[claim.model]))
    texts = {name: _block(template, name, values) for name in ("claim", "finding", "carries")}
    texts = {name: " ".join(text.split()) for name, text in texts.items()}
    model = templates.get_template(f"models/{claim.model}.md.jinja").render(values)
    lines = _block(template, "measured", values).splitlines()
    measured = "\n".join(line for line in lines if line)
    return {**texts, "measured": measured, "verdict": _verdict(texts["finding"]), "model": model}


def claim_context(results: Results) -> dict[str, Any]:
    """What the template of a claim can name."""
    return {
        "estimate": _line_writer(results, "estimate"),
        "control": _line_writer(results, "control"),
        "row": lambda source, **where: results.row(SOURCES[source], **where),
        "curve": lambda source, **where: results.curve(SOURCES[source], **where),
        "known": lambda source, **where: results.has(SOURCES[source], **where),
        "settings": results.settings,
        "paper": facts.PAPER,
        "qwen": facts.QWEN,
        "strong": facts.STRONG,
        "sampling_temperature": facts.SAMPLING_TEMPERATURE,
        "parameters": facts.parameters,
    }


def _line_writer(results: Results, role: Role) -> Callable[..., str]:
    def line(what: str, source: str, **where: Any) -> str:
        """One row of the page's tables; ``{column}`` in its label is read from the same row."""
        table = results.table_name(SOURCES[source])
        try:
            row = results.row(SOURCES[source], **where)
        except NotRunError:
            return f"| {wording.label(what, where)} | {role} | not run | | | `{table}` |"
        numbers = f"{wording.estimate(row)} | {row['n']} | {wording.p_value(row)}"
        return f"| {wording.label(what, row)} | {role} | {numbers} | `{table}` |"

    return line


def _block(template: Template, name: str, values: Mapping[str, Any]) -> str:
    """A block of a template, or what kept it from being written."""
    try:
        return "".join(template.blocks[name](template.new_context(dict(values))))
    except NotRunError as error:
        return f"`{error}` was not run."


def _verdict(finding: str) -> str:
    """The first words of what was found, up to a stop or colon."""
    first = re.split(r"[.:] ", finding)[0]
    return first[0].lower() + first[1:]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m analyses.findings", description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args(argv)
    page = options.results / "FINDINGS.md"
    write_text(page, render(options.results))
    print(f"wrote {page.name}: {len(CLAIMS)} claims")


if __name__ == "__main__":
    main()
