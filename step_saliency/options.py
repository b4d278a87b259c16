"""Names that options take: literal types for readers and type checkers, text at run time.

A wrong name is to meet the ValueError of the function that it is given to, which says what would be
right, also where annotations are checked at run time.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

PoolName = Literal["mean", "mass", "block_mean", "sum"]
RowsName = Literal["query", "target"]
MethodName = Literal["auto", "hooks", "streaming"]
QuantityName = Literal["saliency", "attention", "gradient"]
ObjectiveLiteral = Literal["next_token", "log_odds", "sequence", "answer", "logit_diff"]

POOLS: tuple[str, ...] = get_args(PoolName)
ROWS: tuple[str, ...] = get_args(RowsName)
METHODS: tuple[str, ...] = get_args(MethodName)
QUANTITIES: tuple[str, ...] = get_args(QuantityName)
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveLiteral)

if TYPE_CHECKING:
    Pool: TypeAlias = PoolName
    Rows: TypeAlias = RowsName
    Method: TypeAlias = MethodName
    Quantity: TypeAlias = QuantityName
    ObjectiveName: TypeAlias = ObjectiveLiteral
else:
    Pool = Rows = Method = Quantity = ObjectiveName = str


def check_option(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ValueError for a value that an option does not take.

    Args:
        name: Name of the option.
        value: What was given.
        known: What would be right.
    """
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
