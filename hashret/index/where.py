"""Which rows a condition on their records chooses: "view = 90 and time = 'night'", read by hand and never given to SQL.

A condition compares a field (id, path, label, split) or an attribute with numbers and texts:

    view = 90        view != 90       view < 90       <=  >  >=        label = 'red car'
    time in ('day', 'night')          split not in ('train')           view is null    view is not null
    not (view = 90) and label = 'car' or "exposure time" > 0.5

and binds before or, not before both; words are read in any case. A name that is no plain word stands in double quotes, a text in
single quotes, in which '' is one quote. A number compares with values that are numbers, or texts that read as one; a text
with the text of a value, by code points. A row without the attribute meets "is null", and no other comparison.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hashret.errors import SearchError

Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Column:
    """An attribute of all rows of a segment: the distinct values, None for none, and for each row (N,) int32 which it has."""

    values: list[Any]
    codes: npt.NDArray[np.int32]


class Columns(Protocol):
    """Where columns come from."""

    def column(self, name: str) -> Column:
        """A field or an attribute of all rows."""


class Condition:
    """A condition, read."""

    def __init__(self, text: str) -> None:
        """SearchError, which says where, for a text that is no condition."""
        if not isinstance(text, str):
            raise SearchError(f'a condition is a text such as "view = 90", and this is a {type(text).__name__}')
        self.text = text
        self._chooses, self.names = _Reader(text).read()

    def mask(self, columns: Columns) -> Mask:
        """A flag a row (N,): whether the condition chooses it."""
        return self._chooses(columns)


_Chooser = Callable[[Columns], Mask]

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+")
    | (?P<number>NUMBER(?![\w.]))
    | (?P<word>[^\W\d][\w.\-]*)
    | (?P<sign><=|>=|<>|!=|==|[=<>(),])
    )""".replace("NUMBER", _NUMBER),
    re.VERBOSE,
)
_KEYWORDS = {"and", "or", "not", "in", "is", "null"}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_DEEPEST = 100
"""Brackets and nots in each other."""


@dataclasses.dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Reader:
    """Recursive descent, one method a rule."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [*_tokens(text), _Token("end", "", len(text))]
        self._next = 0
        self._depth = 0
        self._names: list[str] = []

    def read(self) -> tuple[_Chooser, tuple[str, ...]]:
        """What the whole text means, and the names that stand in it."""
        chooser = self._alternatives()
        if self._token.kind != "end":
            raise self._wrong("and, or, or the end")
        return chooser, tuple(dict.fromkeys(self._names))

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, kind: str, *texts: str) -> _Token | None:
        token = self._token
        if token.kind != kind or (texts and token.text not in texts):
            return None
        self._next += 1
        return token

    def _wrong(self, expected: str) -> SearchError:
        return _wrong(self._text, self._token.at, expected)

    def _alternatives(self) -> _Chooser:
        parts = [self._conjunction()]
        while self._take("keyword", "or"):
            parts.append(self._conjunction())
        return _joined(operator.or_, parts)

    def _conjunction(self) -> _Chooser:
        parts = [self._negation()]
        while self._take("keyword", "and"):
            parts.append(self._negation())
        return _joined(operator.and_, parts)

    def _negation(self) -> _Chooser:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong(f"at most {_DEEPEST} brackets in each other")
        try:
            if self._take("keyword", "not"):
                inner = self._negation()
                return lambda columns: ~inner(columns)
            if self._take("sign", "("):
                inner = self._alternatives()
                if not self._take("sign", ")"):
                    raise self._wrong("a closing bracket")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> _Chooser:
        name = self._take("name")
        if name is None:
            raise self._wrong("the name of an attribute")
        self._names.append(name.text)
        if self._take("keyword", "is"):
            negated = self._take("keyword", "not") is not None
            if not self._take("keyword", "null"):
                raise self._wrong("null")
            return _by_value(name.text, lambda value: (value is None) != negated)
        negated = self._take("keyword", "not") is not None
        if self._take("keyword", "in"):
            wanted = self._list()
            return _by_value(
                name.text, lambda value: value is not None and any(_equal(value, each) for each in wanted) != negated
            )
        sign = None if negated else self._take("sign", *_COMPARISONS)
        if sign is None:
            raise self._wrong("in" if negated else "a comparison (=, !=, <, <=, >, >=, in, is null)")
        compare, literal = _COMPARISONS[sign.text], self._literal()
        return _by_value(name.text, lambda value: _compared(compare, value, literal))

    def _list(self) -> list[float | str]:
        if not self._take("sign", "("):
            raise self._wrong("an opening bracket")
        found = [self._literal()]
        while self._take("sign", ","):
            found.append(self._literal())
        if not self._take("sign", ")"):
            raise self._wrong("a comma or a closing bracket")
        return found

    def _literal(self) -> float | str:
        if token := self._take("number"):
            number = _number(token.text)
            if number is None:
                raise _wrong(self._text, token.at, "a number that is not as large as that")
            return number
        if text := self._take("text"):
            return text.text
        raise self._wrong("a number, or a text in single quotes")


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(
                text, at + len(text[at:]) - len(text[at:].lstrip()), "a name, a number, a text or a comparison"
            )
        kind = str(match.lastgroup)
        found = match[kind]
        start = match.start(kind)
        if kind == "text":
            yield _Token(kind, found[1:-1].replace("''", "'"), start)
        elif kind == "quoted":
            yield _Token("name", found[1:-1].replace('""', '"'), start)
        elif kind == "word" and found.lower() in _KEYWORDS:
            yield _Token("keyword", found.lower(), start)
        else:
            yield _Token("name" if kind == "word" else kind, found, start)
        at = match.end()


def _wrong(text: str, at: int, expected: str) -> SearchError:
    rest = text[at : at + 20]
    found = f"{rest!r} at character {at + 1}" if rest else "its end"
    return SearchError(f"the condition {text!r} cannot be read: found {found}, expected {expected}")


def _joined(operation: Callable[[Mask, Mask], Mask], parts: list[_Chooser]) -> _Chooser:
    """The masks of all parts in one, made one after the other: a mask is a byte a row."""
    return lambda columns: functools.reduce(operation, (part(columns) for part in parts))


def _by_value(name: str, meets: Callable[[Any], bool]) -> _Chooser:
    """Ask every distinct value once, then look each row up."""

    def chooser(columns: Columns) -> Mask:
        column = columns.column(name)
        table = np.array([meets(value) for value in column.values], np.bool_)
        return table[column.codes]

    return chooser


def _compared(compare: Callable[[Any, Any], bool], value: Any, literal: float | str) -> bool:
    if value is None:
        return False
    if isinstance(literal, str):
        return compare(_text(value), literal)
    number = _number(value)
    # What is no number is not equal to one, and neither less nor more.
    return compare is operator.ne if number is None else compare(number, literal)


def _equal(value: Any, literal: float | str) -> bool:
    return _compared(operator.eq, value, literal)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: Any) -> float | int | None:
    """The number that a value is or reads as; whole ones of any size stay exact."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, str) or not re.fullmatch(_NUMBER, value.strip()):
        return None
    try:
        return int(value)
    except ValueError:
        number = float(value)
        return number if math.isfinite(number) else None
