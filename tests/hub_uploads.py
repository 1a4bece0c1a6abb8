"""What the loopback hub does when somebody writes to it: the endpoints that huggingface_hub uploads by.

Sources: huggingface_hub's client, and git LFS's batch API (basic transfer).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from tests.hub_server import Hub

REPO = r"(?P<repo>(?:datasets/)?[^/]+/[^/]+)"


def git_hash(content: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Uploads:
    """What is uploaded; `refuse` maps the beginning of a request, "PUT /lfs", to the status that it gets."""

    token: str | None = None  # the one that is accepted; None: any
    refuse: dict[str, int] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # by sha256
    commits: list[list[str]] = field(
        default_factory=list
    )  # of each commit, the files it wrote and removed (-)
    foreign: set[str] = field(default_factory=set)  # owners that the token does not write for

    def refusal(self, method: str, path: str, authorization: str | None) -> int | None:
        """The status of a request that is refused; reading is allowed without a token."""
        if self.token and authorization not in (None, f"Bearer {self.token}"):
            return 401
        return next(
            (code for start, code in self.refuse.items() if f"{method} {path}".startswith(start)), None
        )

    def take(
        self, hub: Hub, method: str, path: str, body: bytes, authorization: str | None
    ) -> tuple[int, dict[str, Any]]:
        """The answer to a POST or PUT."""
        if refused := self.refusal(method, path, authorization):
            return refused, {"error": f"refused {authorization}"}  # a hub that repeats what it was sent
        if method == "PUT" and path.startswith("/lfs/"):
            assert authorization is None, "storage is not the hub: it gets no token"
            oid = hashlib.sha256(body).hexdigest()
            if path != f"/lfs/{oid}":
                return 400, {}
            self.blobs[oid] = body
            return 200, {}
        if authorization is None:
            return 401, {}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path == "/api/repos/create":
            return self._create(hub, json.loads(body))
        path = path.replace("/api/models/", "/").replace("/api/datasets/", "/datasets/")
        for pattern, answer in (
            (rf"/{REPO}/preupload/main", self._preupload),
            (rf"/{REPO}\.git/info/lfs/objects/batch", self._batch),
            (rf"/{REPO}/commit/main", self._commit),
        ):
            if found := re.fullmatch(pattern, path):
                if found["repo"] not in hub.repos:
                    return 404, {}
                return answer(hub, found["repo"], body)
        return 404, {}

    def _validate(self, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """As the hub: YAML between lines of ---, and a licence that is not of its list has a name."""
        data = yaml.safe_load(said["content"].split("---\n")[1])
        if not isinstance(data.get("license"), str) or (
            data["license"] == "other" and not data.get("license_name")
        ):
            return 400, {"errors": [{"message": '"license" is required'}], "warnings": []}
        return 200, {"errors": [], "warnings": [{"message": "a warning"}]}

    def _create(self, hub: Hub, said: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        from tests.hub_server import Repo

        if said["organization"] in self.foreign:
            return 403, {}
        prefix = "datasets/" if said.get("type") == "dataset" else ""
        name = f"{prefix}{said['organization']}/{said['name']}"
        if name in hub.repos:
            return 409, {"url": f"{hub.endpoint}/{name}"}
        private = said.get("visibility") == "private"
        hub.repos[name] = Repo("0" * 40, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        return 200, {"url": f"{hub.endpoint}/{name}", "name": name}

    def _preupload(self, hub: Hub, repo: str, body: bytes) -> tuple[int, dict[str, Any]]:
        from tests.hub_server import LARGE

        modes = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith(LARGE)
            there = hub.repos[repo].files.get(file["path"])
            oid = hashlib.sha256(there).hexdigest() if large and there else there and git_hash(there)
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            modes.append({"path": file["path"], **mode, **({"oid": oid} if oid else {})})
        return 200, {"files": modes}

    def _batch(self, hub: Hub, repo: str, body: bytes) -> tuple[int, dict[str, Any]]:
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{hub.endpoint}/lfs/{wanted['oid']}", "header": {}}}
            new = wanted["oid"] not in self.blobs
            objects.append(wanted | ({"actions": upload} if new else {}))
        return 200, {"transfer": "basic", "objects": objects}

    def _commit(self, hub: Hub, repo: str, body: bytes) -> tuple[int, dict[str, Any]]:
        target = hub.repos[repo]
        files, touched = dict(target.files), []
        for line in body.decode().splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                if value.get("parentCommit", target.commit) != target.commit:
                    return 412, {}
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                touched.append(value["path"])
            elif key == "lfsFile":
                if value["oid"] not in self.blobs:
                    return 400, {}
                files[value["path"]] = self.blobs[value["oid"]]
                touched.append(value["path"])
            elif key == "deletedFile":
                del files[value["path"]]
                touched.append(f"-{value['path']}")
        target.files = files
        target.commit = hashlib.sha1(body).hexdigest()
        self.commits.append(touched)
        return 200, {"commitUrl": f"{hub.endpoint}/{repo}/commit/{target.commit}", "commitOid": target.commit}
