"""Names that a certificate can carry and somebody can ask for: addresses, and host names (RFC 1123 section 2.1).

Underscores are let through, although RFC 1123 knows none: containers have such names, and clients compare them.
"""

import re
from ipaddress import ip_address
from typing import Final

_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
_PORT: Final = re.compile(r"(\[[^]]*\]|[^:]*):\d+")
_LONGEST: Final = 253
_LONGEST_LABEL: Final = 63


def never_matches(text: str) -> str | None:
    """Why no client would ever accept a certificate for `text`, and what to write instead; None when some do."""
    if not text:
        return "a name is empty: leave out the comma, or what follows the ="
    try:
        address = ip_address(text)
    except ValueError:
        return _no_name(text)
    if address.is_unspecified:
        return f"{text} is where one listens, and nobody calls it: give the address that others call"
    if getattr(address, "scope_id", None):
        return f"{text!r} names an interface of this machine: write {text.partition('%')[0]}"
    return None


def _no_name(text: str) -> str | None:
    if "://" in text:
        return f"{text!r} is a URL: give its host alone, such as {_host_of(text)!r}"
    if found := _PORT.fullmatch(text):
        return f"{text!r} has a port, and certificates have none: write {found[1].strip('[]')!r}"
    if text.startswith("[") and text.endswith("]"):
        return f"{text!r} has brackets: write {text.strip('[]')!r}"
    if "*" in text:
        return f"{text!r} would be for every name that fits, and this is one node's: name its hosts one by one"
    if text.endswith("."):
        return f"{text!r} ends in a dot, which clients leave out: write {text.rstrip('.')!r}"
    if not text.isascii():
        return f"{text!r} is not ASCII, and {_encoded(text)}"
    if len(text) > _LONGEST:
        return f"{text[:20]!r}… has {len(text)} characters, and a host name {_LONGEST} at most: give a shorter one"
    labels = text.split(".")
    if "" in labels:
        return f"{text!r} has nothing between two dots, or before the first: write the whole name"
    for label in labels:
        if len(label) > _LONGEST_LABEL or not _LABEL.fullmatch(label):
            rule = f"letters, digits and hyphens between them, {_LONGEST_LABEL} at most between two dots"
            return f"{text!r} is no host name, because of {label!r}: use {rule}"
    if labels[-1].isdecimal():
        return f"{text!r} is neither an address nor a name, which does not end in a number: give four numbers up to 255"
    return None


def _host_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]


def _encoded(text: str) -> str:
    try:
        return f"is asked for in its encoded form (IDNA): write {text.encode('idna').decode()!r}"
    except UnicodeError:
        return "cannot be encoded as a host name (IDNA) either: use ASCII letters, digits and hyphens"
