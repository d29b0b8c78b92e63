"""Speed of cleaning against plain `mwparserfromhell.parse(...).strip_code()`, on the same articles.

Usage: python benchmarks/cleaning.py DUMP.xml[.xz|.bz2|.gz|.zip] [--megabytes M] [--json FILE]

On one core; the two alternate, page by page, `ROUNDS` times, and the best round of each counts. Decoding the XML is
part of neither.
`--json` writes {"ratio": {"strip_code": our speed over its speed}}.
"""

import argparse
import json
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell

from dynamics.data.sources import locate
from dynamics.data.wikitext import clean, residue

ROUNDS = 3


def articles(path: str, megabytes: float) -> list[str]:
    """Return the wikitext of the pages at the head of a dump, redirects left out."""
    head = b""
    for block in locate(path).blocks():
        head += block
        if len(head) >= megabytes * 1e6:
            break
    pages = re.findall(rb"<page>.*?</page>", head, re.DOTALL)
    texts = (ElementTree.fromstring(page).findtext("revision/text") or "" for page in pages)
    return [text for text in texts if not re.match(r"\s*#\s*redirect", text, re.IGNORECASE)]


def strip_code(text: str) -> str:
    """Clean with the peer."""
    return mwparserfromhell.parse(text).strip_code()


def main() -> None:
    """Measure, print, and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dump")
    parser.add_argument("--megabytes", type=float, default=5, help="of XML to take from the head of the dump")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    texts = articles(args.dump, args.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    contestants = {"dynamics": clean, "strip_code": strip_code}
    best = dict.fromkeys(contestants, float("inf"))
    outputs: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        seconds, outputs = dict.fromkeys(contestants, 0.0), {name: [] for name in contestants}
        for text in texts:
            for name, contestant in contestants.items():
                start = time.process_time()
                outputs[name].append(contestant(text))
                seconds[name] += time.process_time() - start
        best = {name: min(best[name], seconds[name]) for name in contestants}
    print(f"{len(texts)} articles, {size:.2f} MB of wikitext")
    for name in contestants:
        text = "\n\n".join(outputs[name])
        left = ", ".join(f"{kind} {rate:.1f}" for kind, rate in residue(text).items())
        out = len(text.encode()) / 1e6
        print(f"{name:<11}{size / best[name]:6.2f} MB/s, {out:.2f} MB out; left per MB: {left}")
    ratio = best["strip_code"] / best["dynamics"]
    print(f"ratio of speeds, dynamics / strip_code: {ratio:.2f}")
    if args.json:
        args.json.write_text(json.dumps({"ratio": {"strip_code": ratio}}) + "\n")


if __name__ == "__main__":
    main()
