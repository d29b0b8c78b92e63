"""The text that a reader of an article sees: no markup, code, media, tables, references, addresses.

1. `mwparserfromhell` parses the wikitext, all but its quote marks: an unbalanced `'''` in a template's argument
   would break the template open.
2. One walk over the nodes writes what is visible and counts what is removed. Tags in `EMPTIED` are removed with their
   contents, of any other tag the tag alone. A table is removed except for lines of `PROSE` characters or more: some
   articles wrap a section in `<table>` to draw a frame around it.
3. What the parser could not pair is removed: stray tags, brackets, lines of tables, `__TOC__`, parentheses whose
   contents were removed; quote marks follow MediaWiki's own rule.
4. HTML entities are decoded, once and after the tags: `&lt;b&gt;` and `&amp;#65;` are text.
5. Characters that do not print are removed (Unicode Cc, Cf, Co, Cs), runs of white space become one space and runs of
   line ends one line end: no article has a blank line.
"""

import html
import re
import unicodedata
from collections import Counter

import mwparserfromhell
from mwparserfromhell.nodes import Argument, Comment, ExternalLink, Heading, Tag, Template, Text, Wikilink
from mwparserfromhell.parser import ParserError, use_c
from mwparserfromhell.wikicode import Wikicode

from dynamics.data.bounds import bounded
from dynamics.errors import InputError

if not use_c:
    raise InputError("mwparserfromhell lacks its C tokenizer and would take hours: install it from a wheel.")

# Changes whenever the text of an article may change; caches are keyed by it.
RECIPE = f"wikitext 3, mwparserfromhell {mwparserfromhell.__version__}, Unicode {unicodedata.unidata_version}"
PASSES = 100  # over what the parser left; three are enough for real articles
PROSE = 300  # characters from which a line of a table counts as prose
# Namespaces that every wiki has, by their English names in lower case; a dump may declare more.
NAMESPACES = {
    **{"media": -2, "special": -1, "talk": 1, "user": 2, "user talk": 3, "wikipedia": 4, "wikipedia talk": 5},
    **{"project": 4, "project talk": 5, "file": 6, "file talk": 7, "image": 6, "image talk": 7, "mediawiki": 8},
    **{"mediawiki talk": 9, "template": 10, "template talk": 11, "help": 12, "help talk": 13, "category": 14},
    **{"category talk": 15, "portal": 100, "portal talk": 101},
}
_MEDIA, _CATEGORY = (-2, 6), 14
EMPTIED = {  # tags that are removed with their contents, and the kind that they are counted as
    **dict.fromkeys(("ref", "references"), "references"),
    **dict.fromkeys(("gallery", "imagemap", "timeline", "graph", "score"), "media"),
    **dict.fromkeys(("math", "chem", "ce", "hiero"), "formulas"),
    **dict.fromkeys(("code", "source", "syntaxhighlight", "pre", "script", "style"), "code"),
    **dict.fromkeys(("categorytree", "inputbox", "section", "templatedata"), "code"),
}
_BREAKS = {"br", "hr", "p", "div", "center", "blockquote", "ul", "ol", "dl", "li", "dt", "dd", "tr", "td", "th"}
_OTHER_TAGS = (
    "a|abbr|b|big|caption|cite|col|colgroup|del|dfn|em|font|h[1-6]|i|img|includeonly|ins|kbd|noinclude|nowiki|"
    "onlyinclude|rb|rp|rt|ruby|s|samp|small|span|strike|strong|sub|sup|table|tbody|tfoot|thead|tt|u|var|wbr"
)
_SIGNS = {"!": "|", "=": "="}  # templates that stand for a character
# Signs that mean nothing inside <nowiki> hide in the private use area until all markup has been removed.
_LITERAL = {ord(sign): 0xF700 + place for place, sign in enumerate("[]{}|'<>!_*#:;=-")}
_SHOWN = {hidden: sign for sign, hidden in _LITERAL.items()}
_NODES = {Template: "templates", Argument: "templates", Comment: "comments", ExternalLink: "addresses"}

_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|nostalgia|tokipona|minnan)(?:-[a-z]+)*:")
_BRACE = re.compile(r"([{}])")
_ADDRESS = re.compile(r"(?:https?|ftp|gopher|news|telnet)://[^\s\[\]<>|{}\"]*", re.IGNORECASE)
# Lines of a table, and what shows that there is one: its marks, attributes, or parameters of a template.
_CELL_LINE = re.compile(r"[ \t:*#]*(?:\{\||[|!])")
_TABLE_MARK = re.compile(
    r"[ \t:*#]*(?:\{\||\|(?:\}|[-+](?![\d.])|\s*$|\s*+(?:[\w.-][\w .-]*+|(?<= ))="
    r"|(?=[^|]*\|(?!\|))[^|]*=\s*[\"']))"
)
_BAR_LINE = re.compile(r"^[ \t:*#]*\{?\|", re.MULTILINE)
_OPEN_CELL = re.compile(r"[ \t]*\|[^|>]*$")
_BROKEN_FILE = re.compile(r"\[\[\s*(?:image|file|media|category)\s*:.*", re.IGNORECASE)
_BROKEN_LINK = re.compile(r"\[\[(?:[^\[\]|\n]*\|)?([^\[\]\n]*)\]?([^\[\]\n]*)\]?")
_TAG = re.compile(rf"</?(?:{'|'.join((*EMPTIED, *sorted(_BREAKS)))}|{_OTHER_TAGS})(?:[\s/][^<>]*)?>", re.IGNORECASE)
_SWITCHES = (
    "(?:NO|FORCE)?TOC|NOEDITSECTION|(?:NO)?NEWSECTIONLINK|NOGALLERY|HIDDENCAT|EXPECTUNUSEDCATEGORY|NO(?:CONTENT|TITLE)"
    "CONVERT|NOCC|NOTC|START|END|(?:NO)?INDEX|STATICREDIRECT|DISAMBIG|NOGLOBAL"
)
_STRAY = re.compile(rf"<!--|-->|__(?:{_SWITCHES})__| \([\s,;]*\)|\[\[|\]\]|\{{\{{|\}}\}}")
_LIST_MARKS = re.compile(r"^[ \t]*[*#:;]+", re.MULTILINE)
_QUOTES = re.compile(r"('{2,})")
_UNUSUAL = re.compile(r"[^\n\t -~]")
_NUMBER = re.compile(r"&#\d{4000,};?")  # longer than Python reads
_BLANKS = re.compile(r"[ \t]{2,}|\t")
_LINE_ENDS = re.compile(r" ?\n[ \n]*")


def clean(wikitext: str, namespaces: dict[str, int] = NAMESPACES, removed: Counter[str] | None = None) -> str:
    """Return the text of one article, empty where the parser fails; `removed` counts what is removed, by kind.

    `wikitext` is decoded from XML already; `namespaces` has numbers by names in lower case.

    >>> clean("'''Anarchism''' is [[politics|political]].<ref>Smith</ref> {{stub}}[[fr:Anarchisme]]")
    'Anarchism is political.'
    """
    removed = Counter() if removed is None else removed
    visible: list[str] = []
    wikitext = plain(wikitext)
    parsed = bounded(wikitext)
    if parsed != wikitext:
        removed["articles that are cut"] += 1
    try:
        _walk(mwparserfromhell.parse(parsed, skip_style_tags=True), visible, namespaces, removed)
    except (ParserError, RecursionError):
        removed["unparsed articles"] += 1
        return ""
    text = _remove_unpaired("".join(visible), removed).translate(_SHOWN)
    if "&" in text:
        text = plain(html.unescape(_NUMBER.sub("\ufffd", text)))
    return _LINE_ENDS.sub("\n", _BLANKS.sub(" ", text)).strip()


def plain(text: str) -> str:
    """Return text without characters that do not print, line ends as `\\n`, any other kind of space as a space.

    >>> plain("a\\u200bb\\r\\nc\\xa0\\td")
    'ab\\nc \\td'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    shown: dict[int, str] = {}
    for character in set(_UNUSUAL.findall(text)):
        category = unicodedata.category(character)
        if category[0] == "Z" or category in ("Cc", "Cf", "Co", "Cs"):
            shown[ord(character)] = " " if category[0] == "Z" else ""
    return text.translate(shown) if shown else text


def residue(text: str) -> dict[str, float]:
    """Return the markup that is left, in occurrences per million bytes of UTF-8."""
    patterns = {
        "{{ }}": r"\{\{|\}\}",
        "[[ ]]": r"\[\[|\]\]",
        "tags": r"</?[a-zA-Z][^<>]*>",
        "tables": r"\{\||\|\}",
        "quotes": r"'''",
        "http": r"https?://",
        "interwiki": r"^(?:\[\[)?[a-z]{2,3}(?:-[a-z]+)*:[^\s/].*$",
    }
    size = max(len(text.encode()), 1) / 1e6
    return {name: len(re.findall(pattern, text, re.MULTILINE)) / size for name, pattern in patterns.items()}


def _walk(code: Wikicode, visible: list[str], namespaces: dict[str, int], removed: Counter[str]) -> None:
    for node in code.nodes:
        if isinstance(node, Text):
            visible.append(node.value)
        elif isinstance(node, Wikilink):
            _walk_link(node, visible, namespaces, removed)
        elif isinstance(node, Tag):
            _walk_tag(node, visible, namespaces, removed)
        elif isinstance(node, Template) and (sign := _SIGNS.get(str(node.name).strip())):
            visible.append(sign)
        elif isinstance(node, Heading):
            visible.append("\n")
            _walk(node.title, visible, namespaces, removed)
            visible.append("\n")
        elif kind := _NODES.get(type(node)):
            removed[kind] += 1
            if isinstance(node, ExternalLink) and node.brackets and node.title is not None:
                _walk(node.title, visible, namespaces, removed)
        else:
            visible.append(str(node))


def _walk_link(link: Wikilink, visible: list[str], namespaces: dict[str, int], removed: Counter[str]) -> None:
    title = str(link.title).strip()
    prefix, colon, _ = title.partition(":")
    namespace = namespaces.get(prefix.strip().replace("_", " ").lower()) if colon else None
    if namespace in _MEDIA:
        removed["files"] += 1
    elif namespace == _CATEGORY:
        removed["categories"] += 1
    elif colon and link.text is None and _LANGUAGE.match(title):
        removed["language links"] += 1
    elif link.text is not None and link.text.nodes:
        _walk(link.text, visible, namespaces, removed)
    else:
        start = len(visible)
        _walk(link.title, visible, namespaces, removed)
        if title.startswith(":") and start < len(visible):  # [[:Category:X]] shows Category:X
            visible[start] = visible[start].lstrip().removeprefix(":")


def _walk_tag(tag: Tag, visible: list[str], namespaces: dict[str, int], removed: Counter[str]) -> None:
    name = str(tag.tag).strip().lower()
    if name in EMPTIED:
        removed[EMPTIED[name]] += 1
    elif name == "table":
        removed["tables"] += 1
        inside: list[str] = []
        _walk(tag.contents, inside, namespaces, removed)
        prose = [line for line in "".join(inside).split("\n") if len(line.strip()) >= PROSE]
        visible.append("\n".join(["", *prose, ""]))
    else:
        removed["tags"] += tag.wiki_markup is None
        if name == "nowiki" and tag.contents is not None:
            visible.append(_ADDRESS.sub("", str(tag.contents)).translate(_LITERAL))
            return
        line_end = "\n" if name in _BREAKS else ""
        visible.append(line_end)
        if tag.contents is not None:
            _walk(tag.contents, visible, namespaces, removed)
        visible.append(line_end)


def _remove_unpaired(text: str, removed: Counter[str]) -> str:
    """Remove the markup that the parser left as text because its other half is missing."""
    before = ""
    for _ in range(PASSES):  # a removal may join what was apart, as in `{'''{`
        if text == before:
            break
        before = text
        if "}}" in text:
            text = _without_templates(text, removed)
        text = _TAG.sub("", text)
        if "://" in text:
            text, count = _ADDRESS.subn("", text)
            removed["addresses"] += count
        if _BAR_LINE.search(text):
            text = _without_cells(text)
        if "[[" in text:
            text = _BROKEN_LINK.sub(r"\1\2", _BROKEN_FILE.sub("", text))
        text = _LIST_MARKS.sub("", _STRAY.sub("", text))
        if "''" in text:
            text = "\n".join(_unquote(line) if "''" in line else line for line in text.split("\n"))
    return text


def _without_templates(text: str, removed: Counter[str]) -> str:
    """Remove `{{a}}` until none is left, from the innermost outwards, in one pass.

    >>> _without_templates("a{{b|{{c}}}}d{{{e}}}", Counter())
    'ad{}'
    """
    parts: list[str] = []
    for piece in filter(None, _BRACE.split(text)):
        parts.append(piece)
        if parts[-2:] == ["}", "}"]:
            start = len(parts) - 3
            while start >= 0 and parts[start] not in ("{", "}"):
                start -= 1
            if start > 0 and parts[start - 1 : start + 1] == ["{", "{"]:
                del parts[start - 1 :]
                removed["templates"] += 1
    return "".join(parts)


def _without_cells(text: str) -> str:
    r"""Remove lines of tables and templates that the parser could not pair, but no prose such as `|x| = 3`.

    They begin with `|` or `!` and stand between `{|` and `|}`, or in a paragraph with the marks of a table.

    >>> _without_cells("|x| is even\n\n|-\n| 12")
    '|x| is even\n\n\n'
    """
    paragraphs, is_open = text.split("\n\n"), False
    for place, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        is_table = any(map(_TABLE_MARK.match, lines)) or sum(map(bool, map(_OPEN_CELL.match, lines))) > 1
        for number, line in enumerate(lines):
            if (is_table or is_open) and _CELL_LINE.match(line):
                is_open = (is_open or "{|" in line) and "|}" not in line
                lines[number] = cell if len(cell := line.rpartition("|")[2]) >= PROSE else ""
        paragraphs[place] = "\n".join(lines)
    return "\n\n".join(paragraphs)


def _unquote(line: str) -> str:
    """Remove the marks of bold and italics; MediaWiki's rule decides which `'` of an unbalanced line is a letter.

    >>> _unquote("''Hamlet'''s author"), _unquote("L''''Avare'''")
    ("Hamlet's author", "L'Avare")
    """
    parts = _QUOTES.split(line)
    marks = {i: len(parts[i]) for i in range(1, len(parts), 2)}
    bold = [i for i, n in marks.items() if n in (3, 4)]
    both = sum(n >= 5 for n in marks.values())
    italic = sum(n == 2 for n in marks.values())
    letter = None
    if (len(bold) + both) % 2 and (italic + both) % 2 and bold:
        after_letter = [i for i in bold if parts[i - 1][-1:].strip()]
        after_single = [i for i in after_letter if parts[i - 1][-2:-1] == " "]
        letter = (after_single or after_letter or bold)[0]
    for i, n in marks.items():
        parts[i] = "'" if i == letter or n == 4 or n > 5 else ""
    return "".join(parts)
