"""A stand-in for a deployment of NDIF, in a process of its own where nothing of ours can be imported.

It speaks as much of the protocol as nnsight's client uses: a websocket at /subscribe that gives a session id and then
tells how the job stands, and a POST to /request with the job. Started as `python stand_in_deployment.py FOLDER`; it
serves the one model in that folder and prints its port. The key "right" lets in; "mute" is never answered; "leaves" is
left in the middle of a job.
"""

import base64
import hashlib
import json
import queue
import sys
import threading
import uuid
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

OURS = ("workbench", "probes", "audits", "interventions", "tests")


class NothingOfOurs:
    """Importing our packages fails here as it does over there."""

    def find_spec(self, name, *_):
        if name.partition(".")[0] in OURS:
            raise ImportError(f"{name} is not on the deployment")


sys.meta_path.insert(0, NothingOfOurs())

import torch  # noqa: E402
import zstandard  # noqa: E402
from nnsight import TransformersModel  # noqa: E402
from nnsight.schema.request import RequestModel  # noqa: E402
from nnsight.schema.response import ResponseModel, Status  # noqa: E402
from nnsight.tracing import tracer as tracing  # noqa: E402

torch.set_num_threads(1)
SERVED = sys.argv[1]
MODELS: dict[str, TransformersModel] = {}
WORDS: dict[str, queue.Queue] = {}
ONE_AT_A_TIME = threading.Lock()


def answer(key: str, env: dict, blob: bytes) -> bytes:
    """Run a job and pack what it saved."""
    if key not in MODELS:
        MODELS[key] = TransformersModel.from_model_key(key, dispatch=True)
    model = MODELS[key]
    model._remoteable_set_env(env)
    trace = RequestModel.deserialize(blob, model._remoteable_persistent_objects(), compress=True)
    frame = trace.info.frame
    tracing.inc()
    try:
        with torch.no_grad():
            trace.execute(trace.info.code)
        saved = {name: value for name, value in frame.f_locals.items() if id(value) in tracing._saves()}
    finally:
        tracing.dec()
    packed = BytesIO()
    torch.save(saved, packed)
    return zstandard.ZstdCompressor().compress(packed.getvalue())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def refuse(self, code: int, detail: str) -> None:
        body = json.dumps({"detail": detail}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def frame(self, payload: bytes, opcode: int) -> None:
        size = len(payload)
        head = bytes([size]) if size < 126 else b"\x7f" + size.to_bytes(8, "big")
        self.wfile.write(bytes([0x80 | opcode]) + head + payload)
        self.wfile.flush()

    def do_GET(self):  # noqa: N802
        key = self.headers.get("ndif-api-key")
        if key not in ("right", "mute", "leaves"):
            return self.refuse(401, "invalid API key")
        token = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(token.encode()).digest()).decode())
        self.end_headers()
        session = uuid.uuid4().hex
        words = WORDS[session] = queue.Queue()
        self.frame(json.dumps({"session_id": session}).encode(), 1)
        if key == "mute":
            self.connection.settimeout(10)
            self.rfile.read(8)  # the client's own farewell
            return self.frame(b"", 8)
        while (word := words.get()) is not None:
            self.frame(word, 2 if isinstance(word, bytes) and word[:1] != b"{" else 1)
        self.close_connection = True
        return None

    def do_POST(self):  # noqa: N802
        given = self.rfile.read(int(self.headers["Content-Length"]))
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        form = BytesParser().parsebytes(head + given).get_payload()
        parts = {part.get_param("name", header="content-disposition"): part for part in form}
        request = RequestModel.model_validate_json(parts["data"].get_payload(decode=True))
        if json.loads(request.model_key.partition(":")[2])["repo_id"] != SERVED:
            WORDS[request.session_id].put(None)
            return self.refuse(404, f"{request.model_key} is not deployed")
        job = uuid.uuid4().hex
        body = ResponseModel(id=job, status=Status.RECEIVED).model_dump_json().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        words = WORDS[request.session_id]
        if self.headers["ndif-api-key"] == "leaves":
            words.put(None)
        if self.headers["ndif-api-key"] != "right":
            return None
        words.put(ResponseModel(id=job, status=Status.RUNNING).model_dump_json().encode())
        try:
            with ONE_AT_A_TIME:
                result = answer(request.model_key, request.env, parts["blob"].get_payload(decode=True))
            words.put(ResponseModel(id=job, status=Status.COMPLETED, data=result).pickle())
        except Exception as error:
            said = f"Traceback ...\n{type(error).__name__}: {error}"
            words.put(ResponseModel(id=job, status=Status.ERROR, description=said).model_dump_json().encode())
        words.put(None)
        return None


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that went away


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
