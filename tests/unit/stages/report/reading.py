"""What tests read of a page: its tags, its words, the rows of its tables."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Tags(HTMLParser):
    """Every tag with its attributes; fails where tags are not closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


def assert_whole(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Check that a page is well-formed and loads nothing, and its links lead somewhere; returns its tags."""
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    assert "@import" not in page and "url(" not in page
    assert not [
        name for _, attributes in tags.found for name in attributes if name.startswith("on")
    ]
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] or "" for _, attributes in tags.found if "href" in attributes]
    assert all(target.startswith("#") and target[1:] in ids for target in targets)
    return tags.found


def text_of(page: str) -> str:
    """The page's words, blanks as one."""
    body = page.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def rows_of(page: str, caption: str) -> dict[str, list[str]]:
    """Cells of the table with this caption, by the name of the row."""
    table = re.search(rf"<caption>{re.escape(caption)}.*?</table>", page, re.DOTALL)
    assert table, caption
    found = re.findall(r'scope="row">(.*?)</th>(.*?)</tr>', table.group(), re.DOTALL)
    return {name: re.findall(r'<td role="cell">(.*?)</td>', cells) for name, cells in found}
