"""Write docs/study from the runs of launch/study.sh: records, verdicts, both pages, and the tables of README.md.

    python docs/make_study.py study study-switched-seed_{0..4} study-probe study-cone

A record is kept as two Parquet files, without what the run cost, without arrays (histograms of attention logits), and
with single heads at the first and the last step alone: no claim is about the rest. The verdicts are those of the
records as they are kept: `dynamics claims` gives them again.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from marks import between

from dynamics import record, runs
from dynamics.claims import CLAIMS
from dynamics.claims.evidence import load
from dynamics.claims.judge import Judgement, judge
from dynamics.claims.run import claims
from dynamics.claims.table import count, effect
from dynamics.cli.main import main as dynamics
from dynamics.run_info import FitInfo, SweepInfo

STUDY = Path(__file__).resolve().parent / "study"
RECORDS, CONFIGS = STUDY / "records", STUDY / "configs"
TWINS = ("decoder", "causal-mlm", "encoder")
REPORTED = (*TWINS, "switched")  # arms of the report
FOLLOWED = (  # quantities along the steps: site, metric, decimals
    *(("residual", "anisotropy", 2), ("residual", "intrinsic_dimension", 1), ("residual", "effective_rank", 0)),
    *(("residual", "mean_cosine", 2), ("attention", "normalized_entropy", 2), ("attention", "sink_mass", 3)),
)
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


def verdict_table(judgements: list[Judgement]) -> str:
    rows = (
        f"| [{one.claim.id}](../claims.md#the-claims) | {one.claim.statement} | {one.verdict} | {effect(one)} | "
        f"{count(one)} |\n"
        for one in judgements
    )
    return "| | claim | verdict | effect [95 %] | of |\n|---|---|---|---|---|\n" + "".join(rows)


def profile_table(rows: pd.DataFrame) -> str:
    """Return anisotropy by arm and layer, and bits on validation, at the last step: means over seeds."""
    last = rows[rows["step"] == rows["step"].max()]
    shares = last[(last["site"] == "residual") & (last["metric"] == "anisotropy") & (last["layer"] > 0)]
    shares = shares.groupby(["arm", "layer"], sort=False)["value"].mean().unstack()
    bits = last[(last["site"] == "validation") & last["metric"].str.startswith("bits")].groupby("arm")["value"].mean()
    seeds = last.groupby("arm")["run"].nunique()
    lines = (
        f"| {arm} | {seeds[arm]} | {' | '.join(f'{x:.2f}' for x in shares.loc[arm])} | {bits[arm]:.2f} |\n"
        for arm in shares.index
    )
    head = f"| arm | seeds | layer {' | '.join(map(str, shares.columns))} | bits |\n"
    return head + "|---" * (len(shares.columns) + 3) + "|\n" + "".join(lines)


def course_table(rows: pd.DataFrame) -> str:
    """Return quantities of the twins along the steps: means over layers 1..L and seeds."""
    twins = rows[rows["arm"].isin(TWINS) & (rows["layer"] > 0) & (rows["head"] == -1)]
    lines, steps = [], list[int]()
    for site, metric, decimals in FOLLOWED:
        of = twins[(twins["site"] == site) & (twins["metric"] == metric)]
        means = of.groupby(["arm", "step"])["value"].mean().unstack()
        steps = list(means.columns)
        for arm in TWINS:
            values = " | ".join(f"{x:.{decimals}f}" for x in means.loc[arm])
            lines.append(f"| {metric.replace('_', ' ')} | {arm} | {values} |\n")
    return f"| | | step {' | '.join(map(str, steps))} |\n" + "|---" * (len(steps) + 2) + "|\n" + "".join(lines)


def readme(judgements: list[Judgement]) -> str:
    """Return the page with its tables as these verdicts and the records have them."""
    rows = record.read([folder for folder in sorted(RECORDS.iterdir()) if "-seed_" in folder.name])
    rows = rows.assign(arm=rows["run"].str.extract("^[^-]+-(.+)-seed_")[0])
    text = (STUDY / "README.md").read_text()
    for name, table in {
        "verdicts": verdict_table(judgements),
        "profiles": profile_table(rows),
        "courses": course_table(rows),
    }.items():
        text = between(text, name, table)
    return text


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
    claims(kept(), STUDY / "claims.json", STUDY / "claims.html")
    (STUDY / "README.md").write_text(readme(verdicts()))
    drawn = [folder for arm in REPORTED for folder in sorted(RECORDS.glob(f"*-{arm}-seed_*"))]
    dynamics(["report", *map(str, drawn), "--out", str(STUDY / "report.html")])


if __name__ == "__main__":
    main(sys.argv[1:])
