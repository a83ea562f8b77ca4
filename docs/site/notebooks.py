"""Notebooks as pages of the site (a hook of mkdocs.yml): their text as it is, their code as blocks."""

import json
from pathlib import Path
from typing import Any


def page(notebook: dict[str, Any]) -> str:
    """Markdown of its cells, in order."""
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in notebook["cells"]]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for text, kind in texts) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """A page beside each notebook."""
    from mkdocs.structure.files import File

    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        text = page(json.loads(Path(file.abs_src_path).read_text()))
        files.append(File.generated(config, str(Path(file.src_uri).with_suffix(".md")), content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to notebooks lead to their pages."""
    return markdown.replace(".ipynb)", ".md)")
