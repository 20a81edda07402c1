"""Types of values from JSON files."""

from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

# A dataclass.
T = TypeVar("T")


def from_json(kind: type[T], value: Any) -> T:
    """Return a dataclass from a JSON object; raise ValueError unless its keys and their types are right."""
    types = get_type_hints(kind)
    if not isinstance(value, dict) or value.keys() != types.keys():
        raise ValueError(f"it is not a {kind.__name__}")
    if wrong := [key for key in types if not has_type(value[key], types[key])]:
        raise ValueError(f"values of the wrong type: {', '.join(wrong)}")
    return kind(**value)


def has_type(value: Any, annotation: Any) -> bool:
    """Tell whether a value from JSON, and each item in it, has the type of an annotation."""
    if isinstance(annotation, UnionType):
        return any(has_type(value, option) for option in get_args(annotation))
    # JSON writers may leave out the fraction of a whole number.
    if annotation is float and isinstance(value, int):
        return True
    if not isinstance(value, get_origin(annotation) or annotation):
        return False
    items = value.values() if isinstance(value, dict) else value
    return all(has_type(item, kind) for kind in get_args(annotation)[-1:] for item in items)
