"""Writes the repository's address, of pyproject's [project.urls], into the first cell of every notebook.

    python notebooks/set_repository.py

A notebook that is opened on a bare machine has nothing else to read it from.
"""

import json
import pathlib
import tomllib

HERE = pathlib.Path(__file__).parent


def address() -> str:
    """`Repository` of [project.urls]; "" until it is filled in."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def main() -> None:
    """Changes one line a notebook."""
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = next(c for c in notebook["cells"] if c["cell_type"] == "code")
        first["source"] = [
            f'REPOSITORY = "{address()}"\n' if line.startswith("REPOSITORY = ") else line
            for line in first["source"]
        ]
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
