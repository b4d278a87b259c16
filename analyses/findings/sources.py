"""Which tables the page reads, under the names that its templates use."""

from analyses.findings.tables import Source

POINTS, MILLI = 100, 1000
_WHOLE_MODEL = {"scope": "all", "fraction": None}
_STEERED = {"reference": "baseline"}
_PREMISES = {"family": "symbols", "edge": "premise", "layer": None}
_RESID = {"direction": "denoising", "site": "resid_post", "head": None}
_EDGE = {"kind": "premise", "site": "edge", "head": None}
_DRAWS = {"estimate": "mean", "lower": "lowest", "upper": "highest", "n": "n_draws"}

SOURCES = {
    "index": Source("depth_curves/comparison", {"layer": None}),
    "index_log_odds": Source("depth_curves_log_odds/comparison", {"layer": None}),
    "before_the_error": Source("mediation/prediction"),
    "around_the_error": Source("mediation_around/summary"),
    "around_by_second_rule": Source("mediation_around/second"),
    "aggregate": Source("mediation_aggregates/summary", {"condition": "both"}),
    "aggregate_placebo": Source("mediation_aggregates/placebos", {"condition": "both"}),
    "aggregate_level": Source("mediation_aggregates/levels"),
    "accuracy": Source("ablation/summary", scale=POINTS),
    "share_right": Source("ablation/accuracy"),
    "placebo": Source("ablation/placebos", scale=POINTS),
    "dose": Source("ablation/doses"),
    "matched": Source("ablation_matched/summary", scale=POINTS),
    "matched_placebo": Source("ablation_matched/placebos", scale=POINTS),
    "matched_share": Source("ablation_matched/accuracy"),
    "matched_dose": Source("ablation_matched/doses"),
    "both_placebo": Source("ablation_both/placebos", scale=POINTS),
    "interaction": Source("ablation/contrasts", {"contrast": "interaction"}, POINTS),
    "gold_loss": Source("ablation/losses", {"outcome": "loss"}, MILLI),
    "answer_loss": Source("ablation/losses", {"outcome": "answer_loss"}, MILLI),
    "gold_loss_placebo": Source("ablation/loss_placebos", {"outcome": "loss"}, MILLI),
    "answer_loss_placebo": Source("ablation/loss_placebos", {"outcome": "answer_loss"}, MILLI),
    "format_errors": Source("error_kinds/changes", {"state": "format"}, POINTS),
    "summary_errors": Source("error_kinds/changes", {"state": "summary"}, POINTS),
    "error_rate": Source("error_kinds/rates", {"condition": "baseline", "per": "answer"}, POINTS),
    "flow": Source("error_kinds/flow", scale=POINTS),
    "reporter_flow": Source("error_kinds_reporter/flow", scale=POINTS),
    "log_odds": Source("mediation/paths", {"variable": "margin"}),
    "log_odds_contrast": Source("mediation/summary", {"outcome": "margin"}),
    "answers_placebo": Source("mediation/answers_placebos", scale=POINTS),
    "planted": Source("mediation_injection/injection_accuracy", scale=POINTS),
    "planted_errors": Source("mediation_injection/injection_kinds", scale=POINTS),
    "planted_summary_errors": Source(
        "mediation_injection/injection_kinds", {"state": "summary"}, POINTS
    ),
    "planted_summary_errors_placebo": Source(
        "mediation_injection/injection_kind_placebos", {"state": "summary"}, POINTS
    ),
    "planted_hazard": Source("mediation_injection/injection_hazards", scale=POINTS),
    "planted_placebo": Source("mediation_injection/injection_placebos", scale=POINTS),
    "decoding": Source("compute_matched/comparisons", scale=POINTS),
    "cool_decoding": Source("compute_matched_t06/comparisons", scale=POINTS),
    "warm_decoding": Source("compute_matched_t07/comparisons", scale=POINTS),
    "twice_the_votes": Source("claims/contrasts", scale=POINTS),
    "rival": Source("rivals/summary", scale=POINTS),
    "against_rival": Source("rivals/rivals", scale=POINTS),
    "rival_loss": Source("rivals/losses", {"outcome": "loss"}, MILLI),
    "reporter_rival": Source("rivals_reporter/summary", scale=POINTS),
    "reporter_against_rival": Source("rivals_reporter/rivals", scale=POINTS),
    "smollm2_rival": Source("rivals_smollm2/summary", scale=POINTS),
    "smollm2_against_rival": Source("rivals_smollm2/rivals", scale=POINTS),
    "smollm2_rival_loss": Source("rivals_smollm2/losses", {"outcome": "loss"}, MILLI),
    "whole": Source("claims/whole", scale=POINTS),
    "difficulty": Source("claims/difficulty", {"reference": "baseline"}, POINTS),
    "reporter_difficulty": Source("claims_reporter/difficulty", {"reference": "baseline"}, POINTS),
    "drawn": Source("ablation_draws/draws", {}, POINTS, _DRAWS),
    "drawn_share": Source("ablation_draws/accuracy", scale=POINTS),
    "strength": Source("ablation_strengths/summary", scale=POINTS),
    "decoding_cost": Source("compute_matched/summary", {"outcome": "tokens"}),
    "gradient_heads": Source("head_gradient/summary"),
    "steered_log_odds": Source("head_steering_transfer/summary", {**_STEERED, "outcome": "margin"}),
    "steered_against_band": Source(
        "head_steering_transfer/summary", {"reference": "band", "outcome": "margin"}
    ),
    "steered_loss": Source(
        "head_steering_transfer/summary", {**_STEERED, "outcome": "loss"}, MILLI
    ),
    "steered_accuracy": Source("head_steering_transfer/accuracy", _STEERED, POINTS),
    "cut": Source("faithfulness/summary", _WHOLE_MODEL),
    "cut_difference": Source(
        "faithfulness/differences", {"scope": "all", "reference": "attention mass"}
    ),
    "premises": Source("gold_graph/headline", {**_PREMISES, "pool": "mass"}),
    "premises_unpooled": Source("gold_graph/headline", {**_PREMISES, "pool": None}),
    "patched": Source("patching/summary", _RESID),
    "edge_cut": Source("patching/summary", _EDGE),
    "cut_up_to": Source("patching_computed/summary", {**_EDGE, "role": "direct up to"}),
    "computed": Source("patching_computed/summary", {**_RESID, "kind": "computed"}),
    "computed_cut": Source("patching_computed/summary", {**_EDGE, "kind": "computed"}),
    "text": Source("granularity/summary", {"splitter": "sentence"}),
}
