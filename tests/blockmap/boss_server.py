"""A server on this machine that speaks version 1 of the protocol of a BOSS.

It answers as the real one does where a client can tell: a frame for each experiment, sizes checked
in voxels of the frame, 500 MB to a cut-out, zeros that overwrite nothing unless they are asked for
(`to_black`), and errors as JSON.
"""

import json
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import blosc
import numpy as np

MOST_BYTES = 500 * 1024**2
_CUTOUT = re.compile(
    r"/v1/cutout/(?P<black>to_black/)?(?P<channel>[\w-]+/[\w-]+/[\w-]+)/(?P<level>\d)"
    r"/(?P<x>\d+:\d+)/(?P<y>\d+:\d+)/(?P<z>\d+:\d+)/"
)
_COLLECTION = re.compile(
    r"/v1/collection/(?:(?P<collection>[\w-]+)?/)?"
    r"(?:experiment/(?:(?P<experiment>[\w-]+)/?)?)?(?:(?P<channels>channel)/(?P<channel>[\w-]+)?)?"
)


@dataclass
class Channel:
    """Voxels at each level, and what is told of them."""

    levels: list[np.ndarray]  # (z, y, x); of the frame from its start
    start: tuple[int, int, int]
    told: dict[str, Any]


@dataclass
class Fault:
    """What is done to some of the next requests instead of what they ask."""

    path: str
    status: int = 200
    times: int = 1
    seconds: float = 0.0
    body: bytes | None = None
    hang_up: bool = False  # in the middle of the answer


@dataclass
class BossServer:
    """A server and what is in it; runs within a `with` statement.

    Its state may be changed while it runs.
    """

    token: str = "3f6bd8a1c0ffee5ea1edd15ea5ed0123456789ab"
    certificate: Path | None = None  # with its key; if there is one, the server speaks https
    channels: dict[str, Channel] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: dict[str, dict[str, Any]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "GET /v1/..."

    def add(
        self,
        name: str,
        *levels: np.ndarray,
        start: tuple[int, int, int] = (0, 0, 0),
        voxel_size: tuple[float, float, float] = (40, 4, 4),
        hierarchy: str = "anisotropic",
        **told: Any,
    ) -> np.ndarray:
        """Add ``collection/experiment/channel``; returns its voxels, which writing changes."""
        collection, experiment, channel = name.split("/")
        ends = {"z": 0, "y": 1, "x": 2}
        frame = {f"{axis}_start": start[i] for axis, i in ends.items()}
        frame |= {f"{axis}_stop": start[i] + levels[0].shape[i] for axis, i in ends.items()}
        frame |= {f"{axis}_voxel_size": voxel_size[i] for axis, i in ends.items()}
        self.frames[f"frame_of_{experiment}"] = {
            "name": f"frame_of_{experiment}",
            "description": "",
            "voxel_unit": "nanometers",
            **frame,
        }
        self.experiments[f"{collection}/{experiment}"] = {
            "name": experiment,
            "description": "",
            "creator": "me",
            "coord_frame": f"frame_of_{experiment}",
            "num_hierarchy_levels": len(levels),
            "hierarchy_method": hierarchy,
            "num_time_samples": 1,
            "time_step": None,
            "time_step_unit": "",
        }
        about = {
            "name": channel,
            "description": "",
            "creator": "me",
            "default_time_sample": 0,
            "base_resolution": 0,
            "datatype": str(levels[0].dtype),
            "type": "image",
            "sources": [],
            "related": [],
            "downsample_status": "DOWNSAMPLED",
            "storage_type": "spdb",
        }
        self.channels[name] = Channel(list(levels), start, {**about, **told})
        return levels[0]

    def fail(self, path: str, status: int, times: int = 1, body: bytes | None = None) -> None:
        """Answer the next requests whose line has this path with a status."""
        self.faults.append(Fault(path, status, times, body=body))

    def delay(self, path: str, seconds: float, times: int = 1) -> None:
        """Let the next requests whose line has this path wait."""
        self.faults.append(Fault(path, times=times, seconds=seconds))

    def hang_up(self, path: str) -> None:
        """Break off in the middle of the next answer whose line has this path."""
        self.faults.append(Fault(path, hang_up=True))

    def cutouts(self, method: str = "GET") -> list[str]:
        """Return the paths of all cut-outs that were asked for."""
        return [each.split(" ")[1] for each in self.requests if f"{method} /v1/cutout" in each]

    @property
    def host(self) -> str:
        """Name and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"boss": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Refusal(Exception):  # noqa: N818
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.answer = {"status": status, "code": code, "message": message}


class _Handler(BaseHTTPRequestHandler):
    boss: BossServer
    protocol_version = "HTTP/1.1"  # which keeps connections
    disable_nagle_algorithm = True  # else each answer waits 40 ms after its headers

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.boss.requests.append(f"{self.command} {self.path}")
        fault = self._find_fault()
        if fault:
            time.sleep(fault.seconds)
        if fault and (fault.status != 200 or fault.body is not None):
            return self._send(fault.status, fault.body or {"message": "injected"})
        try:
            status, answer = self._find_answer(body)
        except _Refusal as refusal:
            status, answer = refusal.status, refusal.answer
        self._send(status, answer, bool(fault and fault.hang_up))

    do_GET = do_POST = do_PUT = _answer  # noqa: N815

    def _find_fault(self) -> Fault | None:
        line = f"{self.command} {self.path}"
        for fault in self.boss.faults:
            if fault.path in line and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _send(self, status: int, answer: bytes | dict[str, Any], hang_up: bool = False) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if hang_up else body)
            self.close_connection |= hang_up
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked waits no more

    def _find_answer(self, body: bytes) -> tuple[int, bytes | dict[str, Any]]:
        if self.headers.get("Authorization") not in (f"Token {self.boss.token}", "Token public"):
            refusal = _Refusal(401, 0, "")
            refusal.answer = {"detail": "Invalid token."}
            raise refusal
        path = self.path.partition("?")[0]
        if found := _CUTOUT.fullmatch(path):
            return self._cut(found, body)
        if found := re.fullmatch(r"/v1/coord/([\w-]+)", path):
            return 200, _get(self.boss.frames, found[1], "Coordinate frame")
        if found := _COLLECTION.fullmatch(path):
            return 200, self._tell(found)
        raise _Refusal(404, 1000, f"No such path: {path}")

    def _tell(self, found: re.Match[str]) -> dict[str, Any]:
        boss, (collection, experiment, _, channel) = self.boss, found.groups()
        if collection is None:
            return {"collections": sorted({each.split("/")[0] for each in boss.experiments})}
        if experiment is None:
            names = [
                each.split("/")[1] for each in boss.experiments if each.startswith(f"{collection}/")
            ]
            if not names:
                raise _Refusal(404, 4000, f"Collection {collection} not found")
            return {"experiments": names}
        about = _get(boss.experiments, f"{collection}/{experiment}", "Experiment")
        if found["channels"] is None:
            return about
        if channel is None:
            start = f"{collection}/{experiment}/"
            return {
                "channels": [each.split("/")[2] for each in boss.channels if each.startswith(start)]
            }
        name = f"{collection}/{experiment}/{channel}"
        self._check_permission(name)
        return _get(boss.channels, name, "Channel").told

    def _check_permission(self, name: str) -> None:
        is_public = self.headers["Authorization"] == "Token public"
        if name in self.boss.private or (is_public and self.command != "GET"):
            raise _Refusal(403, 3001, f"No permission on {name}")

    def _cut(self, found: re.Match[str], body: bytes) -> tuple[int, bytes | dict[str, Any]]:
        self._check_permission(found["channel"])
        channel = _get(self.boss.channels, found["channel"], "Channel")
        level = int(found["level"])
        if level >= len(channel.levels):
            raise _Refusal(400, 1002, f"Invalid resolution {level}.")
        voxels, first = channel.levels[level], channel.levels[0]
        box = [tuple(map(int, found[axis].split(":"))) for axis in "zyx"]
        for (start, stop), origin, size in zip(box, channel.start, first.shape, strict=True):
            if not origin <= start < stop <= origin + size:
                raise _Refusal(400, 1001, f"Incorrect cutout arguments {self.path}")
        sizes = [stop - start for start, stop in box]
        # A quarter of uint64, as the real one has it.
        if np.prod(sizes) * min(voxels.itemsize, 2) > MOST_BYTES:
            raise _Refusal(413, 2000, "Cutout request is over 500MB when uncompressed.")
        origins = [
            start // round(full / size)
            for start, full, size in zip(channel.start, first.shape, voxels.shape, strict=True)
        ]
        place = tuple(
            slice(start - origin, stop - origin)
            for (start, stop), origin in zip(box, origins, strict=True)
        )
        return self._read_or_write(found, voxels[place], sizes, body)

    def _read_or_write(
        self, found: re.Match[str], region: np.ndarray, sizes: list[int], body: bytes
    ) -> tuple[int, bytes | dict[str, Any]]:
        if found["black"] and self.command == "PUT":
            region[...] = 0
            return 200, {}
        if self.command == "GET":
            cut = np.zeros(sizes, region.dtype)  # a level may end before its frame does
            cut[tuple(map(slice, region.shape))] = region
            return 200, blosc.compress(cut, typesize=8 * cut.itemsize)
        data = np.frombuffer(blosc.decompress(body), region.dtype)
        if data.size != region.size:
            raise _Refusal(400, 2002, "Failed to unpack data. Verify the datatype.")
        data = data.reshape(sizes)
        np.copyto(region, data, where=data != 0)
        return 201, {}


def _get(known: dict[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise _Refusal(404, 4000, f"{what} {name} not found")
    return known[name]
