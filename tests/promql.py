"""Parses as much PromQL as dashboards need, and raises an error for everything else.

A recursive descent parser for the grammar of prometheus.io/docs/prometheus/latest/querying/basics: selectors,
ranges, functions, aggregations, binary operators. It returns which series an expression reads and which labels its
result keeps. Grafana's variables may be used as a duration or as the text of a matcher.
"""

import re
from dataclasses import dataclass, replace

AGGREGATIONS = {"sum", "avg", "min", "max", "count"}
TAKES_RANGE = {"rate", "increase", "irate", "delta", "max_over_time", "avg_over_time"}
FUNCTIONS = {"histogram_quantile", "time", "clamp_min", "clamp_max", "abs", "ceil"} | TAKES_RANGE
OPERATORS = {"+": 2, "-": 2, "*": 3, "/": 3, ">": 1, "<": 1, ">=": 1, "<=": 1, "==": 1, "!=": 1}
"""Binary operators and their precedence."""

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<duration>\[(?:\d+(?:ms|[smhdw])|\$__rate_interval|\$__interval)\])
  | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
  | (?P<number>\d+(?:\.\d+)?)
  | (?P<string>"(?:[^"\\]|\\.)*")
  | (?P<symbol>=~|!~|!=|>=|<=|==|[-+*/<>=(){},])
    )""",
    re.VERBOSE,
)


class PromqlError(ValueError):
    """The text is not PromQL, or uses a part of it that this parser does not support."""


@dataclass(frozen=True)
class Selector:
    """A selector in an expression: series by name and labels."""

    metric: str
    matched: tuple[str, ...]
    """Labels that a matcher compares with a value."""
    ranged: bool
    function: str
    """The innermost function or aggregation around it, or ""."""
    grouped: tuple[tuple[str, ...], ...]
    """Labels of each `by` around it, the innermost first."""
    aggregated: tuple[str, ...]
    """The aggregations that these belong to."""


@dataclass(frozen=True)
class Expression:
    """The series that an expression reads, and the labels of its result."""

    selectors: tuple[Selector, ...]
    labels: frozenset[str] | None
    """Labels of the result; None if it keeps all labels of the series that it reads."""


def parse(text: str) -> Expression:
    """Parse one expression. Raises PromqlError."""
    parser = _Parser(_tokens(text))
    labels = parser.expression(0, "")
    if parser.kind != "end":
        raise PromqlError(f"{parser.value!r} follows the end of {text!r}")
    return Expression(tuple(parser.selectors), labels)


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            raise PromqlError(f"{text[at:]!r} is not PromQL")
        tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
        at = found.end()
    return [*tokens, ("end", "")]


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self.selectors: list[Selector] = []

    @property
    def kind(self) -> str:
        return self._tokens[0][0]

    @property
    def value(self) -> str:
        return self._tokens[0][1]

    def _next(self) -> str:
        return self._tokens.pop(0)[1] if self.kind != "end" else ""

    def _expect(self, wanted: str) -> str:
        """Return the next token, which must be of this kind or have this text."""
        if wanted not in (self.kind, self.value):
            raise PromqlError(f"expected {wanted!r}, not {self.value!r}")
        return self._next()

    def expression(self, binding: int, function: str) -> frozenset[str] | None:
        """Parse operands and the operators between them whose precedence is above `binding`."""
        labels = self._operand(function)
        while self.kind == "symbol" and OPERATORS.get(self.value, 0) > binding:
            right = self.expression(OPERATORS[self._next()], function)
            if labels != right and frozenset() not in (labels, right):
                raise PromqlError(
                    f"the two sides of an operator have labels {labels} and {right}, so nothing matches"
                )
            labels = right if labels == frozenset() else labels
        if self.value == "or" and binding == 0:
            self._next()
            right = self.expression(0, function)
            labels = right if labels is None else labels if right is None else labels & right
        return labels

    def _operand(self, function: str) -> frozenset[str] | None:
        if self.kind == "number":
            self._next()
            return frozenset()
        if self.value == "(":
            self._next()
            labels = self.expression(0, function)
            self._expect(")")
            return labels
        name = self._expect("name")
        if name in AGGREGATIONS:
            return self._aggregation(name)
        if self.value == "(":
            return self._call(name)
        return self._selector(name, function)

    def _aggregation(self, name: str) -> frozenset[str]:
        by = self._by()
        self._expect("(")
        start = len(self.selectors)
        labels = self.expression(0, name)
        self._expect(")")
        by = by or self._by()
        if labels is not None and not set(by) <= labels:
            raise PromqlError(f"by {by}: the inner expression has only the labels {sorted(labels)}")
        self.selectors[start:] = [
            replace(s, grouped=(*s.grouped, by), aggregated=(*s.aggregated, name))
            for s in self.selectors[start:]
        ]
        return frozenset(by)

    def _by(self) -> tuple[str, ...]:
        if self.value != "by":
            return ()
        self._next()
        self._expect("(")
        names = [self._expect("name")]
        while self.value == ",":
            self._next()
            names.append(self._expect("name"))
        self._expect(")")
        return tuple(names)

    def _call(self, name: str) -> frozenset[str] | None:
        if name not in FUNCTIONS:
            raise PromqlError(f"{name} is not a known function")
        self._expect("(")
        if name == "time":
            self._expect(")")
            return frozenset()
        if name == "histogram_quantile":
            if not 0 <= float(self._expect("number")) <= 1:
                raise PromqlError("a quantile is between 0 and 1")
            self._expect(",")
        start = len(self.selectors)
        labels = self.expression(0, name)
        while self.value == ",":
            self._next()
            self._expect("number")
        self._expect(")")
        if name in TAKES_RANGE and not all(s.ranged for s in self.selectors[start:]):
            raise PromqlError(f"{name} takes a range")
        if name == "histogram_quantile":
            if labels is not None and "le" not in labels:
                raise PromqlError("histogram_quantile needs the label le")
            labels = None if labels is None else labels - {"le"}
        return labels

    def _selector(self, metric: str, function: str) -> None:
        matched: list[str] = []
        if self.value == "{":
            self._next()
            while self.value != "}":
                matched.append(self._expect("name"))
                if self._next() not in ("=", "!=", "=~", "!~"):
                    raise PromqlError(f"{matched[-1]} is not followed by an operator for labels")
                self._expect("string")
                if self.value != "}":
                    self._expect(",")
            self._next()
        ranged = self.kind == "duration"
        if ranged:
            self._next()
            if function not in TAKES_RANGE:
                raise PromqlError(
                    f"a range of {metric} is used where {function or 'an expression'} takes none"
                )
        self.selectors.append(Selector(metric, tuple(matched), ranged, function, (), ()))
