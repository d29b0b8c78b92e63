"""Write docs/study from the runs of launch/study.sh: records, verdicts, both pages, and the table of README.md.

    python docs/make_study.py study study-switched-seed_{0..4} study-probe study-cone

A record is kept as two Parquet files, without what the run cost, without arrays (histograms of attention logits), and
with single heads at the first and the last step alone: no claim is about the rest. The verdicts are those of the
records as they are kept: `dynamics claims` gives them again.
"""

import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from marks import between

from dynamics import record, runs
from dynamics.claims import CLAIMS, page
from dynamics.claims.evidence import load
from dynamics.claims.judge import Judgement, judge
from dynamics.claims.table import as_json, count, effect
from dynamics.cli.main import main as dynamics
from dynamics.run_info import FitInfo, SweepInfo

STUDY = Path(__file__).resolve().parent / "study"
RECORDS, CONFIGS = STUDY / "records", STUDY / "configs"
REPORTED = ("decoder", "causal-mlm", "encoder", "switched")  # arms of the report
FLOATS = ("value", "low", "high", "n_effective")


def keep(folder: Path) -> None:
    """Keep the record of a run, its `run.json`, and the configuration of the first seed of a design."""
    kept = RECORDS / folder.name
    (kept / "record").mkdir(parents=True)
    keep_text(folder / "run.json", kept / "run.json")
    if (folder / "config.yaml").is_file() and folder.name.endswith("-seed_0"):
        keep_text(folder / "config.yaml", CONFIGS / f"{folder.name.removesuffix('-seed_0')}.yaml")
    for kind in ("geometry", "curves"):
        parts = [record.read_part(path) for path in sorted((folder / "record").glob(f"{kind}-*.parquet"))]
        if parts:
            table = pa.concat_tables(parts)
            ends = pa.array([0, pc.max(table["step"]).as_py()])
            is_of_layer, is_end = pc.less(table["head"], 0), pc.is_in(table["step"], ends)
            table = table.filter(pc.and_(pc.not_equal(table["site"], "cost"), pc.or_(is_of_layer, is_end)))
            table = table.replace_schema_metadata({"dynamics.schema": str(record.SCHEMA)})
            pq.write_table(
                table,
                kept / "record" / f"{kind}-0000000000.parquet",
                compression="zstd",
                compression_level=19,
                use_dictionary=[name for name in table.column_names if name not in FLOATS],
                column_encoding=dict.fromkeys(FLOATS, "BYTE_STREAM_SPLIT"),
            )


def keep_text(path: Path, copy: Path) -> None:
    """Copy a file, of absolute paths in it their last parts alone: where things lay on a machine says nothing."""
    copy.write_text(re.sub(r"(?<![\w:/.])/(?:[^\s\"'/]+/)+", "", path.read_text()))


def verdicts() -> list[Judgement]:
    """Judge the claims by the records that are kept."""
    return judge(load(kept()), CLAIMS)


def kept() -> list[Path]:
    """Return what claims are judged by, as in launch/study.sh: the sweep, the probe and the cone."""
    return [folder for folder in sorted(RECORDS.iterdir()) if not isinstance(runs.read(folder), FitInfo)]


def readme(judgements: list[Judgement]) -> str:
    """Return the page with the table of these verdicts."""
    head = "| | claim | verdict | effect [95 %] | of |\n|---|---|---|---|---|\n"
    rows = (
        f"| [{one.claim.id}](../claims.md#the-claims) | {one.claim.statement} | {one.verdict} | {effect(one)} | "
        f"{count(one)} |\n"
        for one in judgements
    )
    return between(STUDY / "README.md", "verdicts", head + "".join(rows))


def main(names: list[str]) -> None:
    for folder in (RECORDS, CONFIGS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name in names:
        folder = runs.resolve(name)
        info = runs.read(folder)
        if isinstance(info, SweepInfo):
            (RECORDS / folder.name).mkdir()
            keep_text(folder / "run.json", RECORDS / folder.name / "run.json")
            for run in info.runs:
                if (folder.parent / run / "run.json").is_file() and runs.read(folder.parent / run).status == "done":
                    keep(folder.parent / run)
        else:
            keep(folder)
    study = load(kept())
    judgements = judge(study, CLAIMS)
    (STUDY / "claims.json").write_text(as_json(judgements))
    page.write(study, judgements, STUDY / "claims.html")
    (STUDY / "README.md").write_text(readme(judgements))
    drawn = [folder for arm in REPORTED for folder in sorted(RECORDS.glob(f"*-{arm}-seed_*"))]
    dynamics(["report", *map(str, drawn), "--out", str(STUDY / "report.html")])


if __name__ == "__main__":
    main(sys.argv[1:])
