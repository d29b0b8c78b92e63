"""What cleaning leaves of wikitext, what it counts, and that no input breaks it."""

import hashlib
import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mwparserfromhell.parser import use_c

from dynamics.data import wikitext
from dynamics.data.corpus import Corpus
from dynamics.data.wikitext import PROSE, clean, residue

PROSE_LINE = "Altruists may be divided in two broad groups. " * 10

PAGES = {
    # From enwik8: Alabama, Autism, A, Apollo 8, Altruism, Alfons Maria Jakob.
    "before\n[[[[image:AlaUrb.gif |thumb|center|250px|Alabama Cities]]\nafter": "before\nafter",
    "those with an [[Intelligence Quotient|IQ]]&lt;80 and IQ&gt;80": "those with an IQ<80 and IQ>80",
    'in [[HTML]] are "<tt>&amp;#65;</tt>" and': 'in HTML are "&#65;" and',
    "sea.\n{{listen|filename=A.ogg|title=''Apollo 8'''s launch|format=[[Ogg]]}}\nFor": "sea.\nFor",
    f"==Politics==\n<table border>\n<tr>\n<td valign='top'>\n{PROSE_LINE}\n</td></tr></table>\n==Religion==": (
        f"Politics\n{PROSE_LINE.strip()}\nReligion"
    ),
    "a [[Germany|German]- Jewish] [[neurologist]].": "a German- Jewish neurologist.",
    # Links.
    "[[tree]]s, [[Help:Edit|help]], [[:Category:Car doors]], [[Mercury (planet)|]]": (
        "trees, help, Category:Car doors, Mercury (planet)"
    ),
    "a[[File:x.jpg|thumb|a [[caption]] with {{x}}]]b[[category:Trees]]\n[[fr:Arbre]]\n[[zh-min-nan:X]]": "ab",
    "[http://a.org Some site] [http://a.org], http://b.org/c?d=e and text": "Some site , and text",
    "[[Image:x.jpg|thumb|a broken [[link]\nnext": "next",
    # Templates, references, code, media, tables.
    "{{a|{{b}}|c=[[d]]}}x{{{1|y}}}<!-- z -->": "x",
    "fact<ref name=x>Smith</ref><ref name=x/> and <math>x^2</math><gallery>a.jpg</gallery>": "fact and",
    "see <code>print()</code><pre>x</pre><syntaxhighlight lang=py>y</syntaxhighlight> here": "see here",
    "a\n{| class=x\n! head\n|-\n| cell || cell\n|}\nb": "a\nb",
    "a\n{| class=x\n|-\n| never closed\nb": "a\nb",
    # Layout, entities, characters, quotes.
    "* one\n** two\n# three\n; four : five\n----\n__NOTOC__six": "one\ntwo\nthree\nfour\nfive\nsix",
    "one<br>two<BR/>three</div>": "one\ntwo\nthree",
    "a&nbsp;b\u00a0&#150; &#xD800;c\u200b\ue000\x07d": "a b – �cd",
    "'''bold''', ''italic'', '''''both''''', rock 'n' roll": "bold, italic, both, rock 'n' roll",
    "''Hamlet'''s author": "Hamlet's author",
    "India ({{IPA|x}}) and f() and ( , )": "India and f() and",
    # Signs of markup that a reader sees: bars outside tables, what stands between nowiki tags.
    "so:\n\n||v|| = 0 for v = 0,\n:|-1| = 1\n* |a + b| < 3 | c > 2\nends": (
        "so:\n||v|| = 0 for v = 0,\n|-1| = 1\n|a + b| < 3 | c > 2\nends"
    ),
    "|u> = a|v>\n|w> = b|u>\n!Xun {| is {|x|} spoken": "|u> = a|v>\n|w> = b|u>\n!Xun {| is {|x|} spoken",
    "{{!}}k{{!}} {{=}} 2": "|k| = 2",
    "''Nina''<nowiki>'</nowiki>s <nowiki>[[a|b]] {{c}} ''d''</nowiki>\n<nowiki>* e|</nowiki>": (
        "Nina's [[a|b]] {{c}} ''d''\n* e|"
    ),
    "<nowiki>http://a.org</nowiki> and __init__, __NEW__, __NOINDEX__": "and __init__, __NEW__,",
    # Lines of a table or template that lacks its other half.
    "a\n\n{| class=x\n! head\n| b\n\n| c\n\n! d\n|}\n\n|e| = 1": "a\n|e| = 1",
    "{{Infobox\n| name = b\n|born=1950\ntext": "Infobox\ntext",
    "a\n|King\n|1950\n\nb": "a\nb",
    'a\n| width="30%" align="left" | cell\nb': "a\nb",
    "a\n|-\n! head\n|+ title\n| |x| ||\n|\nb\n\n|\n\nc": "a\nb\nc",
    "": "",
}


@pytest.mark.parametrize(("page", "text"), PAGES.items())
def test_pages(page: str, text: str):
    assert clean(page) == text


def test_short_cells_of_a_table_are_removed_and_its_prose_stays():
    line = "x" * (PROSE - 1)
    assert clean(f"<table><tr><td>{line}</td></tr></table>") == ""
    assert clean(f"<table><tr><td>{line}y</td></tr></table>") == line + "y"
    assert clean(f"a\n{{|\n| {line}yy\n|-\n| 12\n") == f"a\n{line}yy"


def test_removals_are_counted():
    removed: Counter[str] = Counter()
    clean("{{a}}[[File:b.jpg]]<ref>c</ref><b>d</b>http://e.org [[fr:F]]", removed=removed)
    clean("[[Category:G]]<!--h-->\n{|\n|i\n|}", removed=removed)
    kinds = "templates files references tags addresses categories comments tables"
    assert removed == dict.fromkeys([*kinds.split(), "language links"], 1)


def test_namespaces_of_another_language():
    assert clean("a[[Datei:x.jpg|Bild]]b") == "aBildb"
    assert clean("a[[Datei:x.jpg|Bild]]b", {"datei": 6}) == "ab"


def test_the_c_tokenizer_is_in_use():
    assert use_c


def test_the_recipe_names_its_versions():
    """Other text from the same pages needs another RECIPE, or caches keep the old text: renew both."""
    digest = hashlib.sha256("\n".join(map(clean, PAGES)).encode()).hexdigest()[:16]
    assert (wikitext.RECIPE.split(",")[0], digest) == ("wikitext 3", "6f97d12a254c7c2b")


MARKUP = [
    "{{",
    "}}",
    "[[",
    "]]",
    "{|",
    "|}",
    "|-",
    "|",
    "'''",
    "''",
    "<b>",
    "</b>",
    "<ref>",
    "</ref>",
    "<table>",
]
MARKUP += [
    "</table>",
    "<!--",
    "-->",
    "==",
    "\n",
    " ",
    "*",
    "http://a.b/c",
    "[",
    "]",
    "File:x|",
    "fr:",
    "<br>",
    "é",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MARKUP) | st.text(max_size=3), max_size=40).map("".join))
def test_no_wikitext_raises_and_the_text_is_tidy(page: str):
    text = clean(page)
    assert text == text.strip()
    assert "\n\n" not in text
    assert "  " not in text
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs")]
    if "&" not in page:
        assert not re.search(r"\{\{|\}\}|\[\[|\]\]|''|https?://", text)


@pytest.mark.parametrize(
    "part", ["{{", "[[a|", "[http://a ", "''", "<b>", "{|\n", "<ref>", "\n|", "<!--", "&amp;", "'''''"]
)
def test_long_runs_of_open_markup_take_little_time(part: str):
    assert len(clean(part * 3000)) <= 5 * 3000


def test_residue_counts_per_megabyte():
    text = "{{a}} [[b]] [[c]] <i> '''d''' {| http://e.org\n[[fr:x]]\nfr:Arbre\n"
    size = len(text.encode()) / 1e6
    counts = {name: round(rate * size) for name, rate in residue(text).items()}
    assert counts == {"{{ }}": 2, "[[ ]]": 6, "tags": 1, "tables": 1, "quotes": 2, "http": 1, "interwiki": 2}


def test_residue_of_enwik8(enwik8_prefix: Corpus):
    left = residue(enwik8_prefix.text())
    assert left.pop("tags") < 0.35
    assert left.pop("http") <= 1.7
    assert not any(left.values()), left


def test_size_of_enwik8(enwik8_prefix: Corpus):
    assert 0.68 < enwik8_prefix.counts["bytes"] / enwik8_prefix.counts["input bytes"] < 0.75
