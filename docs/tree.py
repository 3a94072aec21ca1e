"""The page `docs/tree.md`: every file of the package with the first sentence of its docstring.

python docs/tree.py            print it
python docs/tree.py --write    put it into the page; a test asks that the page name the files that there are
"""

import ast
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tree.md"
BEGIN, END = "<!-- tree: python docs/tree.py --write -->\n", "<!-- end of tree -->\n"


def tree() -> str:
    """Markdown: a heading for the top and for each folder, a line for each file."""
    package = ROOT / "ad_jax"
    files = sorted(path for path in package.rglob("*.py") if path.name != "__init__.py")
    folders = sorted({path.parent for path in files}, key=lambda folder: (folder != package, folder))
    parts = []
    for folder in folders:
        lines = [f"- `{path.name}`: {sentence(path)}" for path in files if path.parent == folder]
        opening = folder / "__init__.py"
        if folder == package:
            about = ""
        elif opening.exists():
            about = f"{sentence(opening)}\n\n"
        else:
            about = "Programs, no package: they run where what they need is installed.\n\n"
        parts.append(f"## {folder.relative_to(ROOT)}/\n\n{about}" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def sentence(path: pathlib.Path) -> str:
    """Return the first sentence of a file's docstring, and the second where the first is but a word or two."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    sentences = re.split(r"(?<=[.]) (?=[A-Z`])", text)
    return " ".join(sentences[: 2 if len(sentences[0]) < 12 else 1]).rstrip(".:") + "."


def written(page: str) -> str:
    """Return the page with the tree as it is now."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + tree() + END + rest.split(END)[1]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(written(PAGE.read_text()))
    else:
        print(tree())
