"""Hooks of mkdocs: the files that the pages link to outside docs/ are pages of the site too.

README is its first page. A Markdown file of the project becomes a page below ``project/``, any
other text a page that shows it, and whatever else it is a file beside them. So a link that works in
the repository works in the site, and needs no address of the repository. Examples in docstrings are
shown as code.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS, FIRST, PROJECT = "docs/", "README.md", "project/"
# The address of a link or picture in Markdown, its anchor by itself.
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
_EXAMPLES = re.compile(r"^( *)>>> .*\n?(?:^\1\S.*\n?)*", re.MULTILINE)
_SHOWN = {".py": "python", ".yaml": "yaml", ".cfg": "ini", ".sbatch": "bash", ".sh": "bash"}


def place_in_site(path: str) -> str:
    """Where a file of the repository is in the site: a path of the Markdown source.

    >>> [place_in_site(each) for each in ("README.md", "docs/masks.md", "flags/standing.yaml")]
    ['index.md', 'masks.md', 'project/flags/standing.yaml.md']
    """
    if path == FIRST:
        return "index.md"
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    shown = Path(path).suffix in _SHOWN
    return f"{PROJECT}{path}.md" if shown else PROJECT + path


def rewritten(markdown: str, path: str) -> str:
    """The text of a file of the repository with its links as they are in the site."""
    here = posixpath.dirname(place_in_site(path))

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found[1]))
        if not (ROOT / target).is_file():
            return found[0]  # for mkdocs to warn of
        return posixpath.relpath(place_in_site(target), here or ".") + (found[2] or "")

    parts = _CODE.split(markdown)
    return "".join(part if n % 2 else _LINK.sub(link, part) for n, part in enumerate(parts))


def links(markdown: str, path: str) -> set[str]:
    """The files of the repository that a file links to, by their paths."""
    text = "".join(part for n, part in enumerate(_CODE.split(markdown)) if n % 2 == 0)
    folder = posixpath.dirname(path)
    targets = {posixpath.normpath(posixpath.join(folder, m[1])) for m in _LINK.finditer(text)}
    return {target for target in targets if (ROOT / target).is_file()}


def text_in_site(path: str) -> str:
    """A file of the project as a page: Markdown as it is, other text in a block of code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return rewritten(text, path)
    return f"# {path}\n\n````{_SHOWN[Path(path).suffix]}\n{text.rstrip()}\n````\n"


def with_examples(text: str) -> str:
    """A text with its examples (``>>> …``) in blocks of code; Markdown takes them for quotes."""
    return _EXAMPLES.sub(lambda m: f"{m[1]}```pycon\n{m[0].rstrip()}\n{m[1]}```\n", text)


def on_config(config: Any) -> None:
    """Has examples made into code before anything else looks at a text."""
    from markdown.extensions import Extension
    from markdown.preprocessors import Preprocessor

    class Fenced(Preprocessor):
        def run(self, lines: list[str]) -> list[str]:
            text = "\n".join(lines)
            return (text if "```" in text else with_examples(text)).split("\n")

    class Examples(Extension):
        def extendMarkdown(self, md: Any) -> None:
            md.preprocessors.register(Fenced(md), "examples", 100)

    config.markdown_extensions.append(Examples())


def on_files(files: Any, config: Any) -> Any:
    """Adds README and all that is linked to outside docs/, from page to page."""
    from mkdocs.structure.files import File  # which the tests do not have

    waiting = {FIRST}
    for file in files.documentation_pages():
        if file.src_uri.endswith(".md"):
            path = DOCS + file.src_uri
            waiting |= links((ROOT / path).read_text(encoding="utf-8"), path)
    seen: set[str] = set()
    while waiting - seen:
        path = (waiting - seen).pop()
        seen.add(path)
        if path.startswith(DOCS):
            continue
        place = place_in_site(path)
        if place.endswith(".md"):
            files.append(File.generated(config, place, content=text_in_site(path)))
        else:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            waiting |= links((ROOT / path).read_text(encoding="utf-8"), path)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page of docs/ with its links to the rest of the project as they are in the site."""
    if page.file.generated_by or page.file.src_uri.endswith(".ipynb"):
        return markdown
    return rewritten(markdown, DOCS + page.file.src_uri)
