"""The saved view of a W&B project, made from code: panels in sections, layers overlaid, seeds as bands. No torch here.

It is always made anew: what W&B hands out of a saved view lacks parts of its panels.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from dynamics.errors import InputError, in_words
from dynamics.loggers.names import STEP, flat_name
from dynamics.record import Row

TITLE, NAME = "Geometry", "dynamicsgeo"  # on the page, and in its address: the same in every project
LAYERS = r"(0[1-9]|[1-9]\d+)"  # without layer 0, the embeddings, which would take the scale of all others
MOST = 30  # runs in a panel


class View(NamedTuple):
    """A panel: metrics of some sites, of all layers or (curves) of none."""

    title: str
    sites: tuple[str, ...]
    metrics: tuple[str, ...]
    curves: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression for the keys of the panel.

        >>> View("Drift", ("query",), ("drift",)).pattern
        '^(query_drift/layer_(0[1-9]|[1-9]\\\\d+))$'
        """
        rows = [Row("", "", "", 0, s, -1 if self.curves else 0, -1, m, 0.0) for s in self.sites for m in self.metrics]
        keys = (flat_name(row).replace("layer_00", f"layer_{LAYERS}") for row in rows)
        return f"^({'|'.join(keys)})$"


def _residual(title: str, metric: str) -> View:
    return View(title, ("residual",), (metric,))


SECTIONS = {
    "Training": (
        View("Loss (nats)", ("train", "validation"), ("loss",), True),
        View("Bits per character", ("train", "validation"), ("bits_per_character",), True),
        View("Bits per masked character", ("train", "validation"), ("bits_per_masked_character",), True),
        View("Task", ("validation",), ("accuracy", "f1", "exact_match", "matthews_correlation"), True),
    ),
    "Anisotropy": (
        _residual("Anisotropy", "anisotropy"),
        _residual("Mean cosine", "mean_cosine"),
        _residual("IsoScore", "isoscore"),
        _residual("Local anisotropy", "local_anisotropy"),
    ),
    "Dimension": (
        _residual("Intrinsic dimension", "intrinsic_dimension"),
        _residual("Effective rank", "effective_rank"),
        _residual("Participation ratio", "participation_ratio"),
    ),
    "Queries and keys": (
        View("Drift of queries", ("query",), ("drift",)),
        View("Drift of keys", ("key",), ("drift",)),
        View("Norm of the mean query and key", ("query", "key"), ("norm_of_mean",)),
        View("Alignment of queries and keys", ("attention",), ("qk_alignment",)),
    ),
    "Attention": (
        View("Normalised entropy", ("attention",), ("normalized_entropy",)),
        View("Mass on the first token", ("attention",), ("sink_mass",)),
        View("Greatest logit", ("attention",), ("logit_max",)),
    ),
    "Cost": (
        View("Seconds a step", ("cost",), ("step_seconds",), True),
        View("Seconds a measurement", ("cost",), ("measure_seconds",), True),
    ),
}


def spec(project: str, entity: str | None = None) -> str:
    """Return the view as JSON, the same at every call; needs no network."""
    model = _workspace(project, entity or "")._to_model()
    return str(model.model_dump_json(by_alias=True, exclude_none=True, indent=2))


def save(project: str, entity: str | None = None) -> str:
    """Create the view in a project, or bring it up to date; return its address.

    Raises:
        InputError: there is no key, no such entity or project, or the server does not answer.
    """
    import wandb

    where = f"{entity}/{project}" if entity else project
    try:
        wandb.setup(wandb.Settings(silent=True, mode="online"))
        if not wandb.login(prompt=False):
            raise InputError("W&B has no key: run `wandb login`, or print the view with --print-spec.")
        if not (owner := entity or wandb.Api().default_entity):
            raise InputError("this account of W&B has no default entity: give --entity.")
        where = f"{owner}/{project}"
        workspace = _workspace(project, owner)
        workspace._internal_id = _find(owner, project)
        return str(workspace.save().url)
    except InputError:
        raise
    except Exception as error:  # each layer of the client raises its own
        raise InputError(
            f"W&B does not save the view of {where} ({in_words(error)}): check --project and --entity, the key, and "
            "whether the server can be reached."
        ) from error


def _find(entity: str, project: str) -> str:
    """Return the id of the view in a project; empty where there is none yet."""
    from wandb_workspaces.workspaces.internal import get_view_dict

    try:
        return str(get_view_dict(entity, project, NAME)["id"])
    except ValueError as error:
        if "Workspace" in str(error):
            return ""
        raise InputError(
            f"W&B has no project {project} of {entity}, or this key does not see it: log a run there first, or correct "
            "--project and --entity."
        ) from error


def _workspace(project: str, entity: str) -> Any:
    """Return the view: its panels have fixed ids, so that it is the same text at every call."""
    try:
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError as error:
        raise InputError("dynamics workspace needs a package: pip install wandb-workspaces.") from error
    sections = [
        ws.Section(name=name, panels=list(_panels(name, views)), is_open=True) for name, views in SECTIONS.items()
    ]
    runs = ws.RunsetSettings(groupby=[expr.Metric("Group")])  # runs that differ in their seed alone
    settings = ws.WorkspaceSettings(x_axis=STEP, max_runs=MOST)
    workspace = ws.Workspace(entity, project, TITLE, sections, settings, runs, auto_generate_panels=False)
    workspace._internal_name, workspace._internal_runset_id = f"nw-{NAME}-v", NAME
    return workspace


def _panels(section: str, views: Iterable[View]) -> Iterator[Any]:
    """Yield the panels of a section, three in a row; the geometry is measured at log-spaced steps."""
    from wandb_workspaces.reports.v2.interface import Layout, LinePlot

    for number, view in enumerate(views):
        panel = LinePlot(
            title=view.title,
            x=STEP,  # named by each panel: the page does not look at what the keys were bound to
            metric_regex=view.pattern,
            log_x=not view.curves,
            title_x="optimiser step",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=MOST,
            layout=Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6),
        )
        panel._id = re.sub(r"\W", "", f"{section}{number}".lower())
        yield panel
