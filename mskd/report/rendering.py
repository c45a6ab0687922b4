"""Pages from templates: what comes from data is escaped, and a value that is missing is an error."""

from __future__ import annotations

import jinja2


def template(name: str) -> jinja2.Template:
    """Return a template of `mskd/report/templates`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mskd.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
