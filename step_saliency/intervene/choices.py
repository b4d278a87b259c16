"""Names that options of edits take; `step_saliency.options` says why there are two of each."""

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

CurrentName = Literal["region", "step"]
BridgePlaceboName = Literal["random", "block", "permuted", "smooth"]
SpaceName = Literal["value", "residual"]
SourceName = Literal["value", "resid_post"]
MomentumName = Literal["step", "random", "other"]
BoundariesName = Literal["step", "random"]
BasisName = Literal["previous", "question", "thinking"]
GiversName = Literal["all", "region", "step"]
MeansByName = Literal["region", "all"]
PlaceboName = Literal[
    "bridge", "block", "permuted", "smooth", "layers", "boundaries", "direction", "other"
]
MatchName = Literal["kl", "mass"]
PaddingSideName = Literal["left", "right"]

CURRENTS: tuple[str, ...] = get_args(CurrentName)
BRIDGES = ("auto", "question", "thinking")
BRIDGE_PLACEBOS: tuple[str, ...] = get_args(BridgePlaceboName)
SPACES: tuple[str, ...] = get_args(SpaceName)
SOURCES: tuple[str, ...] = get_args(SourceName)
MOMENTA: tuple[str, ...] = get_args(MomentumName)
BOUNDARIES: tuple[str, ...] = get_args(BoundariesName)
BASES: tuple[str, ...] = get_args(BasisName)
GIVERS: tuple[str, ...] = get_args(GiversName)
MEANS_BY: tuple[str, ...] = get_args(MeansByName)
PLACEBOS: tuple[str, ...] = get_args(PlaceboName)
MATCHES: tuple[str, ...] = get_args(MatchName)
PADDING_SIDES: tuple[str, ...] = get_args(PaddingSideName)

if TYPE_CHECKING:
    Current: TypeAlias = CurrentName
    BridgePlacebo: TypeAlias = BridgePlaceboName
    Space: TypeAlias = SpaceName
    Source: TypeAlias = SourceName
    Momentum: TypeAlias = MomentumName
    Boundaries: TypeAlias = BoundariesName
    Basis: TypeAlias = BasisName
    Givers: TypeAlias = GiversName
    MeansBy: TypeAlias = MeansByName
    Placebo: TypeAlias = PlaceboName
    Match: TypeAlias = MatchName
    PaddingSide: TypeAlias = PaddingSideName
else:
    Current = BridgePlacebo = Space = Source = Momentum = Boundaries = Basis = Givers = str
    MeansBy = Placebo = Match = PaddingSide = str
