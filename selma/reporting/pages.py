"""What the self-contained HTML pages share: how they are rendered, and the search over a run's prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selma.reporting.explorer import as_json

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

FOLDER = Path(__file__).parent


def template(name: str) -> jinja2.Template:
    """A template of this folder, rendered with escaping on; a name that it lacks is an error."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        loader=jinja2.FileSystemLoader(FOLDER),
    )
    return environment.get_template(name)


def search(explorer: Mapping[str, Any]) -> dict[str, Any]:
    """What explorer.html.j2 and the end of a page need; JSON and script go in as they are: escaped, and ours."""
    from markupsafe import Markup

    return {
        "explorer": explorer,
        "explorer_json": Markup(as_json(explorer)),
        "script": script("report.js"),
    }


def script(name: str) -> Markup:
    """A script of this folder, which goes into a page as it is."""
    from markupsafe import Markup

    return Markup((FOLDER / name).read_text(encoding="utf-8"))
