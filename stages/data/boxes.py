"""The \\boxed{} of a solution or a response, where its answer stands; linear in the text, whatever a policy writes."""

import re

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxes(text: str) -> list[tuple[int, int, int]]:
    """Where each closed \\boxed{} of a text begins, and its content begins and ends, braces matched.

    Empty if the last one is not closed: there the text was cut off in its answer.
    """
    opened, closed = [], {}
    first = text.find("\\boxed")
    if first < 0:
        return []
    for brace in _BRACE.finditer(text, first):  # no brace before a box can close it
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closed[opened.pop()] = brace.start()
    found = [(match.start(), match.end(), closed.get(match.end() - 1, -1)) for match in _BOX.finditer(text, first)]
    return [box for box in found if box[2] >= 0] if found and found[-1][2] >= 0 else []


def boxed(text: str) -> str | None:
    """What the last \\boxed{} of a text holds; None without one that is closed."""
    found = boxes(text)
    return text[slice(*found[-1][1:])] if found else None
