"""What a stranger may send to the page, checked before anything of it is opened. Knows Gradio's doors, no job.

Gradio itself keeps requests out of the server's files. It does fetch addresses that stand in a request, cuts videos for
whoever asks, takes bodies of any size, and tells callers what went wrong inside; a page for strangers does none of it.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import JSONResponse

from .common import sentence_of, unexpected
from .words import answer_to, translated

UPLOAD_BYTES = 25 * 2**20  # of a file
BODY_BYTES = 2**20  # of anything else that is sent: text, settings, 3,000 codes
_ROOM = 2**16  # for the frame of an upload
_MAX_DEPTH = 50  # of lists and objects in a request
_UPLOAD = re.compile(r"/gradio_api/upload/?$")
# Doors of Gradio that no part of this page uses: other servers' files, video cutting, copies of a visitor's page.
_CLOSED = re.compile(r"/gradio_api/(file[=/]\w+:/|proxy=|process_recording|deep_link|vibe)|/monitoring")
_OWN_FILE = re.compile(r"https?://[^/]+(?:/[^?#]*)?/gradio_api/file=(.+)")
MISFIT = "What was sent does not fit this endpoint. 'Use via API' at the foot of the page says what does."


class Page(gr.Blocks):
    """Blocks that open nothing a request names but what was uploaded, and tell callers sentences only, visitors in
    their language."""

    async def process_api(self, block_fn, *args, request=None, **more):
        by_the_page = getattr(block_fn, "api_visibility", None) == "private"  # the endpoints are for programs
        answer_to(request if by_the_page else None)
        try:
            return await super().process_api(block_fn, *args, request=request, **more)
        except gr.Error as error:
            error.message = translated(error.message)
            raise
        except Exception as error:
            raise unexpected() from error

    async def preprocess_data(self, block_fn, inputs, *args, **more):
        try:
            return await super().preprocess_data(block_fn, _uploads_only(inputs), *args, **more)
        except Exception as error:  # whatever junk makes of components and their data models
            told = MISFIT
            if isinstance(error, gr.Error):
                told = error.message
            elif isinstance(error, Refused):
                told = str(error)
            elif "not uploaded by a user" in str(error):
                told = "A file was named that was not uploaded by a user of this page. Upload it first."
            raise gr.Error(sentence_of(told), print_exception=False) from error

    @property
    def mcp_server_obj(self):
        return self._mcp

    @mcp_server_obj.setter  # which Gradio does with `mcp_server=True`
    def mcp_server_obj(self, server):
        """A clip that stands in an MCP call is written to the cache, and Gradio does not know of it when it cleans."""
        self._mcp = server
        if server is None:
            return
        convert = server.convert_strings_to_filedata

        def noted(given, places):
            found = convert(given, places)
            for name, value in given.items():  # no path that a caller names: what Gradio itself made of a text
                if isinstance(value, str) and isinstance(found[name], dict) and value.startswith("data:"):
                    self.upload_file_set.add(found[name]["path"])
            return found

        server.convert_strings_to_filedata = noted

    def launch(self, *args, **more):
        # a new list every time: Gradio writes into what it is given
        return super().launch(*args, app_kwargs={"middleware": [Middleware(Doors)]}, **more)


class Refused(ValueError):
    """What a request asks for in vain, in one sentence."""


def _uploads_only(value, depth: int = 0):
    """The inputs of a request; an address of a file on this page becomes its path, which Gradio checks.

    Raises:
        Refused: another address, or nested without end.
    """
    if depth > _MAX_DEPTH:
        raise Refused(f"What was sent is nested more than {_MAX_DEPTH} deep.")
    if isinstance(value, list):
        return [_uploads_only(one, depth + 1) for one in value]
    if not isinstance(value, dict):
        return value
    path = value.get("path")
    if isinstance(path, str) and re.match(r"\s*\w{2,}:", path):
        own = _OWN_FILE.fullmatch(path)
        if not own:
            raise Refused("Addresses are not opened here: upload the file instead.")
        value = value | {"path": unquote(own[1])}
    return {key: _uploads_only(one, depth + 1) for key, one in value.items()}


class Doors:
    """ASGI middleware: closes doors of Gradio the page has no use for, and refuses bodies that are too large."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        refused = _refusal(scope) if scope["type"] == "http" else None
        if refused is None:
            return await self.app(scope, receive, send)
        status, sentence = refused
        await JSONResponse({"detail": sentence}, status, {"connection": "close"})(scope, receive, send)


def _refusal(scope) -> tuple[int, str] | None:
    if _CLOSED.search(scope["path"]):
        return 403, "This door is closed."
    headers = dict(scope["headers"])
    if b"chunked" in headers.get(b"transfer-encoding", b"").lower():
        return 411, "Say how long the body is (Content-Length)."
    most = UPLOAD_BYTES + _ROOM if _UPLOAD.search(scope["path"]) else BODY_BYTES
    if int(headers.get(b"content-length") or 0) > most:
        return 413, f"The body is too large: at most {most / 2**20:.0f} MB are taken here."
    return None
