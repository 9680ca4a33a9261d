"""The documentation as a site: built without a warning, read without internet, its code links lead where they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EQUATIONS = ROOT / "docs" / "equations.md"


def build(target, *options):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target), *options]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    done = build(target, "--quiet")
    assert done.returncode == 0, done.stderr
    return target


def test_every_page_is_in_it_and_in_its_navigation(site):
    start = (site / "index.html").read_text()
    for page in (*ROOT.glob("docs/*.md"), Path("benchmarks.md")):
        assert (site / f"{page.stem}.html").is_file()
        assert f'href="{page.stem}.html"' in start, f"{page.stem} is not in the navigation"


def test_nothing_of_it_is_fetched_from_elsewhere(site):
    loads = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="(https?:)?//[^"]*"')
    fetched = {str(page): match[0] for page in site.rglob("*.html") for match in loads.finditer(page.read_text())}
    canonical = {page: tag for page, tag in fetched.items() if 'rel="canonical"' not in tag}
    assert canonical == {}
    assert not re.search(r"url\(['\"]?https?:", "".join(f.read_text() for f in site.rglob("*.css")))


def test_equations_are_mathml_beside_the_code_that_links_lead_to(site):
    page = (site / "equations.html").read_text()
    assert page.count('display="block"') == EQUATIONS.read_text().count("```math")
    assert "\\" not in "".join(re.findall(r"<math.*?</math>", page)), "LaTeX that did not become MathML"
    links = re.findall(r'href="(source/[^"#]+)#(__codelineno-0-(\d+))"><code>([\w.]+)</code>', page)
    assert len(links) >= 15
    for target, place, line, name in links:
        source = (site / target).read_text()
        assert f'id="{place}"' in source, f"{name}: {target}"
        code = (ROOT / target.removeprefix("source/").removesuffix(".html")).read_text().splitlines()[int(line) - 1]
        assert re.match(rf"\s*(@\w|def {name.rpartition('.')[2]}\b)", code), f"{name}: line {line} is {code!r}"
        assert f"{name} (" in page, f"{name} is not shown"


def test_what_leads_nowhere_ends_the_build(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "method.md").write_text(
        "# Method\n\n[a](no_page.md) [b](#no-place) [c](../src/rlt_rl_node/rlt_rl_node/agent.py#Agent.no_method)\n"
        "\n```math\n\\beta\n```\n"
    )
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {docs}\nextra_css: []\nhooks: [{ROOT}/scripts/site_hooks.py]\n"
    )
    done = build(tmp_path / "site", "--config-file", str(config))
    assert done.returncode != 0
    assert "'no_page.md', but the target is not found" in done.stderr
    assert "'#no-place', but there is no such anchor" in done.stderr
    assert "agent.py defines no Agent.no_method" in done.stderr


def test_the_site_s_picture_of_the_graph_is_the_one_of_the_readme():
    drawn = " ".join(re.findall(r">([^<>]+)</text>", (ROOT / "docs" / "images" / "graph.svg").read_text()))
    (flow,) = re.findall(r"```mermaid\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = re.findall(r"(?:\[\"?)([\w ]+)(?:\]|<br/>|\"\])", flow)
    topics = re.findall(r"-- ([\w, ]+) -->", flow)
    assert len(names) >= 9
    assert len(topics) >= 14
    for word in (*names, *topics):
        assert word in drawn, f"{word} is in README.md and not in graph.svg"
