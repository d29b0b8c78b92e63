"""The view of a W&B project: what it shows, where it is saved, and what is refused."""

import json
import re
import socket
import sys

import pytest
import wandb

from dynamics.cli.main import main
from dynamics.loggers import names, workspace
from dynamics.record import Row
from tests.loggers.stand_in import StandIn


class Server(StandIn):
    """A server with one project and its saved views."""

    project = "known"

    def __init__(self) -> None:
        super().__init__()
        self.views, self.changes = {}, []

    def _GetDefaultEntity(self, _):
        return {"viewer": {"id": "v", "entity": "someone"}}

    def _View(self, asked):
        if (asked["entityName"], asked["projectName"]) != ("someone", self.project):
            return {"project": None}
        edges = [{"node": view} for view in self.views.values() if view["name"] == asked["viewName"]]
        return {"project": {"allViews": {"edges": edges}}}

    def _UpsertView2(self, sent):
        number = sent.get("id") or f"view{len(self.views)}"
        inserted = number not in self.views
        self.views[number] = {**sent, "id": number}
        self.changes.append("created" if inserted else "updated")
        return {"upsertView": {"view": {"id": number, "name": sent["name"]}, "inserted": inserted}}


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Server() as started:
        monkeypatch.chdir(tmp_path)
        for key, value in started.environment.items():
            monkeypatch.setenv(key, value)
        wandb.teardown()  # the client keeps the settings that it has read first
        yield started
        wandb.teardown()


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["workspace", *words])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_it_is_printed_without_a_network_the_same_each_time(monkeypatch, capsys):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection was made"))
    texts = set()
    for _ in range(2):
        main(["workspace", "--project", "p", "--entity", "e", "--print-spec"])
        texts.add(capsys.readouterr().out)
    (text,) = texts
    section = json.loads(text)["spec"]["section"]
    assert section["settings"]["shouldAutoGeneratePanels"] is False
    sections = section["panelBankConfig"]["sections"]
    expected = ["Training", "Anisotropy", "Dimension", "Queries and keys", "Attention", "Cost"]
    assert [part["name"] for part in sections] == expected
    panels = [panel for part in sections for panel in part["panels"]]
    assert len(panels) == 20
    assert len({panel["__id__"] for panel in panels}) == len(panels)
    assert {panel["config"]["xAxis"] for panel in panels} == {names.STEP}
    assert [group["name"] for group in section["runSets"][0]["grouping"]] == ["group"]
    assert {(panel["config"]["groupAgg"], panel["config"]["groupArea"]) for panel in panels} == {("mean", "minmax")}


def test_every_panel_shows_the_keys_of_a_run_and_no_heads(honest_rows):
    keys = {names.flat_name(row) for row in honest_rows}
    for section, views in workspace.SECTIONS.items():
        for view in views:
            shown = {key for key in keys if re.search(view.pattern, key)}
            assert shown or view.title in ("Bits per masked character", "Task"), (section, view.title)
            assert not any("_head/" in key or key.endswith("layer_00") for key in shown)
            if not view.curves:
                layers = {names.flat_name(row) for row in honest_rows if row.layer == 2 and row.head == -1}
                assert shown & layers


@pytest.fixture(scope="module")
def honest_rows():
    """A row for every key that a run of the default suite logs."""
    from dynamics import metrics

    rows = [
        Row("r", "", "", 0, site, layer, head, metric, 0.0)
        for site, chosen in metrics.default().items()
        for metric in chosen
        for layer in range(3)
        for head in (-1, 0)
    ]
    curves = {"train": ("loss", "bits_per_character"), "validation": ("loss", "bits_per_character")}
    curves["cost"] = ("step_seconds", "measure_seconds")
    return rows + [Row("r", "", "", 0, site, -1, -1, metric, 0.0) for site in curves for metric in curves[site]]


def test_it_is_created_once_and_then_updated(server, capsys):
    for words in ([], ["--entity", "someone"], []):
        main(["workspace", "--project", "known", *words])
        assert capsys.readouterr().out.strip() == f"workspace: {server.url}/someone/known?nw={workspace.NAME}"
    assert server.changes == ["created", "updated", "updated"]
    (view,) = server.views.values()
    assert (view["displayName"], view["projectName"]) == ("Geometry", "known")
    printed = json.loads(workspace.spec("known", "someone"))["spec"]
    assert json.loads(view["spec"]) == printed


@pytest.mark.parametrize(("words", "place"), [(["--project", "other"], "someone"), (["--entity", "nobody"], "nobody")])
def test_an_unknown_project_or_entity_is_refused(server, capsys, words, place):
    error = refusal(capsys, "--project", "known", *words)
    assert f"W&B has no project {words[1] if 'other' in words else 'known'} of {place}" in error
    assert not server.views


def test_a_server_that_breaks_or_is_away_is_a_sentence(server, capsys, monkeypatch):
    monkeypatch.setattr(Server, "_UpsertView2", lambda *_: {})
    assert "W&B does not save the view of someone/known" in refusal(capsys, "--project", "known")


def test_without_a_key_an_entity_or_the_package_it_says_so(server, capsys, monkeypatch):
    monkeypatch.setattr(Server, "_GetDefaultEntity", lambda *_: {"viewer": {"id": "v", "entity": None}})
    assert "has no default entity: give --entity" in refusal(capsys)
    monkeypatch.setattr(wandb, "login", lambda prompt: False)  # a process keeps a key that it has seen
    assert "W&B has no key: run `wandb login`" in refusal(capsys)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert "pip install wandb-workspaces" in refusal(capsys, "--print-spec")
