"""Explained images as one page: a file that holds its pictures and asks the network for nothing."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np

from ..store.files import write_atomically
from .explain import Explained
from .gallery import overlay
from .maps import picture

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Explained images</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 :root { color-scheme: light dark }
 body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }
 h2 { overflow-wrap: anywhere } .row { display: flex; flex-wrap: wrap; gap: .8rem; margin: .5rem 0 1.5rem }
 figure { margin: 0; width: min(14rem, 44vw) } img { width: 100%; display: block; image-rendering: pixelated }
 figcaption { font-size: .9rem; overflow-wrap: anywhere } small { opacity: .75 }
</style></head><body>
<h1>{{ model }}</h1>
<p>Red speaks for the class, blue against it; full colour is a map's largest modulus (its 99.5&nbsp;% quantile).</p>
{% for image in images %}
<section><h2>{{ image.name }}</h2>
<p>{% for each in image.best %}{{ each.name }} <small>{{ "%.3f"|format(each.probability) }}</small>
{{- ", " if not loop.last }}
{% endfor %}</p>
{% for row in image.rows %}
<h3>{{ row.shown.name }} <small>{{ "%.3f"|format(row.shown.probability) }}</small></h3>
<div class="row">
<figure><img src="{{ image.picture }}" alt="{{ image.name }}"><figcaption>image</figcaption></figure>
{% for method, picture in row.maps %}
<figure><img src="{{ picture }}" alt="{{ method }}: {{ row.shown.name }}"><figcaption>{{ method }}</figcaption></figure>
{% endfor %}</div>
{% endfor %}</section>
{% endfor %}
{% if more %}<p>And {{ more }} more images: their pictures lie beside this page.</p>{% endif %}
{% for method, why in failures.items() %}<p><strong>{{ method }} failed:</strong> {{ why }}</p>{% endfor %}
</body></html>
"""


def write_page(found: Sequence[Explained], more: int, model: str, failures: dict[str, str], path: Path) -> None:
    """Write the page of explained images, in their order, with what failed and why.

    more: images that were explained and are not among those given.
    """
    template = jinja2.Environment(autoescape=True).from_string(PAGE)
    page = template.render(model=model, images=[*map(_shown, found)], more=more, failures=failures)
    write_atomically(path, page.encode())


def _shown(found: Explained) -> dict[str, object]:
    rows = [
        {
            "shown": each,
            "maps": [(name, _inside(overlay(found.pixels, maps[row]))) for name, maps in found.maps.items()],
        }
        for row, each in enumerate(found.classes)
    ]
    return {"name": found.image.name, "picture": _inside(found.pixels), "best": found.best, "rows": rows}


def _inside(pixels: np.ndarray) -> str:
    """The address of a picture that lies in the page."""
    return f"data:image/png;base64,{base64.b64encode(picture(pixels)).decode()}"
