"""A stand-in for the server of W&B on a loopback port: what the client asks of it for runs, files and artifacts.

It keeps the lines of a history where the client puts them, by offset, as the real one does: a line that is sent twice
is there once. `outage` makes it answer 503, and `wait` sees a condition come true.
"""

import json
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = {"id": "e", "name": "someone"}


@dataclass
class StoredRun:
    """What the server holds of a run."""

    facts: dict[str, Any] = field(default_factory=dict)  # group, job type, tags, config as the client sent them
    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by file of the stream
    files: set[str] = field(default_factory=set)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines["wandb-history.jsonl"]]

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.lines["wandb-summary.json"] or ["{}"])[-1])

    @property
    def config(self) -> dict[str, Any]:
        config = json.loads(self.facts.get("config") or "{}")
        return {key: entry["value"] for key, entry in config.items() if key != "_wandb"}

    @property
    def defined(self) -> dict[str, str]:
        """The x axis of every key that is defined by its exact name."""
        entries = json.loads(self.facts["config"])["_wandb"]["value"].get("m", [])
        return {e["1"].replace("\\.", "."): entries[e["5"] - 1]["1"] if "5" in e else "" for e in entries if "1" in e}


class StandIn:
    """The server, until the block ends; `url` is its address."""

    def __init__(self, port: int = 0) -> None:
        self.runs: dict[str, StoredRun] = defaultdict(StoredRun)
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.outage, self.refused = False, 0
        self.unknown: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if stand_in.outage:
                    stand_in.refused += 1
                    self.answer({"error": "unavailable"}, 503)
                elif self.path == "/graphql":
                    self.answer({"data": stand_in.graphql(json.loads(body))})
                elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                    self.answer(stand_in.stream(match[1], json.loads(body)))
                else:
                    stand_in.unknown.append(self.path)
                    self.answer({}, 404)

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer({}, 503 if stand_in.outage else 200)

            def do_GET(self) -> None:
                self.answer({}, 404)

            def answer(self, content: Any, status: int = 200) -> None:
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Print nothing: a client that is killed leaves its connections."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "StandIn":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a client takes this server for W&B's, with uploads as often as tests need them."""
        return {
            **{"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40, "WANDB_MODE": "online"},
            "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",
        }

    def wait(self, condition: Any, seconds: float = 60) -> None:
        """Wait until a condition holds; the limit only ends a test that would hang."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the server never saw it"
            time.sleep(0.02)

    def stream(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[name]
        for file, chunk in body.get("files", {}).items():
            start = chunk["offset"]
            run.lines[file][start : start + len(chunk["content"])] = chunk["content"]
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
        return {}

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            self.unknown.append(name)
            return {}
        return answer(request.get("variables") or {})

    def _Viewer(self, _: Any) -> Any:
        teams = {"edges": [{"node": ENTITY}]}
        return {"viewer": {"id": "v", "entity": "someone", "username": "someone", "flags": "{}", "teams": teams}}

    def _ServerFeaturesQuery(self, _: Any) -> Any:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, asked: Any) -> Any:
        run = self.runs.get(asked["name"])
        if run is None or not run.facts:
            return {"model": {"id": "p", "name": asked["project"], "entity": ENTITY, "bucket": None}}
        tails = {key: json.dumps(run.lines[f"wandb-{key}.jsonl"][-1:]) for key in ("history", "events")}
        bucket = {
            **{"id": asked["name"], "name": asked["name"], "displayName": run.facts.get("displayName")},
            **{"summaryMetrics": json.dumps(run.summary), "config": run.facts["config"], "tags": run.facts["tags"]},
            **{"historyLineCount": len(run.lines["wandb-history.jsonl"]), "historyTail": tails["history"]},
            **{"eventsLineCount": len(run.lines["wandb-events.jsonl"]), "eventsTail": tails["events"]},
            **{"logLineCount": 0, "notes": None, "wandbConfig": '{"t": 1}'},
        }
        return {"model": {"id": "p", "name": asked["project"], "entity": ENTITY, "bucket": bucket}}

    def _UpsertBucket(self, sent: Any) -> Any:
        inserted = sent["name"] not in self.runs
        run = self.runs[sent["name"]]
        run.facts |= {key: value for key, value in sent.items() if value is not None}
        run.facts.setdefault("tags", [])
        project = {"id": "p", "name": sent["project"], "entity": ENTITY}
        bucket = {"id": sent["name"], "name": sent["name"], "project": project, "config": run.facts["config"]}
        bucket |= {"displayName": run.facts.get("displayName"), "historyLineCount": 0, "description": None}
        return {"upsertBucket": {"bucket": {**bucket, "sweepName": None}, "inserted": inserted}}

    def _RunStoppedStatus(self, _: Any) -> Any:
        return {"project": {"run": {"stopped": False}}}

    def _CreateRunFiles(self, sent: Any) -> Any:
        self.runs[sent["run"]].files |= set(sent["files"])
        files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in sent["files"]]
        return {"createRunFiles": {"runID": sent["run"], "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, _: Any) -> Any:
        return {"project": None}

    def _CreateArtifact(self, sent: Any) -> Any:
        fields = sent["input"]
        name = fields.get("artifactCollectionName") or fields["artifactCollectionNames"][0]
        self.artifacts[name] = {**fields, "files": []}
        artifact = {"id": name, "state": "PENDING", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, sent: Any) -> Any:
        file = {"id": "f", "uploadUrl": f"{self.url}/upload", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": sent["artifactID"], "file": file}}}

    def _UpdateArtifactManifest(self, sent: Any) -> Any:
        file = {"id": "f", "uploadUrl": f"{self.url}/upload", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": sent["artifactManifestID"], "file": file}}}

    def _CreateArtifactFiles(self, sent: Any) -> Any:
        edges = []
        for file in sent.get("input", sent)["artifactFiles"]:
            self.artifacts[file["artifactID"]]["files"].append(file["name"])
            place = {"storagePath": file["name"], "uploadUrl": f"{self.url}/upload", "uploadHeaders": []}
            edges.append({"node": {**place, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, sent: Any) -> Any:
        self.artifacts[sent["artifactID"]]["is_committed"] = True
        return {"commitArtifact": {"artifact": {"id": sent["artifactID"], "digest": "d"}}}
