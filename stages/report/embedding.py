"""Figures, pictures and tables inside the page, so that it needs no other file."""

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup
from PIL import Image

from stages.data.problem import on_white

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
LARGEST = 480  # pixels of a problem's picture, width or height
DROPPED = {"metadata", "script", "style", "foreignObject", "title"}

ElementTree.register_namespace("", SVG)


def inline_svg(path: Path, prefix: str, label: str, ink: str) -> Markup:
    """A drawing as part of the page, in the page's colours.

    Args:
        path: of the SVG, as matplotlib writes it.
        prefix: set before every id in it; matplotlib gives equal parts of all figures equal ids.
        label: what a screen reader says.
        ink: the colour of text and axes, #rrggbb, which becomes the page's; white becomes the page's background.

    Raises:
        ValueError: it is not an SVG.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not an SVG ({error})") from None
    if root.tag != f"{{{SVG}}}svg":
        raise ValueError(f"{path}: not an SVG, but a <{root.tag}>")
    for parent in list(root.iter()):
        for child in [part for part in parent if str(part.tag).split("}")[-1] in DROPPED]:
            parent.remove(child)
        _adapt(parent, prefix, ink)
    width = root.attrib.pop("width", "")
    root.attrib.pop("height", None)
    # matplotlib's own style sheet says this of "*", which on a page would be everything.
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt", "role": "img", "aria-label": label}
    if re.fullmatch(r"[\d.]+(pt|px)?", width):
        root.set("style", f"--width: {width}")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _adapt(element: ElementTree.Element, prefix: str, ink: str) -> None:
    if XLINK in element.attrib:
        element.set("href", element.attrib.pop(XLINK))
    for name, value in list(element.attrib.items()):
        if name.lower().startswith("on"):
            del element.attrib[name]
            continue
        if name == "id":
            value = prefix + value
        elif name == "href":
            value = re.sub("^#", f"#{prefix}", value)
        value = re.sub(r"url\(#", f"url(#{prefix}", value)
        value = re.sub(re.escape(ink) + r"\b", "currentColor", value, flags=re.IGNORECASE)
        if name == "style":
            value = re.sub(r"#ffffff\b|#fff\b|\bwhite\b", "var(--paper)", value, flags=re.IGNORECASE)
        element.set(name, value)


def picture_uri(path: Path) -> str:
    """A problem's picture in a URL, at most `LARGEST` pixels wide and high."""
    with Image.open(path) as image:
        small = on_white(image)
    small.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")


def file_uri(path: Path, kind: str) -> str:
    """A file in a URL.

    Args:
        path: of the file.
        kind: its media type.
    """
    return data_uri(path.read_bytes(), kind)


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
