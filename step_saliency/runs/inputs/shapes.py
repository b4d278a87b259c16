"""Types of what stands in a row, checked by pydantic; messages name the field and what came."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

MUST = {
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "int_type": "must be a whole number",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "missing": "is missing",
}


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise PydanticCustomError(
            "half_character", "holds half a character (a lone surrogate, {code})", {"code": code}
        ) from None
    return text


Text = Annotated[str, AfterValidator(_whole)]
"""Text that can be written: no lone surrogate."""


class Shape(BaseModel):
    """What an object has to look like; fields that are not named are free."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


ShapeType = TypeVar("ShapeType", bound=Shape)


class _One(Shape):
    value: Text


def checked(shape: type[ShapeType], data: object, *, name: str = "") -> ShapeType:
    """An object by its shape.

    Args:
        shape: What it has to look like.
        data: What came.
        name: Field that it stands in, for messages.

    Raises:
        ValueError: it looks otherwise; says which field, what came and what would be right.
    """
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise ValueError(_explain(error.errors()[0], name)) from None


def checked_text(value: object, name: str) -> str:
    """Text as it is.

    Raises:
        ValueError: the field holds something else.
    """
    try:
        return _One.model_validate({"value": value}).value
    except ValidationError as error:
        details = error.errors()[0]
        raise ValueError(_explain({**details, "loc": ()}, name)) from None


def _explain(details: ErrorDetails, name: str) -> str:
    place = ".".join(filter(None, [name, *map(str, details["loc"])])) or "the row"
    what = MUST.get(details["type"], details["msg"])
    if details["type"] in ("missing", "half_character"):
        return f"{place} {what}"
    return f"{place} {what}, got {described(details['input'])}"


def described(value: object) -> str:
    """What a value is, in a few words."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {_short(value)}"
        case str():
            return f"the text {value[:40]!r}"
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            names = ", ".join(str(name)[:30] for name in list(value)[:5])
            return f"an object with {names}" if names else "an empty object"
    return f"a value of type {type(value).__name__}"


def _short(value: int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) or abs(value) < 10**15 else "beyond 10^15"


def scalar_text(value: Any) -> str | None:
    """A text or number as text; None for anything else, NaN included."""
    if isinstance(value, str):
        return value if value.isascii() or _encodes(value) else None
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return str(value) if is_number and value == value else None


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
