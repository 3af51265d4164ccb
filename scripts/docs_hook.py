"""Copy files of the repository that pages link to into the website, as text files, because mkdocs knows only the files in docs/.

mkdocs.yml names this file as a hook.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "source"
"""Folder of the site for the linked files."""

_LINK = re.compile(r"(\[[^\]]*\])\(((?:\.\./)+[^)\s#]+)(#[^)\s]*)?\)")


def _outside(page: str, link: str) -> Path | None:
    """Return the file or folder outside of docs/ to which a page's link leads.

    None: the target is in docs/, or it is missing. mkdocs reports missing targets.
    """
    target = ROOT.joinpath("docs", page).parent.joinpath(link).resolve()
    return None if target.is_relative_to(ROOT / "docs") or not target.exists() else target.relative_to(ROOT)


def on_files(files: Files, config: Any) -> Files:
    """Add the linked files to the site."""
    for page in files.documentation_pages():
        for _, link, _ in _LINK.findall(page.content_string):
            path = _outside(page.src_uri, link)
            name = f"{SOURCE}/{path}.txt"
            if path is not None and ROOT.joinpath(path).is_file() and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change links to files outside of docs/ to links to their copies. A link to a folder becomes the folder's name."""

    def moved(link: "re.Match[str]") -> str:
        path = _outside(page.file.src_uri, link[2])
        if path is None:
            return link[0]
        if ROOT.joinpath(path).is_dir():
            return f"`{path}/`"
        copy = posixpath.relpath(f"{SOURCE}/{path}.txt", posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}({copy})"

    return _LINK.sub(moved, markdown)
