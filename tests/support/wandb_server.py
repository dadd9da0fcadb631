"""A Weights & Biases server on loopback that the real client talks to; it keeps what a test asks for.

It knows runs with their history, summary, config and files, resuming, artifacts (equal content is one version), saved
views and chart presets. Unknown questions get an error and are listed in ``unknown``.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

ENTITY = "me"
VERSIONS = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None, "features": []}


@dataclass
class StoredRun:
    """What the server has of a run."""

    name: str
    project: str
    meta: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    writes: list[int] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    exit: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines in order."""
        return [json.loads(self.lines[offset]) for offset in sorted(self.lines)]

    @property
    def config(self) -> dict[str, Any]:
        """The settings, without those of W&B."""
        content = json.loads(self.meta.get("config") or "{}")
        return {key: one["value"] for key, one in content.items() if not key.startswith("_")}


@dataclass
class StoredArtifact:
    """One version of an artifact."""

    id: str
    name: str
    kind: str
    digest: str
    metadata: dict[str, Any]
    run: str
    uses: list[str] = field(default_factory=list)
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


class Server:
    """The state, and how it answers; one lock for all."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: dict[str, StoredArtifact] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.charts: list[dict[str, Any]] = []
        self.unknown: list[str] = []
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self.url = ""

    def run(self, name: str, project: str) -> StoredRun:
        return self.runs.setdefault(name, StoredRun(name, project))

    # questions of the client --------------------------------------------------------------------------------------

    def answer(self, operation: str, query: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The data of a GraphQL question; ``None`` if it is not known."""
        self.asked.append(operation)
        known: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self, f"on_{operation.lower()}", None)
        if known is not None:
            return known(given)
        if "serverInfo" in query and "viewer" not in query:
            return {"serverInfo": VERSIONS}
        return None

    def on_viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        nothing: dict[str, Any] = {"edges": []}
        viewer = {"id": "user", "entity": ENTITY, "username": ENTITY, "email": "a@b.c", "admin": False, "flags": "{}"}
        viewer |= {"teams": nothing, "apiKeys": nothing, "defaultEntity": {"name": ENTITY}, "capabilities": []}
        return {"viewer": viewer, "serverInfo": VERSIONS}

    on_getdefaultentity = on_viewer

    def on_upsertbucket(self, given: dict[str, Any]) -> dict[str, Any]:
        name, project = given["name"], given.get("project") or "uncategorized"
        new = name not in self.runs
        run = self.run(name, project)
        wanted = ("displayName", "groupName", "jobType", "tags", "config", "summaryMetrics", "state", "notes", "sweep")
        run.meta |= {key: given[key] for key in wanted if given.get(key) is not None}
        place = {"id": "project", "name": project, "entity": {"id": "entity", "name": ENTITY}}
        bucket = {"id": gid(f"Run:v1:{name}:{project}:{ENTITY}"), "name": name, "description": None}
        bucket |= {"displayName": run.meta.get("displayName") or name, "config": run.meta.get("config", "{}")}
        bucket |= {"sweepName": None, "historyLineCount": len(run.lines), "project": place}
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def on_runresumestatus(self, given: dict[str, Any]) -> dict[str, Any]:
        model: dict[str, Any] = {"id": "project", "name": given["project"], "entity": {"id": "entity", "name": ENTITY}}
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": {**model, "bucket": None}}
        tail = [run.lines[offset] for offset in sorted(run.lines)][-1:]
        bucket = {"id": "run", "name": run.name, "displayName": run.meta.get("displayName"), "notes": None}
        bucket |= {"summaryMetrics": json.dumps(run.summary), "config": run.meta.get("config", "{}")}
        bucket |= {"historyLineCount": len(run.lines), "historyTail": json.dumps(tail), "eventsLineCount": 0}
        bucket |= {"eventsTail": "[]", "logLineCount": 0, "sweepName": None, "tags": run.meta.get("tags") or []}
        return {"model": {**model, "bucket": {**bucket, "wandbConfig": json.dumps({"t": 1})}}}

    def on_createrunfiles(self, given: dict[str, Any]) -> dict[str, Any]:
        place = f"{self.url}/storage/run/{given['run']}?file="
        files = [{"name": name, "uploadUrl": place + quote(name)} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    # artifacts ----------------------------------------------------------------------------------------------------

    def on_createartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        name, digest = (
            given["artifactCollectionNames"][0]
            if given.get("artifactCollectionNames")
            else given["artifactCollectionName"],
            given["digest"],
        )
        found = next((one for one in self.artifacts.values() if (one.name, one.digest) == (name, digest)), None)
        if found is None:
            metadata = json.loads(given.get("metadata") or "{}")
            new = f"artifact{len(self.artifacts) + 1}"
            found = StoredArtifact(new, name, given["artifactTypeName"], digest, metadata, given.get("runName") or "")
            self.artifacts[found.id] = found
        latest = {"id": found.id, "versionIndex": 0} if found.state == "COMMITTED" else None
        sequence = {"id": f"sequence-{found.name}", "latestArtifact": latest}
        return {"createArtifact": {"artifact": {"id": found.id, "state": found.state, "artifactSequence": sequence}}}

    def on_createartifactmanifest(self, given: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/storage/artifact/{given['artifactID']}?file=wandb_manifest.json"
        file = {"id": "file", "name": "wandb_manifest.json", "displayName": "manifest", "uploadUrl": url}
        return {
            "createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": {**file, "uploadHeaders": []}}}
        }

    def on_createartifactfiles(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for one in given["artifactFiles"]:
            url = f"{self.url}/storage/artifact/{one['artifactID']}?file={quote(one['name'])}"
            node = {"id": "file", "name": one["name"], "displayName": one["name"], "storagePath": "path"}
            node |= {"uploadUrl": url, "uploadHeaders": [], "uploadMultipartUrls": None}
            edges.append({"node": {**node, "artifact": {"id": one["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_updateartifactmanifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": {"id": "manifest", "file": None}}}

    def on_commitartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self.artifacts[given["artifactID"]]
        found.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": found.id, "digest": found.digest}}}

    def on_useartifact(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self.artifacts[given["artifactID"]]
        name = given.get("runName") or ""
        if name not in found.uses:
            found.uses.append(name)
        return {"useArtifact": {"artifact": {"id": found.id}}}

    def on_artifacttype(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"].split(":")[0]
        found = next((one for one in self.artifacts.values() if one.name == name), None)
        return {"project": {"artifact": found and {"artifactType": {"name": found.kind}}}}

    def on_artifactbyid(self, given: dict[str, Any]) -> dict[str, Any]:
        found = self.artifacts[given["id"]]
        place = {"id": "project", "internalId": "1", "name": "studies", "entity": {"id": "entity", "name": ENTITY}}
        sequence = {"__typename": "ArtifactSequence", "name": found.name, "project": place}
        answer = {"__typename": "Artifact", "id": found.id, "artifactSequence": sequence, "versionIndex": 0}
        answer |= {"artifactType": {"name": found.kind}, "metadata": json.dumps(found.metadata), "tags": []}
        answer |= dict.fromkeys(("description", "historyStep", "updatedAt"))
        answer |= {
            "ttlDurationSeconds": -1,
            "ttlIsInherited": False,
            "state": found.state,
            "size": 1,
            "digest": found.digest,
            "commitHash": "c",
        }
        answer |= {"fileCount": len(found.files), "createdAt": "2026-01-01T00:00:00Z", "aliases": []}
        return {"artifact": answer}

    # projects and views -------------------------------------------------------------------------------------------

    def on_projectinternalid(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "project", "internalId": gid("ProjectInternalId:1")}}

    def on_getprojects(self, given: dict[str, Any]) -> dict[str, Any]:
        names = sorted({run.project for run in self.runs.values()}) or ["studies"]
        edges = []
        for name in names:
            node = {"id": name, "name": name, "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00Z"}
            node |= {"isBenchmark": False, "user": None, "internalId": "1", "totalRuns": len(self.runs)}
            edges.append({"node": node, "cursor": name})
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def on_upsertview(self, given: dict[str, Any]) -> dict[str, Any]:
        new = given.get("id") or gid(f"View:{len(self.views) + 1}")
        view = {"id": new, "name": given.get("name"), "displayName": given.get("displayName")}
        view |= {"type": given.get("type"), "description": given.get("description") or "", "spec": given["spec"]}
        view |= {"project": {"id": "project", "name": given["projectName"], "entityName": ENTITY}}
        view |= {"updatedAt": "2026-01-01T00:00:00", "createdAt": "2026-01-01T00:00:00"}
        self.views[new] = {**view, "user": {"name": ENTITY, "username": ENTITY}}
        return {"upsertView": {"view": self.views[new], "inserted": given.get("id") is None}}

    on_upsertview2 = on_upsertview

    def on_createcustomchart(self, given: dict[str, Any]) -> dict[str, Any]:
        self.charts.append({"name": given["chartName"], "entity": given["entity"], "spec": json.loads(given["spec"])})
        return {"createCustomChart": {"chart": {"id": f"{given['entity']}/{given['chartName']}"}}}

    def on_specificreport(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"view": self.views[given["reportId"]]}

    def on_view(self, given: dict[str, Any]) -> dict[str, Any]:
        found = [one for one in self.views.values() if one["name"] == given["viewName"]]
        edges = [{"node": one} for one in found]
        return {"project": {"allViews": {"edges": edges}}}


def gid(text: str) -> str:
    """An id as the server makes them."""
    return base64.b64encode(text.encode()).decode()


State = TypeVar("State", bound=Server)


class Handler(BaseHTTPRequestHandler):
    """Reads requests and writes answers."""

    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send({})

    def do_PUT(self) -> None:
        body, place = self._body(), urlsplit(self.path)
        _, _, kind, owner = place.path.split("/", 3)
        name = parse_qs(place.query)["file"][0]
        with self.state.lock:
            files = self.state.artifacts[owner].files if kind == "artifact" else self.state.runs[owner].files
            files[name] = body
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/graphql"):
            self._graphql(json.loads(body))
            return
        match = re.match(r"/files/[^/]+/([^/]+)/([^/]+)/file_stream", self.path)
        if match:
            with self.state.lock:
                self._stream(self.state.run(match[2], match[1]), json.loads(body))
            self._send({"exitcode": None, "limits": {}})
            return
        self._send({})

    def _graphql(self, asked: dict[str, Any]) -> None:
        query = asked["query"]
        named = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = asked.get("operationName") or (named[1] if named else "?")
        with self.state.lock:
            given = asked.get("variables") or {}
            data = self.state.answer(operation, query, given.get("input") or given)
            if data is None:
                self.state.unknown.append(f"{operation}: {' '.join(query.split())[:1500]}")
        self._send({"data": data} if data is not None else {"errors": [{"message": f"unknown {operation}"}]},
                   200 if data is not None else 400)  # fmt: skip

    @staticmethod
    def _stream(run: StoredRun, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                for position, line in enumerate(part["content"]):
                    run.lines[part["offset"] + position] = line
                    run.writes.append(part["offset"] + position)
            elif name == "wandb-summary.json":
                for line in part["content"]:
                    run.summary.update(json.loads(line))
        if sent.get("complete"):
            run.exit = sent.get("exitcode")

    def _body(self) -> bytes:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, content: Any, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that go away, as killed ones do."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def running_server(make: Callable[[], State] = Server) -> Iterator[State]:
    """A server on a free port until the end of the block; ``make`` makes one that knows more."""
    state = make()
    handler = type("BoundHandler", (Handler,), {"state": state})
    server = QuietServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(server: Server, folder: str) -> dict[str, str]:
    """The variables with which a client finds the server, and nothing of the user's."""
    return {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "local" + "0" * 35,
        "WANDB_MODE": "online",
        "WANDB_DIR": folder,
        "WANDB_CACHE_DIR": f"{folder}/cache",
        "WANDB_DATA_DIR": f"{folder}/data",
        "WANDB_CONFIG_DIR": f"{folder}/config",
        "WANDB_SILENT": "true",
    }
