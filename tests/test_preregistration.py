"""What the preregistration says of the pilot is what the pilot's tables say."""

import re
from pathlib import Path

import pandas as pd
import pytest

RESULTS = Path(__file__).parents[1] / "results"
TEXT = " ".join((RESULTS / "preregistration_qwen.md").read_text(encoding="utf-8").split())
CONDITIONS = ("baseline", "oeb", "smi", "both")


def table(name: str) -> pd.DataFrame:
    return pd.read_parquet(RESULTS / "pilot_qwen" / f"{name}.parquet")


@pytest.mark.parametrize(
    ("row", "outcomes", "digits"),
    [
        ("right", ("is_correct",), 1),
        ("answers that flip", ("flips",), 1),
        ("cut off", ("is_cut",), 1),
        ("tokens", ("n_tokens",), 0),
        ("thinking / summary steps", ("n_thinking", "n_summary"), 1),
    ],
)
def test_rows_of_the_table(row: str, outcomes: tuple[str, ...], digits: int) -> None:
    means = table("summary").set_index(["outcome", "condition"])["estimate"]
    scale = 100 if outcomes[0] in ("is_correct", "flips", "is_cut") else 1
    expected = [
        round(scale * means[outcome, condition], digits)
        for condition in CONDITIONS
        for outcome in outcomes
        if (outcome, condition) in means.index
    ]
    found = re.search(rf"\| {row} \|([^a-z]*)\|", TEXT)
    assert found is not None
    assert [float(number) for number in re.findall(r"[\d.]+", found[1])] == pytest.approx(expected)


def test_doses_power_and_rules() -> None:
    doses, masses = table("doses").set_index(["condition", "half"]), table("masses")
    bridge = doses.loc[("oeb", "OddsEqualBridge")]
    share = bridge["rows_shifted"] / bridge["rows_seen"]
    capped = bridge["infeasible"] / bridge["rows_seen"]
    rules = table("rules").iloc[0]
    alphas = table("strengths")["alpha"].iloc[1:]
    gains = table("power").set_index("flips_of")["smallest_gain"] * 100
    momentum = doses.loc[("smi", "StepMomentumInjection"), "injected_norm"]
    thinking = masses[masses["region"] == "thinking"].set_index("layer")["other"].loc[0:5]
    for words in (
        f"moves {share:.0%} of the rows that it sees ({capped:.0%} infeasible)",
        f"mean KL {bridge['kl']:.2f} nats, total variation {bridge['total_variation']:.2f}",
        f"goes from {bridge['mass_before']:.3f} to {bridge['mass_after']:.3f}",
        f"alpha 0.06 adds {momentum:.1%} of the residual's norm",
        "would take alpha {:.2f} and {:.2f}".format(*alphas),
        f"name the same step in {rules['same']:.0%} of {rules['n_answers']:.0f} wrong answers",
        f"one within a step in {rules['within_one']:.0%}",
        "{:.1f}, {:.1f}, {:.1f}, {:.1f} points".format(*gains[["5%", "10%", "20%", "30%"]]),
        f"({gains['oeb']:.1f} at the flip rate of OEB in the pilot, {gains['both']:.1f} at that of",
        "is {:.2f}, {:.2f}, {:.2f}, {:.2f}, {:.2f} and {:.2f}, so".format(*thinking),
    ):
        assert words in TEXT
