"""Pages say what is so: links lead somewhere, quoted errors are in the source, every page is in the index."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and GitLab make them."""
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#{1,6} +(.+?) *$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: str) -> list[str]:
    """Relative links of a page, pictures included; not those in code."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"<img [^>]*src=\"([^\"]+)\"", prose)
    return [link for link in found if not re.match(r"https?:|mailto:", link)]


def missing(page: str) -> list[str]:
    """The links of a page that lead nowhere."""
    lost = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists():
            lost.append(link)
        elif anchor and target.suffix == ".md":
            lost += [link] if anchor not in anchors(target.resolve().relative_to(ROOT).as_posix()) else []
    return lost


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading_in_it(page):
    assert not missing(page)


def test_a_link_that_leads_nowhere_is_found(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text('# One\n[x](b.md) [y](#one) [z](#two) `[code](c.md)` <img src="d.png">')
    monkeypatch.setattr("tests.test_docs.ROOT", tmp_path)
    text_of.cache_clear()
    assert missing("a.md") == ["b.md", "#two", "d.png"]
    text_of.cache_clear()


def test_the_index_lists_every_page_once_with_a_line_about_it():
    listed = re.findall(
        r"^\| \[[^\]]+\]\(([\w-]+\.\w+)\) \| .{10,} \|$", text_of("docs/README.md"), re.MULTILINE
    )
    pages = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")} - {
        "README.md"
    }
    assert sorted(listed) == sorted(pages)


def test_what_the_pages_link_to_is_in_git():
    known = set(
        subprocess.run(
            ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.splitlines()
    )
    folders = {parent.as_posix() for name in known for parent in Path(name).parents}
    for page in PAGES:
        for link in links(page):
            if name := link.partition("#")[0]:
                path = ((ROOT / page).parent / name).resolve().relative_to(ROOT).as_posix()
                assert path in known | folders, f"{page}: {link}"


# Errors ----------------------------------------------------------------------------------------


def source(*folders: Path) -> str:
    """The code of folders, with neighbouring string literals joined into one."""
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    code = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", code).replace('\\"', '"')


def quoted() -> dict[str, list[str]]:
    """What docs/troubleshooting.md quotes from each group's errors, by heading."""
    groups: dict[str, list[str]] = {}
    for part in re.split(r"^## ", text_of("docs/troubleshooting.md"), flags=re.MULTILINE)[1:]:
        cells = re.findall(r"^\| (`.+?`) \| ", part, flags=re.MULTILINE)
        found = [line for cell in cells for line in re.findall(r"`([^`]+)`", cell)]
        groups[part.splitlines()[0]] = found
    return {title: lines for title, lines in groups.items() if lines}


@pytest.mark.parametrize("group", quoted())
def test_every_quoted_error_is_in_the_source(group):
    if group.startswith("DVC"):
        where = source(*(Path(find_spec(name).origin).parent for name in ("dvc", "hydra", "antlr4")))
    else:
        where = source(ROOT / "selma", ROOT / "stages") + text_of("Makefile")
    lost = []
    for line in quoted()[group]:
        parts = [re.escape(part) for part in line.split("...") if part.strip(" :;,")]
        assert sum(map(len, parts)) >= 10, f"{line}: too short to say anything"
        if not re.search(r"[^\n]*?".join(parts), where):
            lost.append(line)
    assert not lost
