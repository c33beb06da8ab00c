"""Reading JSON that someone may have altered: every value is of the kind that it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_Number = (int, float)

# Whatever is counted is far shorter, and what is computed of such numbers still fits into a float.
_MOST_BITS = 256


class Fields:
    """A JSON object being read; `where` is its place in the manifest, for messages.

    Every method raises ValueError if the key is missing or its value is of another kind.
    """

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, dict):
            raise ValueError(f"{where} is not an object")
        self.content = cast(dict[str, Any], content)
        self.where = where

    def place(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def _take(self, key: str, *kinds: type) -> Any:
        if key not in self.content:
            raise ValueError(f"{self.place(key)} is missing")
        value = self.content[key]
        # In Python a truth value is an integer too; in a manifest it is not.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{self.place(key)} is {json.dumps(value)[:40]}")
        return value

    def text(self, key: str) -> str:
        return cast(str, self._take(key, str))

    def optional_text(self, key: str) -> str | None:
        return cast("str | None", self._take(key, str, type(None)))

    def integer(self, key: str) -> int:
        return cast(int, _bounded(self._take(key, int), self.place(key)))

    def count(self, key: str) -> int:
        """An integer from 1 on."""
        count = self.integer(key)
        if count < 1:
            raise ValueError(f"{self.place(key)} is {count}")
        return count

    def optional_integer(self, key: str) -> int | None:
        return cast("int | None", _bounded(self.optional_seed(key), self.place(key)))

    def optional_seed(self, key: str) -> int | None:
        """An integer of any size."""
        return cast("int | None", self._take(key, int, type(None)))

    def number(self, key: str) -> float:
        return self._finite(key, self._take(key, *_Number))

    def optional_number(self, key: str) -> float | None:
        value = self._take(key, *_Number, type(None))
        return None if value is None else self._finite(key, value)

    def _finite(self, key: str, value: float) -> float:
        _bounded(value, self.place(key))
        if not math.isfinite(value):  # which JSON has no word for, but Python reads
            raise ValueError(f"{self.place(key)} is {value}")
        return float(value)

    def truth(self, key: str) -> bool:
        return cast(bool, self._take(key, bool))

    def optional_truth(self, key: str) -> bool | None:
        return cast("bool | None", self._take(key, bool, type(None)))

    def object(self, key: str) -> Fields:
        return Fields(self._take(key, dict), self.place(key))

    def optional(self, key: str, read: Callable[[Fields], _T]) -> _T | None:
        return None if self._take(key, dict, type(None)) is None else read(self.object(key))

    def listing(self, key: str, read: Callable[[Fields], _T]) -> tuple[_T, ...]:
        items = self._take(key, list)
        return tuple(read(Fields(item, f"{self.place(key)}[{i}]")) for i, item in enumerate(items))

    def texts(self, key: str) -> tuple[str, ...]:
        return self._all(key, str)

    def integers(self, key: str) -> tuple[int, ...]:
        return self._all(key, int)

    def numbers(self, key: str) -> tuple[float, ...]:
        return tuple(self._finite(key, value) for value in self._all(key, *_Number))

    def text_map(self, key: str) -> dict[str, str]:
        fields = self.object(key)
        return {name: fields.text(name) for name in fields.content}

    def _all(self, key: str, *kinds: type) -> tuple[Any, ...]:
        items = self._take(key, list)
        for i, item in enumerate(items):
            if not isinstance(item, kinds) or isinstance(item, bool):
                raise ValueError(f"{self.place(key)}[{i}] is {json.dumps(item)[:40]}")
            _bounded(item, f"{self.place(key)}[{i}]")
        return tuple(items)


def _bounded(value: Any, where: str) -> Any:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError(f"{where} is an integer of {value.bit_length()} bits")
    return value
