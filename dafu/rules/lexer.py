"""From the text of a condition to tokens. Knows characters; knows no grammar."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal

from dafu.rules.errors import RuleSyntaxError
from dafu.rules.syntax import Span
from dafu.rules.units import LITERAL_UNITS

MAX_SOURCE: Final = 4000
"""Characters of a condition; longer ones belong in named lists or several rules."""

KEYWORDS: Final = frozenset({"and", "or", "not", "in", "true", "false"})

TokenKind = Literal["number", "text", "name", "keyword", "op", "end"]


@dataclass(frozen=True, slots=True)
class Token:
    """A token: `value` is the keyword in lower case, the operator, the name, or the content."""

    kind: TokenKind
    value: str
    span: Span
    number: float = 0.0
    unit: str = ""


_SPACE = re.compile(r"[ \t\r\n]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_NUMBER = re.compile(rf"(?:{_DIGITS}(?:\.{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?[0-9]+)?")
_SUFFIX = re.compile(r"[A-Za-z0-9_.]+")
_SPACED_UNIT = re.compile(r"[ \t]+([A-Za-z]+)(?![A-Za-z0-9_.(])")
_OPERATOR = re.compile(r"==|!=|<=|>=|[<>+\-*/%()\[\],]")
_OPERAND_FOLLOWS = re.compile(r"[ \t\r\n]*(?:(?P<name>[A-Za-z_]\w*)|[0-9.('\"\[])")
_ESCAPES: Final = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t", "r": "\r"}
_MISTAKES: Final = {
    "&&": "write 'and'",
    "||": "write 'or'",
    "=>": "write '>='",
    "=<": "write '<='",
    "<>": "write '!='",
    "=": "a comparison is written '=='",
    "!": "write 'not'",
    "&": "write 'and'",
    "|": "write 'or'",
    "\u2265": "write '>='",
    "\u2264": "write '<='",
    "\u2260": "write '!='",
    "\u201c": "use straight quotes",
    "\u201d": "use straight quotes",
    "\u2018": "use straight quotes",
    "\u2019": "use straight quotes",
}


def tokenize(source: str) -> list[Token]:
    """Split a condition into tokens, the last of kind `end`.

    Raises
    ------
    RuleSyntaxError
        On characters, numbers, units or strings that are none, and on sources over `MAX_SOURCE`.
    """
    if len(source) > MAX_SOURCE:
        raise RuleSyntaxError(
            f"the condition has {len(source)} characters, at most {MAX_SOURCE} are read",
            hint="put long lists under 'lists' in the rule file, or split the rule",
        )
    tokens: list[Token] = []
    at = 0
    while at < len(source):
        char = source[at]
        if space := _SPACE.match(source, at):
            at = space.end()
            continue
        if match := _NUMBER.match(source, at):
            token = _number(source, match)
        elif match := _NAME.match(source, at):
            token = _word(match)
        elif char in "'\"":
            token = _text(source, at)
        elif (hint := _mistake(source, at)) is not None:
            raise _error(source, hint[0], (at, at + hint[1]), hint[2])
        elif match := _OPERATOR.match(source, at):
            token = Token("op", match.group(), match.span())
        else:
            raise _error(source, f"unexpected character {char!r}", (at, at + 1))
        tokens.append(token)
        at = token.span[1]
    tokens.append(Token("end", "end of the condition", (len(source), len(source))))
    return tokens


def _error(source: str, message: str, span: Span, hint: str = "") -> RuleSyntaxError:
    return RuleSyntaxError(message, hint=hint, expression=source, span=span)


def _mistake(source: str, at: int) -> tuple[str, int, str] | None:
    """Message, width and hint for operators that other languages have."""
    pair = source[at : at + 2]
    if pair in ("==", "!=", ">=", "<="):
        return None
    for text in (pair, source[at]):
        if text in _MISTAKES:
            return f"{text!r} is not an operator of this language", len(text), _MISTAKES[text]
    return None


def _word(match: re.Match[str]) -> Token:
    text = match.group()
    lower = text.lower()
    if lower in KEYWORDS and text in (lower, lower.upper()):
        return Token("keyword", lower, match.span())
    return Token("name", text, match.span())


def _number(source: str, match: re.Match[str]) -> Token:
    begin, end = match.span()
    value = float(match.group())
    if not math.isfinite(value):
        raise _error(source, "the number is too large", (begin, end), "at most about 1.8e308")
    unit = ""
    if suffix := _SUFFIX.match(source, end):
        unit, end = suffix.group(), suffix.end()
        if unit not in LITERAL_UNITS:
            hint = f"units are {', '.join(LITERAL_UNITS)}; thousands are written 10_000"
            raise _error(source, f"unknown unit {unit!r} behind a number", suffix.span(), hint)
    elif (spaced := _SPACED_UNIT.match(source, end)) and spaced.group(1) in LITERAL_UNITS:
        unit, end = spaced.group(1), spaced.end()
    elif source.startswith("%", end) and not _operand_follows(source, end + 1):
        unit, end = "%", end + 1
    return Token("number", source[begin:end], (begin, end), value, unit)


def _operand_follows(source: str, at: int) -> bool:
    """Whether `5%` at the `%` goes on like a remainder (`5%x`) rather than a percentage."""
    match = _OPERAND_FOLLOWS.match(source, at)
    if match is None:
        return False
    name = match.group("name")
    return name is None or name.lower() not in ("and", "or", "not", "in")


def _text(source: str, begin: int) -> Token:
    mark = source[begin]
    parts: list[str] = []
    at = begin + 1
    while at < len(source):
        char = source[at]
        if char == mark:
            return Token("text", "".join(parts), (begin, at + 1))
        if char == "\n":
            break
        if char == "\\":
            escaped = source[at + 1 : at + 2]
            if escaped not in _ESCAPES:
                hint = "a backslash stands before a quote, a backslash, n, r or t"
                raise _error(source, "unknown escape in a string", (at, at + 2), hint)
            parts.append(_ESCAPES[escaped])
            at += 2
        else:
            parts.append(char)
            at += 1
    raise _error(source, "the string is not closed", (begin, at), f"add {mark} where it ends")
