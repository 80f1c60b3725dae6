"""A process with the bundled model behind OpenAI's chat completions, on llama-cpp-python's own class. Prints its port.

Run by test_engine_conformance.py. One request at a time; enough of the interface for an engine to be tested against a true server.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llama_cpp import Llama, LlamaGrammar

from worker.bundled import bundled_model
from worker.grammar import write_grammar
from worker.json_schema import read_schema

MODEL = Llama(str(bundled_model()), n_ctx=4096, verbose=False)
LOCK = threading.Lock()
PASSED_ON = ("messages", "max_tokens", "temperature", "seed", "top_p", "min_p", "repeat_penalty", "stop")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "other"}, {"id": "smollm2", "max_model_len": 4096}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        choices = {name: request[name] for name in PASSED_ON if name in request}
        if form := request.get("response_format"):  # this class knows only an older form, and not in full
            choices["grammar"] = LlamaGrammar.from_string(write_grammar(read_schema(form["json_schema"]["schema"])), verbose=False)
        self.send_response(200)
        self.end_headers()
        with LOCK:
            stream: Any = MODEL.create_chat_completion(**choices, stream=True)
            try:
                for chunk in stream:
                    self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.write(b"data: [DONE]\n\n")
            except OSError:
                stream.close()  # nobody listens any more

    def log_message(self, *_arguments: object) -> None:
        """The tests read the standard output."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
