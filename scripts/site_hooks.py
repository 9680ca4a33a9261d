"""What the documentation site (mkdocs.yml) makes of pages that are written to be read on GitHub.

- README.md and benchmarks/README.md become pages, and so does every source file that a page links to.
- A link to `file.py#Class.method` leads to the line where that is defined today; a name that is not defined is a
  warning, which ends the build. Behind a paragraph that begins with "Code:" the sources themselves are shown.
- Equations (```math and $`...`$) become MathML, the README's picture of the graph an SVG: no scripts, no internet.
- Lists need no blank line before them, and headings get the anchors that GitHub gives them.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md"}
"""Pages outside of docs/: where they are in the repository, and on the site."""
SOURCES, MORE = "source/", "More"
GRAPH = "images/graph.svg"
OPEN_LINES = 20
"""Sources that are longer are folded up."""
LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".xml": "xml",
    ".sh": "bash",
    ".msg": "",
}
_LINK = re.compile(r"(?<=\])\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCED = re.compile(r"^( *)(```+)([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_MATH = re.compile(r"\$`(.+?)`\$")
_LISTED = re.compile(r"^(?:[-*]|\d+\.) ")
_log = logging.getLogger("mkdocs.hooks.site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """GitHub's anchors; pages that the navigation does not name come last in it."""
    config.mdx_configs["toc"]["slugify"] = anchor
    there = {path.name for path in Path(config.docs_dir).glob("*.md")} | set(PAGES.values())
    named = set(re.findall(r"[\w-]+\.md", str(config.nav)))
    config.nav = [entry for entry in (_existing(entry, there) for entry in config.nav) if entry]
    if rest := sorted(there - named):
        config.nav.append({MORE: rest})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/, and what any page links to in the repository."""
    linked = set()
    texts = {PurePosixPath("docs", file.src_uri): file.content_string for file in files.documentation_pages()}
    for source, target in PAGES.items():
        texts[PurePosixPath(source)] = text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    for page, text in texts.items():
        for target, _ in _LINK.findall(_FENCED.sub("", text)):
            if path := _in_repository(page, target):
                linked.add(path)
    for path in sorted(linked):
        if path in PAGES or path.startswith("docs/"):
            continue
        if path.endswith((".svg", ".png")):
            files.append(File.generated(config, SOURCES + path, abs_src_path=str(ROOT / path)))
        elif (ROOT / path).is_file():
            text = _source_page(path)
            files.append(File.generated(config, _source_name(path), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links, equations and lists of one page."""
    uri = page.file.src_uri
    if uri.startswith(SOURCES):
        return markdown
    here = next((PurePosixPath(s) for s, t in PAGES.items() if t == uri), PurePosixPath("docs", uri))
    blocks: list[str] = []

    def keep(match: re.Match[str]) -> str:
        blocks.append(_block(match, posixpath.relpath(GRAPH, posixpath.dirname(uri) or ".")))
        return f"{match[1]}\0{len(blocks) - 1}\0"

    text = _spaced(_FENCED.sub(keep, markdown))
    text = re.sub(r"^Code: .*(?:\n(?!\n).*)*", lambda m: m[0] + _shown(here, m[0]), text, flags=re.MULTILINE)
    text = _LINK.sub(lambda match: _link(here, uri, match), text)
    text = _MATH.sub(lambda match: _mathml(match[1], "inline"), text)
    return re.sub("\0(\\d+)\0", lambda match: blocks[int(match[1])], text)


def anchor(text: str, separator: str = "-") -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def definition(path: Path, name: str) -> tuple[int, int]:
    """First and last line of `name`, "function", "Class" or "Class.method", in a Python file. KeyError without it."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    node: Any = None
    for part in name.split("."):
        node = {n.name: n for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)}[part]
        nodes = node.body
    return min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno


def _existing(entry: Any, there: set[str]) -> Any:
    """The part of a navigation entry of which there are pages."""
    if isinstance(entry, str):
        return entry if entry in there else None
    (title, inside), *_ = entry.items()
    if isinstance(inside, list):
        inside = [kept for kept in (_existing(each, there) for each in inside) if kept]
    elif inside not in there:
        return None
    return {title: inside} if inside else None


def _in_repository(page: PurePosixPath, target: str) -> str:
    """The file that a link of `page` names, by its path in the repository; "" for anything else."""
    if not target or "://" in target or target.startswith(("/", "mailto:")):
        return ""
    return posixpath.normpath(posixpath.join(page.parent, target))


def _source_name(path: str) -> str:
    return f"{SOURCES}{path}.md"


def _source_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * (2 + max(2, *(len(run) for run in re.findall("`+", text)), 0))
    language = LANGUAGES.get(PurePosixPath(path).suffix, "")
    head = f"---\nhide: [toc]\n---\n\n# {PurePosixPath(path).name}\n\n`{path}`\n\n"
    return f"{head}{fence} {{.{language or 'text'} linenums=1}}\n{text}\n{fence}\n"


def _link(page: PurePosixPath, uri: str, match: re.Match[str]) -> str:
    target, name = match[1], match[2] or ""
    path = _in_repository(page, target)
    if not path:
        return match[0]
    if path in PAGES:
        found = PAGES[path]
    elif path.startswith("docs/"):
        found = path.removeprefix("docs/")
    elif path.endswith((".svg", ".png")):
        found = SOURCES + path
    elif (ROOT / path).is_file():
        found = _source_name(path)
        if path.endswith(".py") and name:
            name = f"#__codelineno-0-{_line(page, path, name[1:])}"
    else:
        return match[0]  # a folder, or nothing: the build says so
    return f"({posixpath.relpath(found, posixpath.dirname(uri) or '.')}{name})"


def _line(page: PurePosixPath, path: str, name: str) -> int:
    try:
        return definition(ROOT / path, name)[0]
    except KeyError:
        _log.warning("%s: %s defines no %s", page, path, name)
        return 1


def _shown(page: PurePosixPath, paragraph: str) -> str:
    """The sources that a paragraph links to, each behind a line that opens it."""
    shown = []
    for target, name in _LINK.findall(paragraph):
        path = _in_repository(page, target)
        try:
            first, last = definition(ROOT / path, name[1:])
        except (KeyError, OSError):
            continue  # the link itself is warned of
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()[first - 1 : last]
        indent = len(lines[0]) - len(lines[0].lstrip())
        code = "\n".join("    " + line[indent:] for line in lines)
        title = f"{name[1:]} ({'/'.join(PurePosixPath(path).parts[-2:])}, line {first})"
        fold = "???" if last - first > OPEN_LINES else "???+"
        shown.append(f'\n\n{fold} example "{title}"\n\n    ````{{.python linenums={first}}}\n{code}\n    ````')
    return "".join(shown) + "\n"


def _block(match: re.Match[str], graph: str) -> str:
    """A fenced block as the site shows it."""
    indent, _, language, text = match.groups()
    if language.strip() == "math":
        return _mathml(text.strip(), "block")
    if language.strip() == "mermaid":
        return f"{indent}![The nodes of the graph and what they tell each other]({graph})"
    return match[0]


def _mathml(latex: str, display: str) -> str:
    mathml = convert(latex, display=display)
    return f'\n<div class="equation">{mathml}</div>\n' if display == "block" else f"<span>{mathml}</span>"


def _spaced(text: str) -> str:
    """A list that follows a paragraph gets the blank line before it that Python-Markdown wants."""
    lines: list[str] = []
    for line in text.split("\n"):
        before = lines[-1] if lines else ""
        plain = before.strip() and not before.startswith((" ", "|", "#", "<")) and not _LISTED.match(before)
        if _LISTED.match(line) and plain:
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
