"""The text of a corpus: `load` it by name or path, `clean` the wikitext of one article."""

from dynamics.data.corpus import Corpus, load
from dynamics.data.wikitext import clean

__all__ = ["Corpus", "clean", "load"]
