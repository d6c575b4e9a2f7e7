"""How names, numbers and expressions are spelt in a target: quotes, brackets, and where a text may be cut."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from fvfast.errors import FvfastError

OPERATORS = (" + ", " - ", " * ", " / ")
CALLS = ("caricature", "inversion", "accentuation")  # targets that are written KIND(...)
PYTHON = " (made in Python)"  # the end of a label that would read as something else without it

# A number, as a weight or a power is written.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_PLACE = r"(?:centre|(?P<cls>cls)|token(?P<token>\d+)|(?P<y>centre|\d+),(?P<x>centre|\d+))"
NEURON = re.compile(rf"(?P<channel>\d+)@{_PLACE}", re.ASCII)
SPANS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*", re.ASCII)

_QUOTED = re.compile(r""""(?:[^"\\]|\\.)*"|'[^']*'""", re.DOTALL)  # as in JSON, or between ' and ' as it stands
_CALL = re.compile(rf"({'|'.join(CALLS)})\(.*\)", re.DOTALL)
_BEGINS = r"(?:^|(?<=[:(,])|(?<=[-+*/] )) *"  # where a name may begin, and so a quote opens one
_OPENS = re.compile(rf"""{_BEGINS}["']""")
_MARK = re.compile(rf"{_BEGINS}(?:{_QUOTED.pattern})|[(),]| [-+*/](?= )", re.DOTALL)
_POWER = re.compile(rf"{NUMBER.pattern}\s*,.*", re.ASCII | re.IGNORECASE | re.DOTALL)
_LONGEST = 18  # digits of a number that can be meant: more than any layer has channels
_SHOWN = 120  # characters of a text that a sentence shows


def quoted(text: str) -> str:
    """A text in double quotes, as a JSON string."""
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name in no encoding: cannot be printed as it is
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)


def is_quoted(text: str) -> bool:
    """Whether a text is one quoted name, from its first character to its last."""
    return _QUOTED.fullmatch(text) is not None


def unquoted(text: str) -> str:
    """What a name means: between quotes as it stands there, otherwise itself. Raises FvfastError."""
    if not is_quoted(text):
        return text
    if text[0] == "'":
        return text[1:-1]
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise FvfastError(rf"{shown(text)} has a \ that begins no escape: write \\, or use single quotes") from error


def split_name(text: str) -> tuple[str, str | None]:
    """A target's layer, perhaps quoted, and what follows its colon; None where nothing does."""
    if match := _QUOTED.match(text):
        rest = text[match.end() :]
        if not rest or rest.startswith(":"):
            return match[0], rest[1:] if rest else None
    name, colon, rest = text.partition(":")
    return name, rest if colon else None


def is_neuron(target: str) -> bool:
    """Whether a target is a single position of a channel."""
    _, rest = split_name(target)
    return rest is not None and "@" in rest and not is_quoted(rest)


def layer(name: str, nested: bool = False) -> str:
    """A layer's name as a target spells it: in quotes where it would be read as something else.

    nested: inside another objective, where commas and brackets mean something too.
    """
    odd = ":" in name or name[:1] in ("(", '"', "'") or _odd(name) or any(o in name for o in OPERATORS)
    odd = odd or bool(_CALL.fullmatch(name)) or (nested and bool(set(name) & set("()\"',")))
    return quoted(name) if odd else name


def file(name: str, powered: bool) -> str:
    """A picture's name as a target spells it. powered: whether a number and a comma may stand before it."""
    odd = _odd(name) or bool(_OPENS.search(name)) or not _closed(name) or (powered and bool(_POWER.fullmatch(name)))
    return quoted(name) if odd else name


def is_odd_class(name: str) -> bool:
    """Whether a class's name cannot do without quotes, wherever it is written."""
    return _odd(name) or is_quoted(name)


def _odd(name: str) -> bool:
    """Whether a name is lost or changed on paper: blanks at its ends, characters that are not to be seen."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return name != name.strip() or not name or name.endswith(PYTHON) or any(ord(c) < 32 for c in name)


def number(value: float) -> str:
    """A number in the fewest digits that mean it exactly."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def whole(digits: str, where: str) -> int:
    """The number that digits mean. where: "in TARGET", for the sentence. Raises FvfastError where they are too many."""
    if len(digits.lstrip("0")) > _LONGEST:
        raise FvfastError(f"the number of {len(digits)} digits {where} is larger than anything that it could mean")
    return int(digits[-_LONGEST:])


def spans(text: str, where: str) -> list[tuple[int, int]]:
    """The ranges that `SPANS` matches, "0-63,100", as (first, last). where: as for `whole`.

    Raises FvfastError for numbers that nothing can have, and ranges that run backwards.
    """
    found: list[tuple[int, int]] = []
    for span in text.split(","):
        first, _, last = span.partition("-")
        low, high = whole(first, where), whole(last or first, where)
        if low > high:
            raise FvfastError(f"the range {low}-{high} {where} runs backwards; write {high}-{low}")
        found.append((low, high))
    return found


def cut(text: str, mark: str, most: int = -1) -> list[str]:
    """A text cut at a mark, a comma or one of `OPERATORS`, wherever that is outside of quotes and brackets.

    most: at most so often; -1 for everywhere.
    """
    parts: list[str] = []
    start = 0
    for at, depth in _marks(text):
        if len(parts) == most:
            break
        if depth == 0 and at >= start and text.startswith(mark, at):
            parts.append(text[start:at])
            start = at + len(mark)
    return [*parts, text[start:]]


def compound(text: str) -> bool:
    """Whether a label is more than one term: an operator stands outside of its brackets."""
    return any(len(cut(text, operator)) > 1 for operator in OPERATORS)


def unwrapped(text: str) -> str | None:
    """What the brackets around a text hold; None where they are not the ends of one pair."""
    if not (text.startswith("(") and text.endswith(")")):
        return None
    closed = next((at for at, depth in _marks(text) if depth == 0 and text[at] == ")"), None)
    return text[1:-1] if closed == len(text) - 1 else None


def shown(text: str) -> str:
    """A text as a sentence quotes it, cut short where it is long."""
    return repr(short(text))


def short(text: str) -> str:
    """A text, cut short where it is too long for a sentence."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _closed(text: str) -> bool:
    """Whether each bracket outside of quotes has its other one."""
    depths = [depth for _, depth in _marks(text)]
    return min(depths, default=0) >= 0 and (not depths or depths[-1] == 0)


def _marks(text: str) -> Iterator[tuple[int, int]]:
    """The brackets, commas and operators outside of quotes: where each stands, and how many brackets are open after
    it; below 0 where more were closed than opened."""
    depth = 0
    for match in _MARK.finditer(text):
        mark = match[0]
        if mark in "()":
            depth += 1 if mark == "(" else -1
        elif mark[-1] in "\"'":
            continue
        yield match.start(), depth
