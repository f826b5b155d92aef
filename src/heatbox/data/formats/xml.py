"""XML of annotation files, parsed safely."""

from __future__ import annotations

from xml.etree import ElementTree

from heatbox.errors import InputError

Element = ElementTree.Element


def parse_xml(data: bytes, where: str, form: str) -> Element:
    """The root element of a document.

    Documents with a DTD are refused: no annotation tool writes one, and entities can expand without limit.

    Args:
        data: content of the file.
        where: the file, for messages.
        form: what is expected, for messages.

    Raises:
        InputError: it is not well-formed, or has a DTD.
    """
    plain = data.replace(b"\0", b"") if b"\0" in data[:64] else data  # markup is ASCII in UTF-16, too
    try:
        if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
            raise ValueError("it has a document type declaration")
        return ElementTree.fromstring(data.lstrip())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{where}: is not {form} ({error})") from error


def number(element: Element, path: str, default: float | None = None) -> float:
    """The number in a child element.

    Args:
        element: the parent.
        path: of the child, such as "bndbox/xmin".
        default: the value if there is no such child; without one it is needed.

    Raises:
        ValueError: there is no such number, or none that a position in an image can have.
    """
    text = element.findtext(path)
    if text is None or (default is not None and not text.strip()):
        if default is None:
            raise ValueError(f"no {path}")
        return default
    return in_range(float(text), path, text)


def attribute(element: Element, name: str) -> float:
    """The number in an attribute.

    Raises:
        ValueError: there is no such number, or none that a position in an image can have.
    """
    text = element.get(name)
    if text is None:
        raise ValueError(f"no {name}")
    return in_range(float(text), name, text)


def in_range(value: float, name: str, text: str) -> float:
    """A value, if it is of the size of positions in images."""
    if not -1e9 < value < 1e9:
        raise ValueError(f"{name} is {text.strip()}")
    return value
