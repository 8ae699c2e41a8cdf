"""Text from templates, with escaping always on: names and model text are untrusted.

Read it as: every value a template prints is HTML-escaped (Markdown-escaped by the `md` filter) unless our own code
made it `Markup`.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from workbench.figures_style import number

_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~!])")


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of `workbench/templates`; a name it asks for and does not get is an error."""
    return _environment().get_template(template).render(dict(values))


def markdown_safe(text: object) -> Markup:
    """Text that Markdown shows as it stands: no markup, no HTML, no line break."""
    words = " ".join(str(text).split())
    escaped = _SPECIAL.sub(r"\\\1", words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return Markup(escaped)  # escaped on the line above


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("workbench", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": markdown_safe, "number": number}
    return environment
